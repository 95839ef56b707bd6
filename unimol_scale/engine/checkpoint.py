"""Checkpoints on disk: complete or absent, hashed, verified, newest valid first. Knows files, not what is in them.

The writer fills ``tmp-step-…``; a manifest with the size and SHA-256 of every file is written last inside it, the
folder is renamed to ``step-…``, and ``latest`` is replaced by rename. A kill at any moment leaves older ones untouched.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unimol_scale.errors import CheckpointError
from unimol_scale.store.shards import commit_text, flush, hash_file

MANIFEST = "manifest.json"
LATEST = "latest"


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """A published checkpoint.

    Attributes:
        path: its folder.
        step: optimizer steps done.
        meta: what the trainer recorded with it: ranks, counters.
    """

    path: Path
    step: int
    meta: dict[str, Any]


def folder_name(step: int) -> str:
    """Return the name of the checkpoint after ``step`` steps; names sort by step."""
    return f"step-{step:08d}"


def temporary_folder(root: Path, step: int) -> Path:
    """Return where a checkpoint is written before it is published; ``root`` is the run's checkpoints folder."""
    return root / f"tmp-{folder_name(step)}"


def hash_files(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """Flush files to disk and return name → size and SHA-256."""
    entries = {}
    for name in names:
        path = folder / name
        flush(path)
        entries[name] = {"bytes": path.stat().st_size, "sha256": hash_file(path)}
    return entries


def publish(root: Path, step: int, files: dict[str, dict[str, Any]], meta: dict[str, Any]) -> CheckpointInfo:
    """Make a written checkpoint the newest one.

    Args:
        root: the run's checkpoints folder.
        step: optimizer steps done.
        files: name → size and SHA-256, of every file of every rank.
        meta: recorded with it.
    """
    temporary, final = temporary_folder(root, step), root / folder_name(step)
    commit_text(temporary / MANIFEST, json.dumps({"step": step, "meta": meta, "files": files}, indent=1))
    if final.exists():  # written again after a resume from before it
        shutil.rmtree(final)
    temporary.rename(final)
    commit_text(root / LATEST, final.name)
    return CheckpointInfo(path=final, step=step, meta=meta)


def verify(folder: Path) -> CheckpointInfo:
    """Read a checkpoint's manifest and re-hash every file.

    Raises:
        CheckpointError: it is incomplete or damaged; names the file.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {folder} has no readable {MANIFEST}: {error}") from error
    for name, entry in manifest["files"].items():
        if not (folder / name).is_file():
            raise CheckpointError(f"checkpoint {folder}: {name} is missing")
        size = (folder / name).stat().st_size
        if size != entry["bytes"]:
            raise CheckpointError(f"checkpoint {folder}: {name} has {size} bytes, not {entry['bytes']}")
        if hash_file(folder / name) != entry["sha256"]:
            raise CheckpointError(f"checkpoint {folder}: {name} is damaged (its SHA-256 differs)")
    return CheckpointInfo(path=folder, step=manifest["step"], meta=manifest["meta"])


def newest_valid(root: Path) -> tuple[CheckpointInfo | None, list[str]]:
    """Return the newest checkpoint that verifies, and one line for each newer one that does not.

    Raises:
        CheckpointError: there are checkpoints and none is valid.
    """
    folders = sorted((p for p in root.glob("step-*") if re.fullmatch(r"step-\d{8,}", p.name)), reverse=True)
    problems: list[str] = []
    for folder in folders:
        try:
            return verify(folder), problems
        except CheckpointError as error:
            problems.append(str(error))
    if problems:
        raise CheckpointError(
            f"no checkpoint under {root} is intact: {'; '.join(problems)}. Delete the folder to train from the start"
        )
    return None, problems


def prune(root: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints, and what unfinished saves left behind."""
    for leftover in root.glob("tmp-step-*"):
        shutil.rmtree(leftover)
    for folder in sorted(root.glob("step-*"))[:-keep]:
        shutil.rmtree(folder)
