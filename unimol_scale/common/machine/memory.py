"""The memory of this machine: what is left of it, what this process holds, and when malloc gives it back."""

import ctypes
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_PROC = Path("/proc")
# Of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_GIVEN_BACK_FROM = 2**20
_KEPT_UP_TO, _LARGEST_ON_HEAP = 2**31 - 1, 2**25  # the most that mallopt takes


def return_freed_memory() -> None:
    """Make malloc return freed tensors to the system, where it is glibc's; a user's own ``MALLOC_…`` settings win.

    Unasked it raises its thresholds with every large block that is freed and keeps what it gets back in pieces: a
    process grows far beyond what it uses, and a model of 1.1B parameters does not fit in 24 GiB. Asked, it spends time
    on page faults instead, which small models feel.
    """
    _set_malloc(trim=_GIVEN_BACK_FROM, mmap=_GIVEN_BACK_FROM)


def keep_freed_memory() -> None:
    """Make malloc keep freed tensors for the next ones: the opposite, for work whose memory is the same all along.

    Unasked it returns them now and then, and the system hands out zeroed pages again, one fault each: 4 to 13 % of
    the time of a 0.5M model's forward pass [measured].
    """
    _set_malloc(trim=_KEPT_UP_TO, mmap=_LARGEST_ON_HEAP)


def _set_malloc(*, trim: int, mmap: int) -> None:
    if any(name in os.environ for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "LD_PRELOAD")):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another system, another allocator
        return
    mallopt(_M_MMAP_THRESHOLD, mmap)
    mallopt(_M_TRIM_THRESHOLD, trim)


def available_bytes() -> int | None:
    """Return the memory that this process and its siblings may still take; None where the system does not say."""
    try:
        lines = (_PROC / "meminfo").read_text(encoding="ascii").splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None
    try:  # a container's limit; its page cache gives way
        limit = int((_CGROUP / "memory.max").read_text(encoding="ascii"))
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        stat = (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
        cache = next(int(line.split()[1]) for line in stat if line.startswith("inactive_file "))
    except (OSError, StopIteration, ValueError):  # no limit, or no cgroups
        return available
    return min(available, max(0, limit - used + cache))


def resident_bytes() -> int:
    """Return the memory that this process holds; 0 where the system does not say."""
    try:
        pages = int((_PROC / "self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def local_ranks() -> int:
    """Return the ranks that share this machine, as the launcher said."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or "1")
