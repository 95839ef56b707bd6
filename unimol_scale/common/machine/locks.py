"""Locks on files, which the system gives up when their process ends.

They are those of ``flock``: between the processes of a machine, and between machines where a network file system passes
them on. Where the file system has none, that is an error and says so: going on unprotected would damage data silently.
"""

import contextlib
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from unimol_scale.common.progress import told_after
from unimol_scale.errors import StoreError

PATIENCE_S = 2.0  # a wait that takes longer is told
_LONGEST_NAME = 200


class HeldError(Exception):
    """Somebody else holds the lock.

    Attributes:
        holder: who, for the end of a sentence: " (process 12 on host)"; empty where the file does not say.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(f"another process holds the lock{holder}")
        self.holder = holder


def claim_lock(path: Path) -> IO[bytes]:
    """Lock a file for this process alone, or fail at once.

    Args:
        path: of the lock file, in a folder that is there; made if it is not. Who holds it is written into it.

    Returns:
        The open file; the lock is held until it is closed or this process ends.

    Raises:
        HeldError: somebody else holds it.
        StoreError: the file system has no locks.
    """
    file = _open(path)
    try:
        if not _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            raise HeldError(_holder(file))
        _sign(file)
    except BaseException:
        file.close()
        raise
    return file


@contextlib.contextmanager
def wait_for_lock(path: Path, tell: Callable[[str], object]) -> Iterator[None]:
    """Hold a lock alone while the block runs; wait for it as long as it takes.

    Args:
        path: of the lock file, in a folder that is there; made if it is not. Who holds it is written into it.
        tell: called once, in another thread, if the wait takes longer than two seconds; gets who holds the lock, as in
            ``HeldError.holder``.

    Raises:
        StoreError: the file system has no locks.
    """
    with _open(path) as file:
        if not _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            with told_after(PATIENCE_S, lambda: tell(_holder(file))):
                _lock(file, fcntl.LOCK_EX)
        _sign(file)
        yield


@contextlib.contextmanager
def hold_lock(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold a lock while the block runs; tell nobody, and leave the file as it is.

    Args:
        path: of the lock file, in a folder that is there; made if it is not.
        shared: together with others that share it; else alone.
        wait: as long as it takes; else the block runs without the lock.

    Yields:
        Whether the lock is held.

    Raises:
        StoreError: the file system has no locks.
    """
    with _open(path) as file:
        yield _lock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))


def _open(path: Path) -> IO[bytes]:
    return path.open("a+b", buffering=0)  # unlike "w", keeps what the holder has written


def _lock(file: IO[bytes], kind: int) -> bool:
    """Return whether the file is locked now; False if that would have meant to wait."""
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        return False
    except OSError as error:  # which one depends on the file system
        raise StoreError(
            f"{file.name} cannot be locked: {error.strerror}. Some network mounts have no file locks, and without them "
            "two processes could spoil each other's files; choose a place on another file system"
        ) from error
    return True


def _sign(file: IO[bytes]) -> None:
    """Write who holds the lock into its file; on a full disk nobody learns it."""
    with contextlib.suppress(OSError):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())


def _holder(file: IO[bytes]) -> str:
    try:
        file.seek(0)
        name = file.read(_LONGEST_NAME).decode(errors="replace").strip()
    except (OSError, ValueError):  # ValueError: closed in the meantime, by the thread that waited
        return ""
    return f" ({name})" if name else ""
