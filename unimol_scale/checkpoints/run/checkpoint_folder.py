"""Publishes, finds, verifies and deletes the checkpoints of a run, which are folders. Each is complete or absent.

A checkpoint is a folder ``step-…`` with the shares of all ranks and ``manifest.json``. The manifest holds the format
version, the step, the trainer's records, size and SHA-256 of every share, and a hash of itself. Every rank writes its
share into ``tmp-step-…``. Rank 0 then writes the manifest, renames the folder to ``step-…`` and replaces the file
``latest`` by a rename. If the process is killed at any moment, older checkpoints stay intact. Before a checkpoint is
deleted, its folder is renamed to ``tmp-deleted-…``. Folders ``tmp-…`` never count as checkpoints.
"""

import contextlib
import dataclasses
import json
import math
import re
import shutil
import uuid
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unimol_scale.checkpoints.run.shares import read_notes
from unimol_scale.checkpoints.safetensors_writer import FileEntry
from unimol_scale.common.files import commit_text, flush, hash_file
from unimol_scale.common.run_files import CHECKPOINTS, LATEST
from unimol_scale.common.text.json_files import NotJsonError, hash_json, read_json, write_json
from unimol_scale.common.units import byte_size
from unimol_scale.config import Origin, build
from unimol_scale.data.input_views import InputsSeen
from unimol_scale.errors import CheckpointError, ConfigError, NewerFileError, version_problem
from unimol_scale.model.accounting import Heads
from unimol_scale.model.presets import ModelConfig

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
BEST = "best"
_FOLDER = re.compile(r"step-\d{8,}")
_DELETED = "tmp-deleted-"


class NewerCheckpointError(CheckpointError):
    """A newer version of unimol-scale wrote the checkpoint. It is not damaged, so no older one may replace it."""


@dataclass(frozen=True, kw_only=True)
class CheckpointManifest:
    """The content of ``manifest.json`` without its own hash.

    Attributes:
        format_version: version of the folder's layout.
        step: number of optimizer steps done.
        meta: the trainer's records.
        files: name → size and hash of each share.
    """

    format_version: int
    step: int
    meta: dict[str, Any]
    files: dict[str, FileEntry]


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """A published checkpoint.

    Attributes:
        path: folder of the checkpoint.
        step: number of optimizer steps done.
        meta: the trainer's records, such as ranks and counters.
        files: name → size and hash of each share.
        sha256: SHA-256 of the manifest's content. It covers every file and thus identifies the whole checkpoint.
    """

    path: Path
    step: int
    meta: Mapping[str, Any]
    files: Mapping[str, FileEntry]
    sha256: str

    @property
    def bytes(self) -> int:
        """Total size of all shares, in bytes."""
        return sum(entry.bytes for entry in self.files.values())


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """The model that a run trains, as the trainer recorded it.

    Attributes:
        model: dimensions and options of the model.
        heads: the heads that the model of the finished run keeps.
        seen: the inputs of pretraining; None if they are not known, as in checkpoints of earlier versions.
        hydrogens: whether hydrogens are atoms in pretraining; None in checkpoints of earlier versions.
    """

    model: ModelConfig
    heads: Heads
    seen: InputsSeen | None = None
    hydrogens: bool | None = None


@dataclass(frozen=True, kw_only=True)
class DiskUsage:
    """How much disk space the checkpoints of a run use.

    Attributes:
        kept: number of checkpoints that are kept.
        kept_bytes: their total size.
        removed: number of checkpoints that were just deleted.
        removed_bytes: their total size.
    """

    kept: int
    kept_bytes: int
    removed: int
    removed_bytes: int

    def describe(self, states: str = "") -> str:
        """Return the usage in words; ``states`` is inserted after the size of the kept checkpoints."""
        text = f"{self.kept} kept, {byte_size(self.kept_bytes)} on disk{states}"
        return text + (f"; {self.removed} deleted, {byte_size(self.removed_bytes)}" if self.removed else "")


def folder_name(step: int) -> str:
    """Return the name of the checkpoint after ``step`` steps."""
    return f"step-{step:08d}"


def step_folders(root: Path) -> list[Path]:
    """Return the published checkpoints in a run's checkpoints folder, intact or not, by ascending step."""
    folders = [path for path in root.glob("step-*") if _FOLDER.fullmatch(path.name) and path.is_dir()]
    return sorted(folders, key=lambda path: int(path.name.removeprefix("step-")))


def temporary_folder(root: Path, step: int) -> Path:
    """Return the folder into which a checkpoint is written before it is published; ``root`` as in ``publish``."""
    return root / f"tmp-{folder_name(step)}"


def publish(root: Path, step: int, world_size: int, meta: Mapping[str, Any]) -> CheckpointInfo:
    """Publish a written checkpoint as the newest one. Call this once, after every rank has written its share.

    Other files in the temporary folder, such as shares of a session with another number of ranks, are deleted.

    Args:
        root: the run's checkpoints folder.
        step: number of optimizer steps done.
        world_size: number of ranks, each of which wrote a share.
        meta: records to store in the manifest; JSON must be able to represent them.

    Raises:
        CheckpointError: the share of a rank is missing.
        OSError: the disk is full or cannot be written; older checkpoints are unchanged.
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
        "files": {name: dataclasses.asdict(entry) for name, entry in files.items()},
    }
    tree = json.loads(json.dumps(content))  # hash the content as a reader will see it
    write_json(temporary / MANIFEST, {**tree, "sha256": content_hash(tree)})
    mark_deleted(final)  # exists if the run was resumed from an earlier step and saves this step again
    temporary.rename(final)
    flush(root)
    commit_text(root / LATEST, final.name + "\n")
    return read_manifest(final)


def content_hash(tree: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest's content without its own hash; independent of the formatting of the file."""
    content = {key: value for key, value in tree.items() if key != "sha256"}
    return hash_json(content)


def read_manifest(folder: Path) -> CheckpointInfo:
    """Read the manifest of a checkpoint; the shares are not read.

    Raises:
        CheckpointError: the manifest is missing, damaged or has another format.
    """
    path = folder / MANIFEST
    try:
        tree = read_json(path)
    except OSError as error:
        raise CheckpointError(f"checkpoint {folder} has no readable {MANIFEST}: {error}") from error
    except NotJsonError as error:
        raise CheckpointError(f"checkpoint {folder} has no readable {MANIFEST}: it {error}") from error
    version = tree.get("format_version")
    if version is None and {"step", "meta", "files"} <= set(tree):
        raise CheckpointError(
            f"checkpoint {folder} is in DeepSpeed's own format, which an earlier version wrote and this one cannot "
            "read; finish that run with the version that started it, or choose another --output"
        )
    if problem := version_problem(version, FORMAT_VERSION):
        newer = isinstance(version, int) and version > FORMAT_VERSION
        raise (NewerCheckpointError if newer else CheckpointError)(f"checkpoint {folder}: {MANIFEST}: {problem}")
    stated = tree.pop("sha256", None)
    if stated != content_hash(tree):
        raise CheckpointError(f"checkpoint {folder}: {MANIFEST} is damaged (its SHA-256 differs)")
    try:
        manifest = build(CheckpointManifest, tree, Origin(name=str(path), recorded=True))
    except NewerFileError as error:
        raise NewerCheckpointError(f"checkpoint {folder}: {error}") from error
    except ConfigError as error:
        raise CheckpointError(f"checkpoint {folder}: {error}") from error
    return CheckpointInfo(path=folder, step=manifest.step, meta=manifest.meta, files=manifest.files, sha256=str(stated))


def verify(folder: Path) -> CheckpointInfo:
    """Read a checkpoint's manifest and check the size and hash of every share.

    Raises:
        CheckpointError: the checkpoint is incomplete or damaged. The message names the file.
    """
    info = read_manifest(folder)
    for name, entry in info.files.items():
        file = folder / name
        try:
            size = file.stat().st_size
            if size != entry.bytes:
                raise CheckpointError(f"checkpoint {folder}: {name} has {size} bytes, not {entry.bytes}")
            if hash_file(file) != entry.sha256:
                raise CheckpointError(f"checkpoint {folder}: {name} is damaged (its SHA-256 differs)")
        except FileNotFoundError as error:
            raise CheckpointError(f"checkpoint {folder}: {name} is missing") from error
        except OSError as error:
            raise CheckpointError(f"checkpoint {folder}: {name} cannot be read: {error}") from error
    return info


def newest_valid(root: Path) -> tuple[CheckpointInfo | None, list[str]]:
    """Return the newest intact checkpoint, and a message for each newer one that is damaged.

    Args:
        root: a run's checkpoints folder.

    Returns:
        The checkpoint, or None if there are no checkpoints; and the messages.

    Raises:
        CheckpointError: there are checkpoints but none is intact, or a newer version wrote the newest one.
    """
    problems: list[str] = []
    for folder in reversed(step_folders(root)):
        try:
            return verify(folder), problems
        except NewerCheckpointError:
            raise
        except CheckpointError as error:
            problems.append(str(error))
    if problems:
        raise CheckpointError(
            f"no checkpoint under {root} is intact: {'; '.join(problems)}. Delete the folder to train from the start"
        )
    return None, problems


def checkpoints_in(path: Path) -> list[Path]:
    """Return the checkpoints under a path: the path itself, or those of a run or of a run's checkpoints folder."""
    if _FOLDER.fullmatch(path.name) or any(path.glob("share-*")):
        return [path]
    return step_folders(path / CHECKPOINTS) or step_folders(path)


def resolve_checkpoint(path: Path) -> CheckpointInfo | None:
    """Return the verified checkpoint at a path; for a run its newest intact one, or None if it has no checkpoints.

    Newer checkpoints that are damaged are named in a warning.

    Raises:
        CheckpointError: the checkpoint is damaged, or all checkpoints of the run are damaged.
    """
    folders = checkpoints_in(path)
    if not folders:
        return None
    if folders == [path]:
        return verify(path)
    found, problems = newest_valid(folders[0].parent)
    for problem in problems:
        warnings.warn(f"skipped: {problem}", stacklevel=3)
    return found


def trained_model(info: CheckpointInfo) -> TrainedModel:
    """Return the model that a checkpoint belongs to. Options newer than the checkpoint have their defaults.

    Raises:
        CheckpointError: the trainer did not record the model, an option without a default is missing, or an option is
            unknown.
    """
    tree = {name: info.meta[name] for name in ("model", "heads", "seen", "hydrogens") if name in info.meta}
    try:
        return build(TrainedModel, tree, Origin(name=str(info.path / MANIFEST), recorded=True))
    except ConfigError as error:
        raise CheckpointError(f"checkpoint {info.path}: {error}") from error


def prune(newest: CheckpointInfo, keep: int, *, keep_best: bool, keep_steps: Collection[int] = ()) -> DiskUsage:
    """Mark the checkpoints of a run that are no longer needed; ``delete_marked`` deletes them.

    Checkpoints of steps after ``newest`` are marked too: the run continued from an earlier step because they were
    damaged or rolled back. A folder whose manifest cannot be read is not touched, so that a person can inspect it. The
    name of the best checkpoint is written into the file ``best``.

    Args:
        newest: the checkpoint that was published last.
        keep: number of newest checkpoints to keep; with 0 the best one is not kept either.
        keep_best: whether to keep the checkpoint with the lowest ``meta["validation_loss"]``; the loss is None in
            checkpoints that were not validated.
        keep_steps: steps whose checkpoints are always kept.
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
    kept |= {info.path for info in line if info.step in keep_steps}
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
            mark_deleted(info.path)
    return _disk_usage(readable, kept)


def _disk_usage(infos: Sequence[CheckpointInfo], kept: set[Path]) -> DiskUsage:
    left = [info.bytes for info in infos if info.path in kept]
    gone = [info.bytes for info in infos if info.path not in kept]
    return DiskUsage(kept=len(left), kept_bytes=sum(left), removed=len(gone), removed_bytes=sum(gone))


def delete_marked(root: Path) -> None:
    """Delete all marked checkpoints, including those marked by killed sessions; this takes a while for large files."""
    for folder in root.glob(f"{_DELETED}*"):
        shutil.rmtree(folder, ignore_errors=True)


def delete_leftovers(root: Path) -> None:
    """Delete half-written and half-deleted folders of killed sessions; no save may be running."""
    for leftover in root.glob("tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)  # a folder that cannot be deleted is harmless: see ``publish``


def _validation_loss(info: CheckpointInfo) -> float:
    loss = info.meta.get("validation_loss")
    return float(loss) if loss is not None and math.isfinite(loss) else math.inf


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""


def mark_deleted(folder: Path) -> None:
    """Rename a folder so that readers ignore it, and ``delete_marked`` deletes it; do nothing if it is missing."""
    with contextlib.suppress(FileNotFoundError):
        folder.rename(folder.with_name(f"{_DELETED}{folder.name}-{uuid.uuid4().hex[:8]}"))
