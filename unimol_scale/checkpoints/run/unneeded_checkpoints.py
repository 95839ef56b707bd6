"""Finds and deletes the checkpoints of finished runs that are no longer needed.

For each run, the newest intact checkpoint, the best one, those of ``train.keep_steps`` and every checkpoint that
another run refers to are kept. A run refers to the checkpoint where it branches off, its initial weights, and its
teacher. Runs that have not ended are not touched, since they may still be running.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unimol_scale.checkpoints.run.checkpoint_folder import (
    BEST,
    CheckpointInfo,
    delete_leftovers,
    folder_name,
    mark_deleted,
    newest_valid,
    read_manifest,
    step_folders,
)
from unimol_scale.common.run_files import CHECKPOINTS, CONFIG_NAME, DECAY_FRACTION, LATEST, SUMMARY_NAME, decay_start
from unimol_scale.common.summary_file import UnreadableRunError, read_summary
from unimol_scale.common.trees import Flat, flatten
from unimol_scale.config import read_yaml
from unimol_scale.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class PrunableRun:
    """The checkpoints of one run.

    Attributes:
        folder: the run folder.
        unneeded: the checkpoints that are not needed, by ascending step.
        kept: name of a checkpoint → why it is kept.
        left_alone: why nothing of this run may be deleted; "" if checkpoints may be deleted.
    """

    folder: Path
    unneeded: tuple[CheckpointInfo, ...] = ()
    kept: dict[str, str] | None = None
    left_alone: str = ""

    @property
    def bytes(self) -> int:
        """Total size of the checkpoints that are not needed."""
        return sum(info.bytes for info in self.unneeded)


def find_unneeded(runs: Sequence[Path]) -> list[PrunableRun]:
    """Return the checkpoints that can be deleted, for each run that has checkpoints.

    Args:
        runs: run folders. Runs that branch off from one of them must be included; references from others are not seen.

    Raises:
        ConfigError: the settings of a run cannot be read, so the checkpoints that it refers to are unknown.
    """
    settings = {folder: _settings_of(folder) for folder in runs}
    named = _named_by_others(settings)
    return [_look_at(folder, settings[folder], named) for folder in runs if step_folders(folder / CHECKPOINTS)]


def delete_unneeded(run: PrunableRun) -> None:
    """Delete the checkpoints that are not needed, and half-written folders of killed sessions.

    Raises:
        OSError: the file system refuses to rename a folder.
    """
    for info in run.unneeded:
        mark_deleted(info.path)
    delete_leftovers(run.folder / CHECKPOINTS)


def _look_at(folder: Path, settings: Flat, named: dict[Path, str]) -> PrunableRun:
    root = folder / CHECKPOINTS
    if not (folder / SUMMARY_NAME).is_file():
        return PrunableRun(folder=folder, left_alone=f"it has no {SUMMARY_NAME}, so it has not ended")
    try:
        if not read_summary(folder).is_finished:
            return PrunableRun(folder=folder, left_alone=f"its {SUMMARY_NAME} says that it has not finished")
        newest, _ = newest_valid(root)
        infos = [read_manifest(path) for path in step_folders(root)]
    except (UnreadableRunError, CheckpointError) as error:
        return PrunableRun(folder=folder, left_alone=str(error))
    assert newest is not None, "it has checkpoints"
    reasons = {newest.path.name: "the newest"}
    for file, why in ((LATEST, "the newest"), (BEST, "the best")):
        if (root / file).is_file():
            reasons.setdefault((root / file).read_text(encoding="utf-8").strip(), why)
    for step in settings.get("train.keep_steps") or ():
        reasons.setdefault(folder_name(step), "train.keep_steps")
    for info in infos:
        if info.path.resolve() in named:
            reasons.setdefault(info.path.name, named[info.path.resolve()])
    there = {info.path.name for info in infos}
    return PrunableRun(
        folder=folder,
        unneeded=tuple(info for info in infos if info.path.name not in reasons),
        kept={name: why for name, why in reasons.items() if name in there},
    )


def _named_by_others(settings: dict[Path, Flat]) -> dict[Path, str]:
    """Return checkpoint → the run that refers to it, and how, for all runs."""
    found: dict[Path, str] = {}
    for folder, flat in settings.items():
        for key, value in flat.items():
            if isinstance(value, str) and Path(value).parent.name == CHECKPOINTS:
                found[Path(value).resolve()] = f"{key} of {folder}"
        trunk, steps = flat.get("branch_from"), flat.get("train.steps")
        if isinstance(trunk, str) and isinstance(steps, int):
            step = decay_start(steps, float(flat.get("train.decay_fraction") or DECAY_FRACTION))
            found[(Path(trunk) / CHECKPOINTS / folder_name(step)).resolve()] = f"{folder} branches off there"
    return found


def _settings_of(folder: Path) -> Flat:
    """Return the settings of a run; {} if it recorded none.

    Raises:
        ConfigError: the settings cannot be read.
    """
    path = folder / CONFIG_NAME
    return flatten(read_yaml(path)[0]) if path.is_file() else {}
