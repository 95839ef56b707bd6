"""Publishing the checkpoints of a run, so that each is complete or absent, and deleting those no longer wanted.

Every rank writes its share into ``tmp-step-…``; then rank 0 writes the manifest into it, which is last, renames the
folder to ``step-…``, and replaces ``latest`` by rename. A kill at any moment leaves older ones untouched. A folder is
renamed to ``tmp-…`` before it is deleted, so half of one never looks like a whole one.
"""

import contextlib
import json
import math
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unimol_scale.checkpoints.run.published import (
    FORMAT_VERSION,
    MANIFEST,
    CheckpointInfo,
    content_hash,
    folder_name,
    newest_valid,
    read_manifest,
    step_folders,
    verify,
)
from unimol_scale.checkpoints.run.shares import read_notes
from unimol_scale.common.files import commit_text, flush
from unimol_scale.common.text.json_files import write_json
from unimol_scale.common.units import byte_size
from unimol_scale.errors import CheckpointError

__all__ = [
    "CheckpointInfo",
    "Room",
    "clear_leftovers",
    "newest_valid",
    "prune",
    "publish",
    "set_aside",
    "sweep",
    "temporary_folder",
    "verify",
]

LATEST = "latest"
BEST = "best"
_DOOMED = "tmp-deleted-"


@dataclass(frozen=True, kw_only=True)
class Room:
    """What the checkpoints of a run take on the disk.

    Attributes:
        kept: number of checkpoints.
        kept_bytes: their size.
        removed: number of those that were just given up.
        removed_bytes: their size.
    """

    kept: int
    kept_bytes: int
    removed: int
    removed_bytes: int

    def describe(self, states: str = "") -> str:
        """Return it in words; ``states`` follows the size of what is kept."""
        text = f"{self.kept} kept, {byte_size(self.kept_bytes)} on disk{states}"
        return text + (f"; {self.removed} deleted, {byte_size(self.removed_bytes)}" if self.removed else "")


def temporary_folder(root: Path, step: int) -> Path:
    """Return where a checkpoint is written before it is published; ``root`` is the run's checkpoints folder."""
    return root / f"tmp-{folder_name(step)}"


def publish(root: Path, step: int, world_size: int, meta: Mapping[str, Any]) -> CheckpointInfo:
    """Make a written checkpoint the newest one. Call it once, when every rank has written its share in this session.

    What else lies in the temporary folder, such as shares that another number of ranks left there, is not taken along.

    Args:
        root: the run's checkpoints folder.
        step: optimizer steps done.
        world_size: ranks that wrote a share.
        meta: recorded with it, as JSON can hold it.

    Raises:
        CheckpointError: the share of a rank is not there.
        OSError: the disk is full or refuses; older checkpoints are as they were.
    """
    temporary, final = temporary_folder(root, step), root / folder_name(step)
    files = read_notes(temporary, world_size)
    for path in temporary.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in files:
            path.unlink()
    content = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "meta": dict(meta),
        "files": {name: asdict(entry) for name, entry in files.items()},
    }
    tree = json.loads(json.dumps(content))  # the hash is of what a reader will see
    write_json(temporary / MANIFEST, {**tree, "sha256": content_hash(tree)})
    set_aside(final)  # written again after a resume from before it
    temporary.rename(final)
    flush(root)
    commit_text(root / LATEST, final.name + "\n")
    return read_manifest(final)


def prune(newest: CheckpointInfo, keep: int, *, keep_best: bool) -> Room:
    """Set aside the checkpoints of a run that are not wanted any more, for ``sweep`` to delete.

    Those of later steps than the newest one belong to a continuation that was given up (damaged, or rolled back), and
    go too. A folder whose manifest cannot be read is left for a person to look at. ``best`` names the best one.

    Args:
        newest: what was published last.
        keep: how many of the newest to keep; 0: none at all, the best one neither.
        keep_best: whether to keep the one of the least ``meta["validation_loss"]`` too; None there: not validated.

    Returns:
        What is left, and what was set aside.
    """
    root = newest.path.parent
    readable = []
    for folder in step_folders(root):
        try:
            readable.append(read_manifest(folder))
        except CheckpointError:
            continue
    line = [info for info in readable if info.step <= newest.step]
    kept = {info.path for info in line[-keep:]} if keep else set()
    best = min(line, key=_validation_loss)
    if keep and keep_best and math.isfinite(_validation_loss(best)):
        kept.add(best.path)
        if _read(root / BEST) != best.path.name:
            commit_text(root / BEST, best.path.name + "\n")
    if not keep:
        for name in (LATEST, BEST):
            (root / name).unlink(missing_ok=True)
    for info in readable:
        if info.path not in kept:
            set_aside(info.path)
    return _room(readable, kept)


def _room(infos: Sequence[CheckpointInfo], kept: set[Path]) -> Room:
    left = [info.bytes for info in infos if info.path in kept]
    gone = [info.bytes for info in infos if info.path not in kept]
    return Room(kept=len(left), kept_bytes=sum(left), removed=len(gone), removed_bytes=sum(gone))


def sweep(root: Path) -> None:
    """Delete what was set aside, now or before a kill; of large files this takes a while."""
    for doomed in root.glob(f"{_DOOMED}*"):
        shutil.rmtree(doomed, ignore_errors=True)


def clear_leftovers(root: Path) -> None:
    """Delete what sessions that were killed left half written or half deleted; no save may be running."""
    for leftover in root.glob("tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)  # one that stays is harmless: see ``publish``


def _validation_loss(info: CheckpointInfo) -> float:
    loss = info.meta.get("validation_loss")
    return float(loss) if loss is not None and math.isfinite(loss) else math.inf


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""


def set_aside(folder: Path) -> None:
    """Let a folder count no more, at once; ``sweep`` deletes it. One that is not there is none."""
    with contextlib.suppress(FileNotFoundError):
        folder.rename(folder.with_name(f"{_DOOMED}{folder.name}-{uuid.uuid4().hex[:8]}"))
