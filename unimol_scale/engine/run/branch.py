"""Branches of a run: a learning-rate decay that starts from a checkpoint of another run, the trunk.

The trunk keeps its learning rate constant, and several branches can share its steps. A branch is the run that its own
settings describe from the first step on; the trunk has merely done the steps before the decay for it. So both must
agree up to that step, and nothing of the trunk is copied.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unimol_scale.checkpoints.run.checkpoint_folder import CheckpointInfo, folder_name, step_folders, verify
from unimol_scale.common.run_files import CHECKPOINTS
from unimol_scale.common.trees import Flat, as_lines
from unimol_scale.engine.run.resume import (
    RATE,
    SCHEDULE,
    STEPS,
    all_settings,
    changed_settings,
    refuse_newer,
    schedule_of,
)
from unimol_scale.engine.run.run_config import PretrainConfig
from unimol_scale.engine.run.run_progress import Progress, read_progress
from unimol_scale.engine.run.schedule import learning_rate
from unimol_scale.engine.run.settings_changes import recorded_settings
from unimol_scale.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Where a run branched off, and what the trunk had spent by then.

    Attributes:
        trunk: folder of the trunk.
        checkpoint_sha256: hash of the trunk's checkpoint.
        step: steps that the trunk had done.
        molecules: molecules that the trunk had seen.
        flops: FLOPs of the trunk.
        seconds: seconds of the trunk.
    """

    trunk: str
    checkpoint_sha256: str
    step: int
    molecules: int
    flops: float
    seconds: float

    def as_summary(self, end: Progress) -> dict[str, Any]:
        """Return it for the summary of a run that ended with the counters ``end``, with what the branch itself spent.

        Args:
            end: counters of the run, which include those of the trunk.
        """
        own = {key: getattr(end, key) - getattr(self, key) for key in ("molecules", "flops", "seconds")}
        return {**vars(self), "own": {"steps": end.step - self.step, **own}}


def branch_at(point: CheckpointInfo) -> Branch:
    """Return the record of a branch that starts at a checkpoint of its trunk."""
    done = read_progress(point)
    return Branch(
        trunk=str(point.path.parent.parent),
        checkpoint_sha256=point.sha256,
        step=done.step,
        molecules=done.molecules,
        flops=done.flops,
        seconds=done.seconds,
    )


def recorded_branch(found: CheckpointInfo) -> Branch | None:
    """Return where the run of a checkpoint branched off; None if it is not a branch."""
    tree: Mapping[str, Any] | None = found.meta.get("branch")
    return None if tree is None else Branch(**tree)


def find_branch_point(config: PretrainConfig) -> CheckpointInfo:
    """Return the trunk's checkpoint at which a branch starts, verified.

    Args:
        config: configuration of the branch.

    Raises:
        CheckpointError: the trunk has no checkpoint of that step, or it is damaged.
    """
    assert config.branch_from is not None, "the run is not a branch"
    trunk, step = config.branch_from, config.train.decay_start
    path = trunk / CHECKPOINTS / folder_name(step)
    if path.is_dir():
        return verify(path)
    there = [int(folder.name.removeprefix("step-")) for folder in step_folders(trunk / CHECKPOINTS)]
    has = f" (only of step {', '.join(map(str, there))})" if there else ""
    raise CheckpointError(
        f"branch_from: this run of {config.train.steps} steps starts to decay after step {step}, but the trunk "
        f"{trunk} has no checkpoint of that step{has}. Either train the trunk up to there with "
        f"train.keep_steps=[{step}] (a trunk that is already past that step has to be trained again in another "
        "folder), or choose train.steps or train.decay_fraction so that the decay starts at an existing checkpoint, "
        "or leave out branch_from"
    )


def refuse_other_beginning(point: CheckpointInfo, config: PretrainConfig, matter: Flat) -> None:
    """Raise if the trunk's steps are not those that the branch would have done itself.

    Args:
        point: checkpoint of the trunk.
        config: configuration of the branch.
        matter: the branch's settings that decide what is learnt from which batches, from ``settings_that_matter``.

    Raises:
        RunError: a newer version wrote the checkpoint.
        CheckpointError: the message shows the settings that differ, or the first learning rate that does.
    """
    refuse_newer(point.meta["settings"], matter, point.path, "leave out branch_from")
    before = recorded_settings(point, point.path.parent.parent)
    changed = changed_settings(before, {**all_settings(config), **matter})
    alike = {*matter, *SCHEDULE} - {f"train.{name}" for name in RATE}  # the rates are compared one by one
    if other := {key: pair for key, pair in changed.items() if key in alike}:
        raise CheckpointError(
            f"branch_from: {point.path} was trained with other settings (trunk → this run):{as_lines(other)}\n"
            "Use the trunk's settings for this run"
        )
    trunk = schedule_of(before)
    for step in range(point.step):
        then, ours = learning_rate(step, trunk), learning_rate(step, config.train)
        if then != ours:
            raise CheckpointError(
                f"branch_from: in step {step + 1} the learning rate of {point.path} was {then:.6g}, and this run's "
                f"would have been {ours:.6g}. A trunk has train.schedule=constant, and the train.learning_rate and "
                "train.warmup_steps of its branches"
            )


def changes_before(point: CheckpointInfo) -> list[dict[str, Any]]:
    """Return the trunk's changes of settings that its branches must report; extensions of the trunk do not count."""
    return [change for change in point.meta.get("changes", ()) if not _only_made_longer(change)]


def _only_made_longer(change: Mapping[str, Any]) -> bool:
    """Return whether a change left every learning rate unchanged."""
    return change["curve"] == [STEPS] and (change["rates"] is None or change["rates"][0] == change["rates"][1])


def missing_points(config: PretrainConfig, done: int) -> list[int]:
    """Return the steps of ``train.keep_steps`` that a run has passed without a checkpoint of them.

    Args:
        config: configuration of the run.
        done: steps done.
    """
    root: Path = config.output / CHECKPOINTS
    return [step for step in config.train.keep_steps if step <= done and not (root / folder_name(step)).is_dir()]
