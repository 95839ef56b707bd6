"""Checks whether a folder or file can be written before any work starts. Leaves nothing behind."""

import os
import tempfile
from pathlib import Path

from unimol_scale.errors import ConfigError


def require_folder(folder: Path, setting: str = "--output") -> None:
    """Refuse a folder that cannot be written or made.

    Args:
        folder: the folder; neither it nor its parents need to exist.
        setting: the flag or setting that names the folder, for the message.

    Raises:
        ConfigError: the folder cannot be written or made.
    """
    existing = folder
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        below = "" if existing == folder else f", so {folder} cannot be made"
        kind = "a file" if existing.exists() else "a link to nothing"
        raise ConfigError(f"{setting}: {existing} is {kind}, not a folder{below}; choose another place")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ConfigError(
            f"{setting}: nothing can be written in {existing.resolve()} ({error.strerror}); choose another place, or "
            "change its permissions"
        ) from error


def require_file(file: Path, setting: str = "--output") -> None:
    """Refuse a file that cannot be written.

    Args:
        file: the file; neither it nor its folder needs to exist.
        setting: the flag or setting that names the file, for the message.

    Raises:
        ConfigError: the path is a folder, or its folder cannot be written.
    """
    if file.is_dir():
        raise ConfigError(f"{setting} {file} is a folder; give the name of a file")
    require_folder(file.parent, setting)
