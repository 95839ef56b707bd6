"""Compares the settings of a run with those of its checkpoint: data, model, objective and batches must be the same.

Settings that decide which function is learnt from which batches must be equal, or the loss curve would be of two runs.
Those of the optimizer and its schedule may change, and a change is recorded (``settings_changes``). Whatever else a run
has, such as ranks, loader processes or the rhythm of its logs, may change freely. A setting that did not exist when a
checkpoint was written is absent from it and counts as what that meant then.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from unimol_scale.common.plugins import is_reference
from unimol_scale.common.trees import Differences, Flat, as_lines, as_newer, differences, flatten, unknown
from unimol_scale.config import defaults_of, keys_of, recorded_defaults_of, to_tree
from unimol_scale.engine.run.run_config import PretrainConfig
from unimol_scale.engine.run.train_config import TrainConfig
from unimol_scale.errors import CheckpointError, RunError
from unimol_scale.objectives.registry import OBJECTIVES

# Settings that only say where things are and how they are made ready; the data itself is known by its hash.
_FREE_DATA = frozenset({"path", "max_pairs", "cache_dir", "cache_bytes", "workers", "prefetch"})
# Files may move; the teacher is known by its hash.
_FREE_OBJECTIVE = "objective.distill.teacher"
DATA_HASH = "data manifest SHA-256"
# What the optimizer does in a step: it may change along a run, which is then no longer one of a single schedule.
RATE = ("steps", "learning_rate", "warmup_steps", "schedule", "decay_fraction", "decay_shape")
_SCHEDULE = (*RATE, "beta1", "beta2", "weight_decay", "gradient_clip", "muon_momentum", "muon_iterations")
SCHEDULE = frozenset({*(f"train.{name}" for name in _SCHEDULE), "train.precision"})
STEPS = "train.steps"
# Where they differ, a checkpoint does not have the states that the optimizer needs.
_STATES = frozenset({"train.optimizer", "train.muon_tracks"})


def settings_that_matter(config: PretrainConfig, data_manifest_sha256: str) -> Flat:
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
        "train": {name: tree["train"][name] for name in ("global_batch_size", "ema_decay", "optimizer", "muon_tracks")},
    }
    flat = {key: value for key, value in flatten(chosen).items() if key != _FREE_OBJECTIVE}
    return {**flat, DATA_HASH: data_manifest_sha256}


def all_settings(config: PretrainConfig) -> Flat:
    """Return dotted key → value of a whole configuration, without its folder and objectives that it does not learn."""
    tree = to_tree(config)
    del tree["output"]
    objective = {key: tree["objective"][key] for key in ("name", "mixture", *config.objective.learnt)}
    return flatten({**tree, "objective": objective})


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> Differences:
    """Return the settings that differ. An absent one counts as what that meant then, or as None if it meant nothing.

    Args:
        before: flat settings of a checkpoint or a run, as any version recorded them; those of objectives that the run
            does not learn now are not compared.
        now: flat settings of today.
    """
    defaults = {**recorded_defaults_of(PretrainConfig), **_own_defaults(now.get("objective.name"))}
    return differences(_of_what_is_learnt(before, now), now, defaults)


def refuse_newer(before: Mapping[str, Any], now: Mapping[str, Any], where: object, otherwise: str) -> None:
    """Raise if a newer version recorded settings that this one does not know, and so cannot go on with.

    Args:
        before: flat settings of a checkpoint or a run.
        now: flat settings of the run that is to go on.
        where: the file, for the message.
        otherwise: what can be done without an update.

    Raises:
        RunError: shows them.
    """
    if newer := unknown(_of_what_is_learnt(before, now), {*keys_of(PretrainConfig), DATA_HASH}):
        raise RunError(f"{as_newer(newer, where)}, or {otherwise}")


def refuse_differences(before: Mapping[str, Any], now: Mapping[str, Any], where: object) -> None:
    """Raise if a run would go on with other settings than its checkpoint was trained with.

    Args:
        before: of the checkpoint.
        now: of the run, ``settings_that_matter``.
        where: the checkpoint, for the message.

    Raises:
        CheckpointError: shows every difference.
    """
    if changed := changed_settings(before, now):
        raise CheckpointError(
            f"{where} was trained with other settings (checkpoint → now):{as_lines(changed)}\n"
            "Take the checkpoint's settings, choose another --output, or go on all the same with --override"
        )


def refuse_other_states(before: Mapping[str, Any], now: Mapping[str, Any], where: object) -> None:
    """Raise if a run would go on with another optimizer than its checkpoint has the states of, whatever is overridden.

    Args:
        before: of the checkpoint.
        now: of the run, ``settings_that_matter``.
        where: the checkpoint, for the message.

    Raises:
        CheckpointError: shows the differences.
    """
    changed = {key: pair for key, pair in changed_settings(before, now).items() if key in _STATES}
    if changed:
        raise CheckpointError(
            f"{where} has the states of another optimizer (checkpoint → now):{as_lines(changed)}\n"
            "Not even --override can go on with them; --init begins another run from its weights"
        )


def schedule_of(settings: Mapping[str, Any]) -> TrainConfig:
    """Return the settings of the optimizer out of flat settings; absent ones have their defaults."""
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    flat = {key.removeprefix("train."): value for key, value in settings.items() if key.startswith("train.")}
    return TrainConfig(**{name: value for name, value in flat.items() if name in names})


def _own_defaults(name: object) -> Flat:
    """Return dotted key → default of the settings of an objective of the user's own, which the user has named."""
    settings = OBJECTIVES.entry(str(name)).settings if is_reference(name) else None
    return {} if settings is None else defaults_of(settings, "objective.settings")


def _of_what_is_learnt(before: Mapping[str, Any], now: Mapping[str, Any]) -> Flat:
    """Return flat settings without those of objectives that ``now`` does not learn."""
    parts = {key.split(".")[2] for key in now if key.startswith("objective.mixture.")}
    name = str(now.get("objective.name"))
    learnt = {"mixture", *(parts or {"settings" if is_reference(name) else name})}
    groups = {key: key.split(".") for key in before}
    return {
        key: before[key]
        for key, (first, *rest) in groups.items()
        if first != "objective" or len(rest) < 2 or rest[0] in learnt
    }
