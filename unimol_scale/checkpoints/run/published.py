"""Published checkpoints of a run: found, read, verified, newest intact first. Knows files, not what is in them.

A checkpoint is a folder ``step-…`` with the shares of all ranks and ``manifest.json``: format version, step, what the
trainer recorded, and size and SHA-256 of every share. The manifest has a hash of itself. Folders ``tmp-…`` are saves
that were cut off or checkpoints that are being deleted; they never count.
"""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unimol_scale.checkpoints.safetensors_writer import FileEntry
from unimol_scale.common.file_versions import version_problem
from unimol_scale.common.files import hash_file
from unimol_scale.common.run_files import CHECKPOINTS
from unimol_scale.common.text.json_files import NotJsonError, hash_json, read_json
from unimol_scale.config import Origin, build
from unimol_scale.errors import CheckpointError, ConfigError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_FOLDER = re.compile(r"step-\d{8,}")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What ``manifest.json`` says, its own hash apart.

    Attributes:
        format_version: of the folder's layout.
        step: optimizer steps done.
        meta: what the trainer recorded.
        files: name → size and hash.
    """

    format_version: int
    step: int
    meta: dict[str, Any]
    files: dict[str, FileEntry]


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """A published checkpoint.

    Attributes:
        path: its folder.
        step: optimizer steps done.
        meta: what the trainer recorded with it: ranks, counters.
        files: name → size and hash of each share.
        sha256: of the manifest's content, which covers every file: the identity of the whole.
    """

    path: Path
    step: int
    meta: Mapping[str, Any]
    files: Mapping[str, FileEntry]
    sha256: str

    @property
    def bytes(self) -> int:
        """Size of all shares."""
        return sum(entry.bytes for entry in self.files.values())


def folder_name(step: int) -> str:
    """Return the name of the checkpoint after ``step`` steps."""
    return f"step-{step:08d}"


def step_folders(root: Path) -> list[Path]:
    """Return the published checkpoints under a run's checkpoints folder, intact or not, by ascending step."""
    folders = [path for path in root.glob("step-*") if _FOLDER.fullmatch(path.name) and path.is_dir()]
    return sorted(folders, key=lambda path: int(path.name.removeprefix("step-")))


def content_hash(tree: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest's content, its own hash apart, whatever the spacing of its text."""
    content = {key: value for key, value in tree.items() if key != "sha256"}
    return hash_json(content)


def read_manifest(folder: Path) -> CheckpointInfo:
    """Read what a checkpoint says of itself; the shares are not looked at.

    Raises:
        CheckpointError: the manifest is missing, damaged or of another format.
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
            f"checkpoint {folder} is in DeepSpeed's own format, which an earlier version wrote and this one does not "
            "read; finish that run with the version that began it, or choose another --output"
        )
    if problem := version_problem(version, FORMAT_VERSION):
        raise CheckpointError(f"checkpoint {folder}: {MANIFEST}: {problem}")
    stated = tree.pop("sha256", None)
    if stated != content_hash(tree):
        raise CheckpointError(f"checkpoint {folder}: {MANIFEST} is damaged (its SHA-256 differs)")
    try:
        manifest = build(Manifest, tree, Origin(name=str(path), recorded=True))
    except ConfigError as error:
        raise CheckpointError(f"checkpoint {folder}: {error}") from error
    return CheckpointInfo(path=folder, step=manifest.step, meta=manifest.meta, files=manifest.files, sha256=str(stated))


def verify(folder: Path) -> CheckpointInfo:
    """Read a checkpoint's manifest and re-hash every share.

    Raises:
        CheckpointError: it is incomplete or damaged; names the file.
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
    """Return the newest checkpoint that verifies, and one line for each newer one that does not.

    Args:
        root: a run's checkpoints folder.

    Raises:
        CheckpointError: there are checkpoints and none is intact.
    """
    problems: list[str] = []
    for folder in reversed(step_folders(root)):
        try:
            return verify(folder), problems
        except CheckpointError as error:
            problems.append(str(error))
    if problems:
        raise CheckpointError(
            f"no checkpoint under {root} is intact: {'; '.join(problems)}. Delete the folder to train from the start"
        )
    return None, problems


def checkpoints_in(path: Path) -> list[Path]:
    """Return the checkpoints that a path stands for: itself, or those of a run or of a run's checkpoints folder."""
    if _FOLDER.fullmatch(path.name) or any(path.glob("share-*")):
        return [path]
    return step_folders(path / CHECKPOINTS) or step_folders(path)


def find(path: Path) -> CheckpointInfo | None:
    """Return the checkpoint that a path stands for, verified; of a run the newest intact one. None: there is none.

    Warns of damaged ones that are newer.

    Raises:
        CheckpointError: it is damaged, or all are.
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
