"""Where a session of a run starts: at its newest checkpoint, at a checkpoint of its trunk, or at the first step."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from unimol_scale.checkpoints.run.checkpoint_folder import CheckpointInfo
from unimol_scale.common.trees import Flat
from unimol_scale.engine.checkpointing import RunCheckpoints
from unimol_scale.engine.run.branch import (
    Branch,
    branch_at,
    changes_before,
    find_branch_point,
    missing_points,
    recorded_branch,
    refuse_other_beginning,
)
from unimol_scale.engine.run.resume import refuse_differences, refuse_newer, refuse_other_states
from unimol_scale.engine.run.run_config import PretrainConfig
from unimol_scale.engine.run.run_folder import run_is_finished
from unimol_scale.engine.run.run_progress import Progress
from unimol_scale.engine.run.settings_changes import (
    SettingsChange,
    change_since,
    recorded_settings,
    refuse_without_steps,
)
from unimol_scale.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """The starting point of a session.

    Attributes:
        found: the checkpoint to continue from; None: the run starts at its first step.
        branch: where the run branched off another one; None: it did not.
        change: how the settings changed since the run's own checkpoint; None: they did not.
        changes: all changes so far, each as ``SettingsChange.as_tree``.
    """

    found: CheckpointInfo | None = None
    branch: Branch | None = None
    change: SettingsChange | None = None
    changes: list[dict[str, Any]] = field(default_factory=list)

    def as_summary(self, end: Progress) -> dict[str, Any]:
        """Return it for the summary of a run that ended with the counters ``end``."""
        branch = None if self.branch is None else self.branch.as_summary(end)
        return {"branch": branch, "settings_changes": self.changes}

    def sentences(self, config: PretrainConfig) -> list[str]:
        """Return what a user should know about it."""
        said = []
        if self.found is not None:
            own = self.found.path.is_relative_to(config.output)
            verb = "goes on" if own else "branches off"
            said.append(f"{verb} from {self.found.path} (step {self.found.step})")
        if self.change is not None:
            said.append(self.change.describe(config.train.schedule, config.train.steps))
        own_steps = 0 if self.found is None or self.branch is not None else self.found.step
        if missing := missing_points(config, own_steps):
            steps = ", ".join(map(str, missing))
            said.append(f"warning: train.keep_steps: the run is already past step {steps} and has no checkpoint of it")
        return said


def find_beginning(
    config: PretrainConfig,
    checkpoints: RunCheckpoints,
    matter: Flat,
    data_manifest_sha256: str,
    warn: Callable[[str], None],
    *,
    resume: bool,
    override: bool,
) -> Beginning:
    """Find the checkpoint to continue from, if there is one, and check that it fits. Every rank calls this.

    Args:
        config: configuration of the run.
        checkpoints: checkpoints of the run.
        matter: settings that the checkpoint must share, from ``settings_that_matter``.
        data_manifest_sha256: hash of the data's manifest.
        warn: called with a message for each damaged checkpoint.
        resume: continue from what the run folder holds.
        override: continue even if the checkpoint was trained with other settings.

    Raises:
        RunError, CheckpointError: see ``Trainer.run``; also if a trunk has no checkpoint for the run or began
            differently.
    """
    found = checkpoints.find(warn)
    if found is None:
        if run_is_finished(config.output):
            raise CheckpointError(
                f"{config.output} is finished and has no checkpoint to continue from (train.keep_finished=none keeps "
                f"none); --init {config.output} starts another run from its weights"
            )
        return Beginning() if config.branch_from is None else _at_trunk(config, checkpoints, matter)
    if not resume:
        raise CheckpointError(
            f"{config.output} has checkpoints up to step {found.step}; "
            "continue them (--resume) or choose another --output"
        )
    before = recorded_settings(found, config.output)
    if not override:
        otherwise = "choose another --output, or continue anyway with --override"
        refuse_newer(before, matter, found.path, otherwise)
        refuse_differences(found.meta["settings"], matter, found.path)
    refuse_other_states(found.meta["settings"], matter, found.path)
    change = change_since(before, found.step, config, data_manifest_sha256)
    refuse_without_steps(found, config, change)
    changes = [*found.meta.get("changes", ()), *([change.as_tree()] if change else [])]
    return Beginning(found=found, branch=recorded_branch(found), change=change, changes=changes)


def _at_trunk(config: PretrainConfig, checkpoints: RunCheckpoints, matter: Flat) -> Beginning:
    """Return the starting point of a branch that has no checkpoint of its own yet."""
    point = checkpoints.look_up(lambda: find_branch_point(config))
    assert point is not None
    refuse_other_beginning(point, config, matter)
    return Beginning(found=point, branch=branch_at(point), changes=changes_before(point))
