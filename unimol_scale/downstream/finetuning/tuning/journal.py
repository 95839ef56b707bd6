"""Opens the journal of a search, also after a kill in the middle of a write. Imports Optuna."""

from pathlib import Path
from typing import Any

# A writer holds the lock for some milliseconds. One that is older belongs to a process that was killed.
_LOCK_SECONDS = 5


def open_journal(path: Path) -> Any:  # noqa: ANN401 - a class without types
    """Return Optuna's backend for a journal, one JSON object per line.

    Raises:
        OSError: the journal cannot be read or written.
    """
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    _cut_torn_line(path)
    # The lock is a symbolic link to this path. If it leads nowhere, as a relative path does from the lock's folder,
    # Optuna waits for ever, since it cannot see how old the lock is.
    file = str(path.resolve())
    lock = Path(f"{file}.lock")
    if lock.is_symlink() and not lock.exists():  # left by an earlier version, whose paths were relative
        lock.unlink()
    return JournalFileBackend(file, lock_obj=JournalFileSymlinkLock(file, grace_period=_LOCK_SECONDS))


def _cut_torn_line(path: Path) -> None:
    """Remove an incomplete last line: the next one would be appended to it, and neither could be read."""
    if not path.is_file():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("rb+") as file:
            file.truncate(whole)
