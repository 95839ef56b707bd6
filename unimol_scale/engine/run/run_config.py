"""All settings of a pretraining run, resolved from size, files and the command line. Imports no DeepSpeed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from unimol_scale.common.plugins import is_reference, must_be_named
from unimol_scale.common.run_files import CONFIG_NAME
from unimol_scale.common.text.json_files import hash_json
from unimol_scale.common.trees import Tree, flatten, merge, nested
from unimol_scale.config import Origin, build, read_yaml, recorded_defaults_of, to_tree
from unimol_scale.data.dataset import DataConfig
from unimol_scale.engine.log.registry import DEFAULT_SINKS, OPTIONAL, SINKS
from unimol_scale.engine.run.train_config import TrainConfig
from unimol_scale.errors import ConfigError, StoreError
from unimol_scale.former_settings import settings_kept
from unimol_scale.model.presets import DROPOUTS, ModelConfig, preset
from unimol_scale.objectives.config import ObjectiveConfig, with_own_settings
from unimol_scale.objectives.registry import OBJECTIVES
from unimol_scale.store.manifest import MANIFEST_NAME
from unimol_scale.store.remote import is_url

# Setting or group of settings → where its value comes from if it is not given.
GIVEN_SETTINGS = {
    "size": "set by --size",
    "model": "set by --size",
    "output": "default: runs/SIZE-OBJECTIVE-seedN",
    "data.path": "default: the one store under data/",
}
Stage = Literal[0, 1, 2, 3]
STAGES: tuple[Stage, ...] = (0, 1, 2, 3)
STORE_HINT = "unimol-scale build --source sample makes one"


@dataclass(frozen=True, kw_only=True)
class ZeroConfig:
    """How DeepSpeed shares the model among ranks.

    Attributes:
        stage: 0 shares nothing, 1 the optimizer states, 2 also the gradients, 3 also the weights. None: 1 on GPUs where
            weights and gradients fit beside a micro-batch of ``data.max_pairs``, otherwise 3; a resumed run keeps its
            stage.
        config: a JSON file of DeepSpeed settings laid over the ones made from this configuration.
        timeout_minutes: minutes that a rank waits for the others before it fails; must be long enough for a slow file
            system.
    """

    # Earlier runs were at stage 3 unless they set another one.
    FORMER_DEFAULTS: ClassVar[Mapping[str, Any]] = {"stage": 3}

    stage: Stage | None = None
    config: Path | None = None
    timeout_minutes: float = 30.0

    def __post_init__(self) -> None:
        if self.timeout_minutes <= 0.0:
            raise ConfigError(f"zero.timeout_minutes must be positive, got {self.timeout_minutes}")

    @property
    def stage_used(self) -> Stage:
        """``stage``, or the one that is used where none is chosen."""
        return 3 if self.stage is None else self.stage


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Where a run logs to.

    Attributes:
        sinks: names of the logs. ``jsonl`` is metrics.jsonl, which is always written; ``tensorboard`` writes the folder
            of that name; ``wandb`` and ``mlflow`` are those services, whose own environment variables say where to send
            (each needs the extra of its name); ``package.module:Name`` is a sink of your own.
    """

    sinks: tuple[str, ...] = DEFAULT_SINKS

    def __post_init__(self) -> None:
        for name in self.sinks:
            SINKS.check(name, "log.sinks")
        if len(set(self.sinks)) < len(self.sinks):
            raise ConfigError(f"log.sinks: a name occurs twice in {', '.join(self.sinks)}")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """All settings of a run; ``config.yaml`` of a run folder holds them, resolved.

    Attributes:
        size: name of the preset that ``model`` started from.
        output: folder of the run.
        seed: seed of initialisation, order and corruption.
        init: model, run or checkpoint from whose weights the run starts, with a new optimizer at step 0; None: random
            weights.
        init_sha256: hash of those weights; filled in when the run starts.
        branch_from: a run that equals this one up to the step at which this one, with the schedule wsd, starts to
            decay. The run continues from that run's checkpoint of that step, which is needed until this run has a
            checkpoint of its own. None: the run does all its steps itself.
        extended_from: number of steps of the run before ``--extend``; None: it was never extended.
        model: dimensions and options of the Transformer.
        data: store and batches.
        objective: what is learnt.
        train: optimizer and schedule.
        zero: DeepSpeed.
        log: where the run logs to.
    """

    size: str
    output: Path
    data: DataConfig
    model: ModelConfig
    seed: int = 0
    init: Path | None = None
    init_sha256: str | None = None
    branch_from: Path | None = None
    extended_from: int | None = None
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    zero: ZeroConfig = field(default_factory=ZeroConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        if self.init_sha256 is not None and self.init is None:
            raise ConfigError("init_sha256 is given without init")
        if self.extended_from is not None and self.extended_from < 1:
            raise ConfigError(f"extended_from must be at least 1, got {self.extended_from}")
        if self.branch_from is not None:
            self._check_branch()
        self._check_side_by_side()
        self._check_graphs()

    def _check_side_by_side(self) -> None:
        at_once = self.train.side_by_side or 1
        if at_once > 1 and self.zero.stage_used == 3:
            raise ConfigError(
                f"train.side_by_side {at_once} needs whole weights on every rank; set zero.stage to 0, 1 or 2, or "
                "train.side_by_side to 1"
            )
        if at_once > 1 and self.model.has_dropout:
            raise ConfigError(
                f"train.side_by_side {at_once} needs a model without dropout, because its random numbers would depend "
                f"on thread timing; set train.side_by_side to 1, or {', '.join(f'model.{name}' for name in DROPOUTS)} "
                "to 0"
            )

    def _check_graphs(self) -> None:
        if not self.train.cuda_graphs:
            return
        wrong = {
            "data.buckets=true, because every shape of a micro-batch has a graph of its own": not self.data.buckets,
            "whole weights on every rank: zero.stage 0, 1 or 2": self.zero.stage == 3,
            "train.side_by_side=1": (self.train.side_by_side or 1) > 1,
            "model.checkpoint_every=0, because recomputing resets torch's generators": self.model.checkpoint_every > 0,
        }
        if needs := [need for need, missing in wrong.items() if missing]:
            raise ConfigError(f"train.cuda_graphs needs {'; and '.join(needs)}")

    def _check_branch(self) -> None:
        if self.train.schedule != "wsd":
            raise ConfigError(
                "branch_from continues another run from the step at which this one starts to decay, which needs "
                f"train.schedule=wsd; got {self.train.schedule}"
            )
        if self.train.decay_start < 1:
            raise ConfigError(
                "branch_from: this run decays from its first step, so there is nothing to branch off from"
            )
        if str(self.branch_from) == str(self.output):
            raise ConfigError(f"branch_from: {self.output} is the run's own folder; name that of the trunk")

    @property
    def own_steps(self) -> int:
        """Number of steps without those of a trunk."""
        return self.train.steps - (0 if self.branch_from is None else self.train.decay_start)

    @property
    def name(self) -> str:
        """Name of the run, which is that of its folder."""
        return self.output.name

    @property
    def objective_sha256(self) -> str:
        """Hash of what is predicted and how it is corrupted; runs that differ in it cannot be compared."""
        return hash_json(self.objective.identity)


def resolve(
    size: str, chosen: Mapping[str, Any], origin: Origin | None = None, *, base: Mapping[str, Any] | None = None
) -> PretrainConfig:
    """Combine the preset of a size with the chosen settings, and fill in what follows from both.

    If the output folder already holds a run, a setting that is not chosen keeps the default that it had when the run
    was begun, and what its objective implied then.

    Args:
        size: preset of the model.
        chosen: any of the keys of ``PretrainConfig``, as a tree.
        origin: where they came from, for messages.
        base: settings of an earlier run, which the chosen ones override.

    Raises:
        ConfigError: an unknown key, a wrong value, or none or several stores to train on.
    """
    origin = Origin(name="settings") if origin is None else origin
    given, chosen = chosen, merge(base or {}, chosen)
    _must_be_given(chosen, given)
    implied = _implied(chosen)
    tree = merge(merge({"size": size, "model": to_tree(preset(size))}, implied), chosen)
    if tree["size"] != size:
        raise ConfigError(f"{origin.describe('size')}: the size {tree['size']!r} contradicts --size {size}")
    objective = str(tree.get("objective", {}).get("name", "denoise")).rpartition(":")[2]
    tree.setdefault("output", f"runs/{size}-{objective}-seed{tree.get('seed', 0)}")
    data = tree.setdefault("data", {})
    if isinstance(data, dict) and "path" not in data:
        data["path"] = str(find_store(Path("data")))
    if isinstance(data, dict) and isinstance(data["path"], str) and not is_url(data["path"]):
        # A run records permanently which store it was trained on, and may be read from other folders.
        data["path"] = str(Path(data["path"]).absolute())
    if isinstance(tree.get("branch_from"), str | Path):
        tree["branch_from"] = str(Path(tree["branch_from"]).absolute())
    config = build(PretrainConfig, merge(tree, _kept_in(tree["output"], chosen, implied)), origin)
    for name in config.log.sinks:
        if is_reference(name) or name in OPTIONAL:
            SINKS.entry(name)  # report problems before training starts
    return replace(config, objective=with_own_settings(config.objective, origin))


def _kept_in(output: object, chosen: Mapping[str, Any], implied: Mapping[str, Any]) -> Tree:
    """Return the settings that the run in the output folder was begun with and that today's defaults would change.

    These are settings that are not chosen and whose default, or value implied by the objective, has changed.
    """
    file = Path(str(output)) / CONFIG_NAME
    try:
        before = read_yaml(file)[0] if file.is_file() else None
    except ConfigError:  # a damaged folder is handled when the run is resumed
        before = None
    if before is None:
        return {}
    kept, given, then = settings_kept(PretrainConfig, chosen, before), flatten(chosen), flatten(before)
    if then.get("objective.name") == given.get("objective.name"):
        absent = recorded_defaults_of(PretrainConfig)
        for key in flatten(implied).keys() - given.keys():
            kept = merge(kept, nested(key, then.get(key, absent.get(key))))
    return kept


def _must_be_given(chosen: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise if an earlier run's settings, read from its folder, name code that the user has not named.

    Raises:
        ConfigError: they name such code.
    """

    def names(tree: Mapping[str, Any], group: str, key: str) -> Sequence[str]:
        found = tree[group].get(key) if isinstance(tree.get(group), Mapping) else None
        return [found] if isinstance(found, str) else found or ()

    for group, key, how in (("objective", "name", "--objective {}"), ("log", "sinks", "log.sinks=[{}]")):
        must_be_named(names(chosen, group, key), names(given, group, key), how)


def _implied(chosen: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings that follow from the chosen ones and that the chosen ones override."""
    objective = chosen.get("objective")
    if not isinstance(objective, Mapping):  # reported later
        return {}
    name, parts = objective.get("name"), objective.get("mixture")
    names = [name, *(part for part in parts if part in OBJECTIVES)] if isinstance(parts, Mapping) else [name]
    implied: Tree = {}
    for known in names:
        if isinstance(known, str) and (known in OBJECTIVES or is_reference(known)):
            implied = merge(implied, OBJECTIVES.entry(known).kind.implied)
    return implied


def find_store(root: Path) -> Path:
    """Return the one finished store under a directory.

    Raises:
        StoreError: there is none, or more than one.
    """
    stores = sorted(path.parent for path in root.glob(f"*/{MANIFEST_NAME}"))
    if len(stores) == 1:
        return stores[0]
    if not stores:
        raise StoreError(f"no finished conformer store under {root}/; {STORE_HINT}, or name one with --data DIR")
    names = ", ".join(str(store) for store in stores)
    raise StoreError(f"{len(stores)} conformer stores under {root}/ ({names}); choose one with --data DIR")
