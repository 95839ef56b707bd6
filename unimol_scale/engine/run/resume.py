"""Whether a run's settings agree with those of its checkpoint: the same data, model, objective and batches.

Settings that decide which function is learnt from which batches must be equal, or the loss curve would be of two runs.
Those of the optimizer and its schedule may change, and a change is recorded (``settings_changes``). Whatever else a run
has, such as ranks, loader processes or the rhythm of its logs, may change freely. A setting that did not exist when a
checkpoint was written is absent from it and counts as its default.
"""

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from unimol_scale.common.plugins import is_reference
from unimol_scale.config import to_tree
from unimol_scale.engine.run.run_config import PretrainConfig, TrainConfig
from unimol_scale.errors import CheckpointError
from unimol_scale.objectives.registry import OBJECTIVES

# Settings that only say where things are and how they are made ready; the data itself is known by its hash.
_FREE_DATA = frozenset({"path", "max_pairs", "cache_dir", "cache_bytes", "workers", "prefetch"})
# Files may move; the teacher is known by its hash.
_FREE_OBJECTIVE = "objective.distill.teacher"
DATA_HASH = "data manifest SHA-256"
# What the optimizer does in a step: it may change along a run, which is then no longer one of a single schedule.
_SCHEDULE = ("steps", "learning_rate", "warmup_steps", "schedule", "beta1", "beta2", "weight_decay", "gradient_clip")
SCHEDULE = frozenset({*(f"train.{name}" for name in _SCHEDULE), "train.precision"})
STEPS = "train.steps"
Settings = dict[str, Any]
# Key → (before, now).
Differences = dict[str, tuple[Any, Any]]


def settings_that_matter(config: PretrainConfig, data_manifest_sha256: str) -> Settings:
    """Return dotted key → value of everything that a checkpoint and the run that continues it must share.

    Of the objectives, only the settings of the one that is learnt matter; of a mixture, those of its parts.
    """
    tree = to_tree(config)
    objective = {key: tree["objective"][key] for key in ("name", "mixture", *config.objective.learnt)}
    chosen = {
        "seed": tree["seed"],
        "init_sha256": tree["init_sha256"],
        "model": tree["model"],
        "data": {key: value for key, value in tree["data"].items() if key not in _FREE_DATA},
        "objective": objective,
        "train": {"global_batch_size": tree["train"]["global_batch_size"], "ema_decay": tree["train"]["ema_decay"]},
    }
    flat = {key: value for key, value in flatten(chosen).items() if key != _FREE_OBJECTIVE}
    return {**flat, DATA_HASH: data_manifest_sha256}


def all_settings(config: PretrainConfig) -> Settings:
    """Return dotted key → value of a whole configuration, without its folder and objectives that it does not learn."""
    tree = to_tree(config)
    del tree["output"]
    objective = {key: tree["objective"][key] for key in ("name", "mixture", *config.objective.learnt)}
    return flatten({**tree, "objective": objective})


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Differences:
    """Return the settings that differ. An absent one counts as its default, or as None if it has none.

    Args:
        before: settings of a checkpoint or a run, as any earlier version recorded them.
        now: settings of today; an objective of which it has no setting is not compared.
    """
    groups = {key.split(".")[1] for key in now if key.startswith("objective.")}
    others = tuple(f"objective.{name}." for name in OBJECTIVES if name != "mixture" and name not in groups)
    found: Differences = {}
    defaults = {**_DEFAULTS, **_own_defaults(now.get("objective.name"))}
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key, defaults.get(key)), now.get(key, defaults.get(key))
        if old != new and not key.startswith(others):
            found[key] = (old, new)
    return found


def as_lines(changed: Differences) -> str:
    """Return differences as indented lines, "key: before → now"."""
    return "".join(f"\n  {key}: {_shown(old)} → {_shown(new)}" for key, (old, new) in changed.items())


def refuse_differences(before: Mapping[str, Any], now: Mapping[str, Any], where: object) -> None:
    """Raise if a run would go on with other settings than its checkpoint was trained with.

    Args:
        before: of the checkpoint.
        now: of the run, ``settings_that_matter``.
        where: the checkpoint, for the message.

    Raises:
        CheckpointError: shows every difference.
    """
    if changed := differences(before, now):
        raise CheckpointError(
            f"{where} was trained with other settings (checkpoint → now):{as_lines(changed)}\n"
            "Take the checkpoint's settings, choose another --output, or go on all the same with --override"
        )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Settings:
    """Return nested settings as dotted key → value; an empty group has no key."""
    flat: Settings = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def schedule_of(settings: Mapping[str, Any]) -> TrainConfig:
    """Return the settings of the optimizer out of flat settings; absent ones have their defaults."""
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    flat = {key.removeprefix("train."): value for key, value in settings.items() if key.startswith("train.")}
    return TrainConfig(**{name: value for name, value in flat.items() if name in names})


def _own_defaults(name: object) -> Settings:
    """Return dotted key → default of the settings of an objective of the user's own, which the user has named."""
    settings = OBJECTIVES.entry(str(name)).settings if is_reference(name) else None
    return {} if settings is None else dict(_defaults(settings, "objective.settings."))


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def _defaults(kind: type[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key → default of every setting that has one."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _defaults(typing.cast(type[Any], hints[field.name]), f"{prefix}{field.name}.")
        elif field.default is not dataclasses.MISSING:
            yield f"{prefix}{field.name}", to_tree(field.default)


_DEFAULTS = dict(_defaults(PretrainConfig))
