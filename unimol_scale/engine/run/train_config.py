"""Settings of the optimizer, its schedule, and how often a run validates, saves and logs. Imports no DeepSpeed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from unimol_scale.common.run_files import DECAY_FRACTION, decay_start
from unimol_scale.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how fast and how often. The defaults are those of the Uni-Mol2 paper (arXiv 2406.14969).

    Attributes:
        steps: optimizer steps.
        global_batch_size: molecules per step over all ranks.
        learning_rate: peak learning rate.
        warmup_steps: steps of linear warm-up from zero.
        schedule: what follows the warm-up: ``linear`` or ``cosine`` decay to zero at the last step; ``inverse_sqrt`` of
            the step, which never ends; ``constant``; or ``wsd``, which is constant and then decays to zero in the last
            steps.
        decay_fraction: for wsd, fraction of all steps in which it decays.
        decay_shape: for wsd, ``1-sqrt`` falls fast at first, ``linear`` evenly.
        beta1: β₁ of AdamW.
        beta2: β₂ of AdamW.
        weight_decay: weight decay of AdamW and of Muon.
        optimizer: ``adamw`` for all weights, or ``muon`` for the hidden matrices of the layers and AdamW for the rest:
            embeddings, norms, biases, heads. Muon's steps are scaled to the size of AdamW's (0.2·√max(rows, columns),
            arXiv 2502.16982), so ``learning_rate`` and ``weight_decay`` carry over from AdamW.
        muon_tracks: tracks whose matrices Muon updates: ``atom`` (attention, feed-forward network), ``pair`` (attention
            bias, outer product, triangle update, feed-forward network), or both.
        muon_pair_rate: learning rate of the pair track's matrices divided by ``learning_rate``, for Muon. 1: all
            matrices have the same.
        muon_momentum: Nesterov momentum of Muon.
        muon_iterations: Newton–Schulz iterations that make a step of Muon orthogonal.
        gradient_clip: largest norm of the whole gradient.
        precision: ``bf16`` with fp32 master weights, or ``fp32``.
        log_every: steps between log events.
        validate_every: steps between validations; there is one before the first step and after the last as well.
        checkpoint_every: steps between checkpoints; there is one after the last step and after the best validation as
            well.
        keep_checkpoints: number of newest checkpoints to keep, besides the one with the best validation loss.
        keep_steps: steps whose checkpoints are never deleted, so that other runs can branch off there
            (``branch_from``). A finished run without a decay that sets this counts as a trunk.
        keep_finished: checkpoints of a finished run to keep, each with its optimizer states (two thirds of its size, or
            half with ``ema_decay``). ``last`` keeps the last one, which ``--extend`` needs, and the best one; ``all``
            keeps those that an unfinished run keeps; ``none`` keeps only the model, from which ``--init`` can start a
            new run.
        save_in_background: copy the state to host memory and write it during the next steps. Otherwise the step loop
            waits for the disk, and no memory is needed for the copy.
        ema_decay: decay of a running mean of the weights, which is then validated and exported; None: no running mean.
        max_skipped: the run stops after this many steps in a row were skipped because loss or gradient was not finite.
        spikes: reaction to a sudden rise of the loss: ``warn`` logs a warning; ``rollback`` restarts from the newest
            checkpoint and skips the molecules of the spike; ``ignore`` does nothing.
        spike_window: number of recent steps with which a new loss is compared.
        spike_factor: how many spreads above their median a loss must be to count as a spike.
        max_rollbacks: the run stops at the spike after this many rollbacks.
        rehearse: run the largest possible micro-batch before the first step, so that a lack of memory shows at once.
        side_by_side: micro-batches that a rank computes at the same time, each on its own CPU threads; a batch is cut
            into a multiple of this number. It needs whole weights (``zero.stage`` below 3) and a model without dropout.
            1: one after another, with all threads in each operation. None: one per core of a rank, up to 8, if that is
            possible and the ranks use CPUs; a resumed run keeps its number.
        cuda_graphs: record forward and backward pass of each shape of a micro-batch as a CUDA graph and replay it, so
            that the host no longer limits small micro-batches. Needs an NVIDIA GPU, ``data.buckets``, whole weights
            (``zero.stage`` below 3), memory for two more copies of the gradients, and no recomputed layers.
    """

    # Earlier runs computed one micro-batch after another, and their batches were cut accordingly.
    FORMER_DEFAULTS: ClassVar[Mapping[str, Any]] = {"side_by_side": 1}

    steps: int = 810_000
    global_batch_size: int = 1024
    learning_rate: float = 1e-4
    warmup_steps: int = 100_000
    schedule: Literal["linear", "cosine", "inverse_sqrt", "constant", "wsd"] = "linear"
    decay_fraction: float = DECAY_FRACTION
    decay_shape: Literal["linear", "1-sqrt"] = "1-sqrt"
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 1e-4
    optimizer: Literal["adamw", "muon"] = "adamw"
    muon_tracks: Literal["atom+pair", "atom", "pair"] = "atom+pair"
    muon_pair_rate: float = 1.0
    muon_momentum: float = 0.95
    muon_iterations: int = 5
    gradient_clip: float = 1.0
    precision: Literal["bf16", "fp32"] = "bf16"
    log_every: int = 10
    validate_every: int = 10_000
    checkpoint_every: int = 1_000
    keep_checkpoints: int = 3
    keep_steps: tuple[int, ...] = ()
    keep_finished: Literal["all", "last", "none"] = "last"
    save_in_background: bool = True
    ema_decay: float | None = None
    max_skipped: int = 10
    spikes: Literal["ignore", "warn", "rollback"] = "warn"
    spike_window: int = 128
    spike_factor: float = 10.0
    max_rollbacks: int = 5
    rehearse: bool = True
    side_by_side: int | None = None
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "global_batch_size",
            "log_every",
            "validate_every",
            "checkpoint_every",
            "keep_checkpoints",
            "max_skipped",
            "muon_iterations",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name} must be at least 1, got {getattr(self, name)}")
        if self.side_by_side is not None and self.side_by_side < 1:
            raise ConfigError(f"train.side_by_side must be at least 1, got {self.side_by_side}")
        for name in ("learning_rate", "gradient_clip", "muon_pair_rate"):
            if not getattr(self, name) > 0.0:
                raise ConfigError(f"train.{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.warmup_steps <= self.steps:
            raise ConfigError(
                f"train.warmup_steps {self.warmup_steps} must be between 0 and train.steps {self.steps}; "
                f"a short run needs a short warm-up, such as train.warmup_steps={self.steps // 10}"
            )
        self._check_decay()
        self._check_choices()
        for name in ("beta1", "beta2", "muon_momentum"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"train.{name} must be in [0, 1), got {getattr(self, name)}")
        for name in ("weight_decay", "max_rollbacks"):
            if getattr(self, name) < 0:
                raise ConfigError(f"train.{name} must not be negative, got {getattr(self, name)}")
        if self.ema_decay is not None and not 0.0 < self.ema_decay < 1.0:
            raise ConfigError(f"train.ema_decay must be between 0 and 1, got {self.ema_decay}")

    @property
    def optimizers(self) -> str:
        """Names of the optimizers, for messages."""
        if self.optimizer == "adamw":
            return "AdamW"
        pair = "" if self.muon_pair_rate == 1.0 else f", pair rate × {self.muon_pair_rate:g}"
        return f"Muon ({self.muon_tracks}{pair}) and AdamW"

    @property
    def tracks_of_muon(self) -> tuple[Literal["atom", "pair"], ...]:
        """Tracks whose hidden matrices Muon updates; () if the run uses AdamW only."""
        chosen: tuple[Literal["atom", "pair"], ...] = ("atom", "pair")
        return tuple(track for track in chosen if self.optimizer == "muon" and track in self.muon_tracks)

    def _check_choices(self) -> None:
        if any(not 1 <= step <= self.steps for step in self.keep_steps) or _repeats(self.keep_steps):
            raise ConfigError(
                f"train.keep_steps must be steps of the run, from 1 to train.steps {self.steps} and without repeats, "
                f"got {list(self.keep_steps)}"
            )
        if self.optimizer != "muon" and self.muon_tracks != "atom+pair":
            raise ConfigError(f"train.muon_tracks={self.muon_tracks} needs train.optimizer=muon, not {self.optimizer}")
        if self.muon_pair_rate != 1.0 and "pair" not in self.tracks_of_muon:
            raise ConfigError(
                f"train.muon_pair_rate={self.muon_pair_rate:g} needs train.optimizer=muon, and train.muon_tracks with "
                "the pair track"
            )

    def _check_decay(self) -> None:
        if not 0.0 < self.decay_fraction <= 1.0:
            raise ConfigError(f"train.decay_fraction must be above 0 and at most 1, got {self.decay_fraction}")
        if self.schedule == "wsd" and self.decay_start < self.warmup_steps:
            raise ConfigError(
                f"train.warmup_steps {self.warmup_steps} and a decay from step {self.decay_start} on overlap "
                f"(train.steps {self.steps}, train.decay_fraction {self.decay_fraction}); shorten one of them"
            )

    @property
    def decay_start(self) -> int:
        """Step after which the schedule wsd starts to decay."""
        return decay_start(self.steps, self.decay_fraction)


def _repeats(steps: Sequence[int]) -> bool:
    return len(set(steps)) < len(steps)
