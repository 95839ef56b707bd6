"""Chooses the number of CPU threads and how they wait. Imports the standard library only.

``OMP_NUM_THREADS`` takes precedence. Without it, the number follows from the cores that this process may use (its
affinity as set by taskset, Slurm or cpusets, and the CPU quota of its container); a small model uses fewer threads.
"""

import os
from collections.abc import Collection, Sequence
from pathlib import Path

NUM_THREADS = "OMP_NUM_THREADS"
# A 0.1M model takes as long on two threads as on one [measured].
PARAMETERS_PER_THREAD = 100_000
_WAIT_POLICY = "OMP_WAIT_POLICY"
# Each of these tells one OpenMP library or another how its threads wait.
_WAIT_SETTINGS = (_WAIT_POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")


def wait_passively() -> None:
    """Make OpenMP threads sleep while they wait, here and in child processes, unless the user has set how they wait.

    OpenMP libraries read the setting once, when they are loaded: call this before torch is imported. Spinning threads
    keep a core from other programs: on two cores that other programs used too, a training of 22 s took 225 s with
    spinning threads and 26 s with passive waiting [measured].
    """
    if not any(name in os.environ for name in _WAIT_SETTINGS):
        os.environ[_WAIT_POLICY] = "PASSIVE"


def usable_cores() -> int:
    """Return the number of cores that this process may use: its affinity, limited by the quota of its container."""
    return max(1, int(min(len(affinity()), cpu_quota())))


def affinity() -> frozenset[int]:
    """Return the numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def given_threads() -> int | None:
    """Return the user's ``OMP_NUM_THREADS``, the first number if it is a list; None if the user has not set it.

    For several ranks torchrun sets the variable to 1 if it is not set. That value is not the user's and is ignored.
    """
    text = os.environ.get(NUM_THREADS, "").split(",")[0].strip()
    if not text.isdecimal() or int(text) == 0 or (text == "1" and _is_torchruns_default()):
        return None
    return int(text)


def threads_for(parameters: int, cores: int) -> int:
    """Return the number of threads for a model: the user's setting, else no more than its size can use.

    Args:
        parameters: number of parameters of the model.
        cores: number of cores that this process may use.
    """
    return given_threads() or max(1, min(cores, parameters // PARAMETERS_PER_THREAD))


def fair_share(mine: Collection[int], of_all: Sequence[Collection[int]]) -> int:
    """Return the number of cores that a process can count on while its siblings compute too.

    Siblings bound to cores of their own have them to themselves; siblings that may run on the same cores share them.

    Args:
        mine: numbers of the cores that this process may run on.
        of_all: the same for every sibling on the machine, including this process.
    """
    return max(1, int(sum(1 / sum(core in cores for cores in of_all) for core in mine) + 1e-9))


def cpu_quota() -> float:
    """Return the CPU quota of this process's control groups, in cores; infinite without a limit."""
    try:
        lines = (_PROC / "self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return float("inf")
    quotas = [float("inf")]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = _CGROUP / controllers  # empty in version 2
        group = root / path.lstrip("/")
        # A group's own limit and those above it; in a container the path may be the host's, and only the root is there.
        for folder in dict.fromkeys([group, *group.parents, root]):
            if folder == root or root in folder.parents:
                quotas.append(_quota_of(folder))
    return min(quotas)


def _is_torchruns_default() -> bool:
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("LOCAL_WORLD_SIZE", "1") == "1":
        return False
    try:  # the environment that the parent, torchrun, was started with, before it changed it
        parent = (_PROC / str(os.getppid()) / "environ").read_bytes()
    except OSError:
        return False
    return not any(entry.startswith(f"{NUM_THREADS}=".encode()) for entry in parent.split(b"\0"))


def _quota_of(group: Path) -> float:
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):  # versions 2 and 1
        try:
            words = " ".join((group / name).read_text(encoding="ascii") for name in names).split()
            quota, period = float(words[0]), float(words[1])
        except (OSError, ValueError, IndexError):  # no such file, or "max"
            continue
        if quota > 0 and period > 0:  # -1: no limit
            return quota / period
    return float("inf")
