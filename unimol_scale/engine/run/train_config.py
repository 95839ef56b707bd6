"""Settings of the optimizer, its schedule, and how often a run validates, saves and logs. Imports no DeepSpeed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from unimol_scale.common.run_files import DECAY_FRACTION, decay_start
from unimol_scale.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how fast and how often. The defaults are the paper's (Uni-Mol2, FACTS of arXiv 2406.14969).

    Attributes:
        steps: optimizer steps.
        global_batch_size: molecules of one step over all ranks.
        learning_rate: at its peak.
        warmup_steps: of linear warm-up from zero.
        schedule: after warm-up: ``linear`` or ``cosine`` decay to zero at the last step; ``inverse_sqrt`` of the step,
            which never ends; ``constant``; or ``wsd``, which is constant and then decays to zero in the last steps.
        decay_fraction: of wsd: share of all steps in which it decays.
        decay_shape: of wsd: ``1-sqrt`` falls fast at first, ``linear`` evenly.
        beta1: of AdamW.
        beta2: of AdamW.
        weight_decay: of AdamW, and of Muon.
        optimizer: ``adamw`` for everything, or ``muon`` for the hidden matrices of the layers and AdamW for the rest:
            embeddings, norms, biases, heads. Muon's steps are scaled to the size of AdamW's (0.2·√max(rows, columns),
            arXiv 2502.16982), so that ``learning_rate`` and ``weight_decay`` are those of AdamW.
        muon_tracks: whose matrices Muon takes: the ``atom`` track's (attention, feed-forward network), the ``pair``
            track's (attention bias, outer product, triangle update, feed-forward network), or both.
        muon_momentum: of Muon, with Nesterov's look ahead.
        muon_iterations: of Newton–Schulz, which makes a step orthogonal.
        gradient_clip: largest norm of the whole gradient.
        precision: ``bf16`` with fp32 master weights, or ``fp32``.
        log_every: steps between log events.
        validate_every: steps between validations; also before the first step and after the last.
        checkpoint_every: steps between checkpoints; also after the last, and where a validation is the best so far.
        keep_checkpoints: newest checkpoints kept, beside the one with the best validation loss.
        keep_steps: steps after which a checkpoint is saved that is never deleted, so that a run can branch off there
            (``branch_from``); a finished run without a decay that names any counts as a trunk.
        keep_finished: checkpoints of a finished run, each with its optimizer states (two thirds of its size, half with
            ``ema_decay``): ``last`` keeps the last one, which ``--extend`` needs, and the best if that is another;
            ``all`` those that an unfinished run keeps; ``none`` only the model, from which ``--init`` begins a new run.
        save_in_background: copy the state to host memory and write it beside the next steps; otherwise the step loop
            waits for the disk, and no memory is needed for the copy.
        ema_decay: of a running mean of the weights, which is then validated and exported; None: there is none.
        max_skipped: steps skipped in a row, for a loss or gradient that is not finite, after which the run stops.
        spikes: what a sudden rise of the loss leads to: ``warn`` says so, ``rollback`` goes back to the newest
            checkpoint and on with the molecules after the spike, ``ignore`` nothing.
        spike_window: steps whose losses a new one is judged by.
        spike_factor: how many spreads above their median it must stand.
        max_rollbacks: rollbacks of one run after which it stops.
        rehearse: run the largest possible micro-batch before the first step, so that memory fails then or never.
        side_by_side: micro-batches that a rank computes at the same time, each on CPU threads of its own; a batch is
            cut into a multiple of as many. It needs whole weights (``zero.stage`` below 3) and a model without
            dropout. 1: one after another, with all threads in each operation. None: one for each core of a rank, up
            to 8, where that is possible and the ranks compute on CPUs; a run in the folder keeps its number.
    """

    # Earlier runs computed one micro-batch after another, and their batches are cut accordingly.
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
        for name in ("learning_rate", "gradient_clip"):
            if getattr(self, name) <= 0.0:
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
        """What moves the weights, for people."""
        return "AdamW" if self.optimizer == "adamw" else f"Muon ({self.muon_tracks}) and AdamW"

    @property
    def tracks_of_muon(self) -> tuple[Literal["atom", "pair"], ...]:
        """Tracks whose hidden matrices Muon takes; (): the run is one of AdamW alone."""
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
        """Steps after which the schedule wsd begins to decay."""
        return decay_start(self.steps, self.decay_fraction)


def _repeats(steps: Sequence[int]) -> bool:
    return len(set(steps)) < len(steps)
