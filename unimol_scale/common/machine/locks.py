"""File locks, which the system releases when the process that holds them ends.

They use ``flock``, which works between the processes of a machine, and between machines if the network file system
supports it. A file system without locks is an error, since unprotected writes could silently damage data.
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

PATIENCE_S = 2.0  # longer waits are reported
_LONGEST_NAME = 200


class HeldError(Exception):
    """Another process holds the lock.

    Attributes:
        holder: who holds it, as the end of a sentence: " (process 12 on host)"; empty if the file does not say.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(f"another process holds the lock{holder}")
        self.holder = holder


def claim_lock(path: Path) -> IO[bytes]:
    """Lock a file for this process alone, or fail at once.

    Args:
        path: the lock file, made if it is missing; its folder must exist. The holder's name is written into it.

    Returns:
        The open file; the lock is held until it is closed or this process ends.

    Raises:
        HeldError: another process holds it.
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
    """Hold an exclusive lock while the block runs; wait for it as long as it takes.

    Args:
        path: the lock file, made if it is missing; its folder must exist. The holder's name is written into it.
        tell: called once, in another thread, if the wait takes longer than two seconds. Its argument names the holder,
            as ``HeldError.holder`` does.

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
    """Hold a lock while the block runs, without writing the holder's name into the file.

    Args:
        path: the lock file, made if it is missing; its folder must exist.
        shared: whether other processes may hold the lock at the same time, if they share it too.
        wait: whether to wait until the lock is free; if not, the block runs without a lock that is taken.

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
    """Lock the file and return True; return False if another process holds the lock and ``kind`` forbids waiting."""
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
    """Write who holds the lock into its file; on a full disk the name stays unknown."""
    with contextlib.suppress(OSError):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())


def _holder(file: IO[bytes]) -> str:
    try:
        file.seek(0)
        name = file.read(_LONGEST_NAME).decode(errors="replace").strip()
    except (OSError, ValueError):  # ValueError: the waiting thread has closed the file in the meantime
        return ""
    return f" ({name})" if name else ""
