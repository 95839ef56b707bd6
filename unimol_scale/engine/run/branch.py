"""Branches of a run: a decay that begins at a checkpoint of another run, the trunk, which holds its learning rate.

A branch is the run that its own settings describe, from the first step on; the trunk has done the steps before the
decay for it and for other branches. So the two must not have differed until then, and nothing of the trunk is copied.
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
        trunk: folder of the run whose checkpoint it is.
        checkpoint_sha256: of that checkpoint.
        step: steps that the trunk had done.
        molecules: that the trunk had seen.
        flops: of the trunk.
        seconds: of the trunk.
    """

    trunk: str
    checkpoint_sha256: str
    step: int
    molecules: int
    flops: float
    seconds: float

    def as_summary(self, end: Progress) -> dict[str, Any]:
        """Return it for the summary of the run that has ended so, with what it spent itself.

        Args:
            end: counters of the run, in which those of the trunk are contained.
        """
        own = {key: getattr(end, key) - getattr(self, key) for key in ("molecules", "flops", "seconds")}
        return {**vars(self), "own": {"steps": end.step - self.step, **own}}


def branch_at(point: CheckpointInfo) -> Branch:
    """Return what is recorded of a branch that begins at a checkpoint of its trunk."""
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
    """Return where the run of a checkpoint branched off; None if it did not."""
    tree: Mapping[str, Any] | None = found.meta.get("branch")
    return None if tree is None else Branch(**tree)


def find_branch_point(config: PretrainConfig) -> CheckpointInfo:
    """Return the trunk's checkpoint at which a branch begins, verified.

    Args:
        config: of the branch.

    Raises:
        CheckpointError: the trunk has no such checkpoint, or it is damaged.
    """
    assert config.branch_from is not None, "the run is not a branch"
    trunk, step = config.branch_from, config.train.decay_start
    path = trunk / CHECKPOINTS / folder_name(step)
    if path.is_dir():
        return verify(path)
    there = [int(folder.name.removeprefix("step-")) for folder in step_folders(trunk / CHECKPOINTS)]
    has = f", only of step {', '.join(map(str, there))}" if there else ""
    raise CheckpointError(
        f"branch_from: this run of {config.train.steps} steps begins to decay after step {step}, and the trunk "
        f"{trunk} has no checkpoint of that step{has}. Train the trunk with train.keep_steps=[{step}] up to there (one "
        "that is past that step has to be trained anew, in another folder), choose train.steps or train.decay_fraction "
        "so that the decay begins where it has one, or leave branch_from away"
    )


def refuse_other_beginning(point: CheckpointInfo, config: PretrainConfig, matter: Flat) -> None:
    """Raise if the steps of the trunk are not those that the branch would have done by itself.

    Args:
        point: the checkpoint of the trunk.
        config: of the branch.
        matter: its settings that decide what is learnt from which batches, of ``settings_that_matter``.

    Raises:
        RunError: a newer version wrote the checkpoint.
        CheckpointError: shows the settings that differ, or the first learning rate that does.
    """
    refuse_newer(point.meta["settings"], matter, point.path, "leave branch_from away")
    before = recorded_settings(point, point.path.parent.parent)
    changed = changed_settings(before, {**all_settings(config), **matter})
    alike = {*matter, *SCHEDULE} - {f"train.{name}" for name in RATE}  # the rates are compared one by one
    if other := {key: pair for key, pair in changed.items() if key in alike}:
        raise CheckpointError(
            f"branch_from: {point.path} was trained with other settings (trunk → this run):{as_lines(other)}\n"
            "Give this run those of the trunk"
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
    """Return the changes of settings along a trunk that its branches have to tell, too: not that it was made longer."""
    return [change for change in point.meta.get("changes", ()) if not _only_made_longer(change)]


def _only_made_longer(change: Mapping[str, Any]) -> bool:
    """Return whether a change left every learning rate as it was."""
    return change["curve"] == [STEPS] and (change["rates"] is None or change["rates"][0] == change["rates"][1])


def missing_points(config: PretrainConfig, done: int) -> list[int]:
    """Return the steps of ``train.keep_steps`` that a run is past without a checkpoint of them.

    Args:
        config: of the run.
        done: its steps.
    """
    root: Path = config.output / CHECKPOINTS
    return [step for step in config.train.keep_steps if step <= done and not (root / folder_name(step)).is_dir()]
