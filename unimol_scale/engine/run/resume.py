"""Compares the settings of a run with those of its checkpoint: data, model, objective and batches must be the same.

Settings that decide which function is learnt from which batches must be equal, or the loss curve would mix two runs.
Those of the optimizer and its schedule may change, and changes are recorded (``settings_changes``). Everything else,
such as ranks, loader processes or log intervals, may change freely. A setting that did not exist when a checkpoint was
written is absent from it and counts as the behaviour of that time.
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

# Settings that say only where things are and how they are prepared; the data is identified by its hash.
_FREE_DATA = frozenset({"path", "max_pairs", "buckets", "cache_dir", "cache_bytes", "workers", "prefetch"})
# Files may move; the teacher is identified by its hash.
_FREE_OBJECTIVE = "objective.distill.teacher"
DATA_HASH = "data manifest SHA-256"
# Settings of the optimizer. They may change during a run, which then no longer follows a single schedule.
RATE = ("steps", "learning_rate", "warmup_steps", "schedule", "decay_fraction", "decay_shape")
_MUON = ("muon_pair_rate", "muon_momentum", "muon_iterations")
_SCHEDULE = (*RATE, "beta1", "beta2", "weight_decay", "gradient_clip", *_MUON)
SCHEDULE = frozenset({*(f"train.{name}" for name in _SCHEDULE), "train.precision"})
STEPS = "train.steps"
# If these differ, a checkpoint lacks the states that the optimizer needs.
_STATES = frozenset({"train.optimizer", "train.muon_tracks"})


def settings_that_matter(config: PretrainConfig, data_manifest_sha256: str) -> Flat:
    """Return dotted key → value of everything that a checkpoint and the run that continues it must share.

    Of the objectives, only the settings of the one that is learnt matter; for a mixture, those of its parts.
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
    """Return dotted key → value of a configuration, without the run folder and the objectives that are not learnt."""
    tree = to_tree(config)
    del tree["output"]
    objective = {key: tree["objective"][key] for key in ("name", "mixture", *config.objective.learnt)}
    return flatten({**tree, "objective": objective})


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> Differences:
    """Return the settings that differ. An absent one counts as its meaning at the time, or None if it had none.

    Args:
        before: flat settings of a checkpoint or run, as recorded by any version; those of objectives that the run does
            not learn now are ignored.
        now: flat settings of the present.
    """
    defaults = {**recorded_defaults_of(PretrainConfig), **_own_defaults(now.get("objective.name"))}
    return differences(_of_what_is_learnt(before, now), now, defaults)


def refuse_newer(before: Mapping[str, Any], now: Mapping[str, Any], where: object, otherwise: str) -> None:
    """Raise if a newer version recorded settings that this version does not know and so cannot continue with.

    Args:
        before: flat settings of a checkpoint or a run.
        now: flat settings of the run that would continue it.
        where: the file, for the message.
        otherwise: what the user can do without an update.

    Raises:
        RunError: the message shows these settings.
    """
    if newer := unknown(_of_what_is_learnt(before, now), {*keys_of(PretrainConfig), DATA_HASH}):
        raise RunError(f"{as_newer(newer, where)}, or {otherwise}")


def refuse_differences(before: Mapping[str, Any], now: Mapping[str, Any], where: object) -> None:
    """Raise if a run would continue with other settings than its checkpoint was trained with.

    Args:
        before: settings of the checkpoint.
        now: settings of the run, from ``settings_that_matter``.
        where: the checkpoint, for the message.

    Raises:
        CheckpointError: the message shows every difference.
    """
    if changed := changed_settings(before, now):
        raise CheckpointError(
            f"{where} was trained with other settings (checkpoint → now):{as_lines(changed)}\n"
            "Use the checkpoint's settings, choose another --output, or continue anyway with --override"
        )


def refuse_other_states(before: Mapping[str, Any], now: Mapping[str, Any], where: object) -> None:
    """Raise if a run would use another optimizer than the one whose states its checkpoint has; cannot be overridden.

    Args:
        before: settings of the checkpoint.
        now: settings of the run, from ``settings_that_matter``.
        where: the checkpoint, for the message.

    Raises:
        CheckpointError: the message shows the differences.
    """
    changed = {key: pair for key, pair in changed_settings(before, now).items() if key in _STATES}
    if changed:
        raise CheckpointError(
            f"{where} has the states of another optimizer (checkpoint → now):{as_lines(changed)}\n"
            "Even --override cannot continue with them; --init starts another run from its weights"
        )


def schedule_of(settings: Mapping[str, Any]) -> TrainConfig:
    """Return the optimizer's settings from flat settings; absent ones have their defaults."""
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    flat = {key.removeprefix("train."): value for key, value in settings.items() if key.startswith("train.")}
    return TrainConfig(**{name: value for name, value in flat.items() if name in names})


def _own_defaults(name: object) -> Flat:
    """Return dotted key → default of the settings of a user's own objective."""
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
