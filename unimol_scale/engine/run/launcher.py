"""Watches whether the program that launched this rank still runs: deepspeed, torchrun or a ladder. Linux only.

SIGTERM ends ``deepspeed`` without notifying its ranks, which would train on alone and block port and folder for the
next start. Shells, terminals and ``nohup`` do not count as launchers: a run may outlive them.
"""

import os
from collections.abc import Sequence
from pathlib import Path

_PROC = Path("/proc")
# Scripts and modules as they appear on a command line.
_RUNNERS = ("deepspeed", "deepspeed.pt", "ds", "deepspeed.launcher.runner")
_NODE_LAUNCHER = "deepspeed.launcher.launch"  # started by ``deepspeed``, once on each node
_LAUNCHERS = (
    *_RUNNERS,
    _NODE_LAUNCHER,
    *("torchrun", "torch.distributed.run", "torch.distributed.launch"),
    *("unimol-scale", "unimol_scale.cli", "unimol_scale.cli.main"),
)
_PYTHON = ("python", "pypy")


class LauncherWatch:
    """Remembers which processes launched this one, and reports when one of them is gone.

    Every process from this one's parent up to the topmost launcher counts. A process whose parent dies gets a new
    parent.
    """

    def __init__(self) -> None:
        self._links: list[tuple[int, int]] = []
        self._runner_is_missing = False
        above: list[tuple[int, int]] = []
        pid = os.getpid()
        while (parent := _visible_parent(pid)) is not None and parent > 1:
            above.append((pid, parent))
            arguments = _arguments(parent)
            program = program_of(arguments)
            if program in _LAUNCHERS:
                self._links += above
                above = []
            if program == _NODE_LAUNCHER:
                # Only on other nodes is it started through ssh and told its node number.
                remote = any(text.startswith("--node_rank") for text in arguments)
                self._runner_is_missing = not remote and program_of(_arguments(_visible_parent(parent))) not in _RUNNERS
            pid = parent

    def is_gone(self) -> bool:
        """Return whether a launcher has ended; always False if there was none."""
        try:
            return self._runner_is_missing or any(_parent(pid) != parent for pid, parent in self._links)
        except OSError:  # for example too many open files: unknown now, so check again next time
            return False


def program_of(arguments: Sequence[str]) -> str:
    """Return the script or module that a command line runs, without folders: "torchrun" for ``python …/torchrun``.

    Args:
        arguments: arguments of the process, starting with its own name.
    """
    words = list(arguments)
    if words and Path(words[0]).name.startswith(_PYTHON):
        del words[0]
        while words and words[0].startswith("-"):  # -u and the like; a module follows -m
            del words[0]
    return Path(words[0]).name if words else ""


def _parent(pid: int) -> int | None:
    """Return the parent of a process; None if there is no such process."""
    if pid == os.getpid():
        return os.getppid()
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(text.rpartition(")")[2].split()[1])  # the process name before it may contain anything


def _visible_parent(pid: int) -> int | None:
    """Return the parent of a process; None if there is none or the system hides it, as for other users' processes."""
    try:
        return _parent(pid)
    except OSError:
        return None


def _arguments(pid: int | None) -> list[str]:
    try:
        content = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return os.fsdecode(content).split("\0")[:-1]
