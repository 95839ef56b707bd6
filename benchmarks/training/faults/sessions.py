"""Sessions of one pretraining run: start the command, follow its progress, kill its processes, compare its curve.

Linux only: the processes of a session are found by a mark in their environment.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from benchmarks.common import REPOSITORY
from unimol_scale.common.metrics_file import read_metrics
from unimol_scale.common.run_files import CHECKPOINTS, METRICS_NAME

SCRIPT = REPOSITORY / "launch" / "pretrain.py"
CURVE = ("loss", "valid/loss", "grad_norm")
_MARK = "UNIMOL_FAULTS_RUN"
_POLL_S = 0.01
_PATIENCE_S = 300.0  # longest wait for one event, on a busy machine
_TAIL = 4096
_STEP = re.compile(rb'"step": (\d+)')


class Session:
    """One start of the command, running until it ends or is killed.

    Args:
        arguments: of pretrain.py.
        log: file for what it prints.
        ranks: under the ``deepspeed`` launcher; 1 is plain ``python``.
    """

    def __init__(self, arguments: Sequence[object], log: Path, ranks: int) -> None:
        self._log = log
        self._mark = uuid.uuid4().hex
        program = Path(sys.executable).parent
        launcher = [str(program / "deepspeed"), "-q", "--num_gpus", str(ranks), "--master_port", str(_free_port())]
        command = [*(launcher if ranks > 1 else [sys.executable]), str(SCRIPT), *map(str, arguments)]
        environment = {
            **os.environ,
            "PATH": f"{program}{os.pathsep}{os.environ['PATH']}",
            "LOCAL_SIZE": str(ranks),
            _MARK: self._mark,
        }
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        self._first = psutil.Process(self._process.pid)

    @property
    def status(self) -> int | None:
        """Exit status of the command; None while it runs."""
        return self._process.poll()

    @property
    def text(self) -> str:
        """The output so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def family(self) -> list[psutil.Process]:
        """Return the launcher, the ranks, their loaders, and whatever else came of this start."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(_MARK) == self._mark:
                    found.append(process)
            except psutil.Error:  # gone, or not ours
                continue
        return found

    def ranks(self) -> dict[int, psutil.Process]:
        """Return the rank processes that there are, by rank; under plain ``python`` the command itself is rank 0."""
        found = {}
        for process in self.family():
            try:
                rank = process.environ().get("RANK")
                is_rank = str(SCRIPT) in process.cmdline()
            except psutil.Error:
                continue
            if is_rank and rank is not None:
                found[int(rank)] = process
        return found or {0: self._first}

    def loaders(self) -> list[psutil.Process]:
        """Return the data loader processes: children of a fork server, which is a child of a rank."""
        servers = {process.pid for process in self.family() if _is_forkserver(process)}
        return [process for process in self.family() if _is_forkserver(process) and process.ppid() in servers]

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Wait until a condition holds; return False if the session ended first.

        Raises:
            TimeoutError: neither happened.
        """
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            if condition():
                return True
            if self.status is not None:
                return False
            time.sleep(_POLL_S)
        raise TimeoutError(f"waited {_PATIENCE_S:.0f} s in vain, see {self._log}")

    def finish(self) -> int:
        """Wait for the end of the command; return its status."""
        return self._process.wait(timeout=2 * _PATIENCE_S)

    def fall(self, processes: Sequence[psutil.Process]) -> float:
        """Kill processes with SIGKILL; return the seconds until nothing of the session is left.

        Processes that are still there after the longest wait are ended, so that a benchmark leaves nothing behind.
        """
        begun = time.monotonic()
        for process in processes:
            _send(process, signal.SIGKILL)
        while time.monotonic() - begun < _PATIENCE_S:
            self._process.poll()  # reaps it
            if not any(map(_is_alive, self.family())):
                return time.monotonic() - begun
            time.sleep(10 * _POLL_S)
        for process in self.family():
            _send(process, signal.SIGKILL)
        return time.monotonic() - begun

    def signal_ranks(self, number: signal.Signals) -> None:
        """Send a signal to every rank."""
        for process in self.ranks().values():
            _send(process, number)

    def resumed_step(self) -> int:
        """Return the step from which the session continued; 0 if it started from the beginning."""
        found = re.search(r"goes on from .*\(step (\d+)\)", self.text)
        return int(found[1]) if found else 0

    @property
    def is_under_way(self) -> bool:
        """Whether it has loaded its state and begun with its steps."""
        return "goes on from" in self.text or "step 0  validation loss" in self.text

    def message(self, *keys: str) -> str:
        """Return the first line that it printed with one of some words in it, the first that occurs; "" for none."""
        lines = self.text.splitlines()
        return next((shorten(line) for key in keys for line in lines if key in line), "")


def shorten(line: str) -> str:
    """Return a printed line without stamps and command lines before it, and with file names in place of paths."""
    line = re.sub(r"^(\[[^\]]*\] ?)+", "", line)
    line = re.sub(r"^.*Warning: ", "warning: ", line)
    line = re.sub(r"^exits with", "a rank exits with", line)
    return re.sub(r"(?<![\w.])/[\w./-]*/", "", line).strip()


def last_step(run: Path) -> int:
    """Return the last step in a run's metrics, cheaply; 0 if there is none."""
    try:
        with (run / METRICS_NAME).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            steps = _STEP.findall(file.read())
    except FileNotFoundError:
        return 0
    return int(steps[-1]) if steps else 0


def is_saving(run: Path) -> bool:
    """Return whether a save is in progress: its folder is there and not published."""
    return any((run / CHECKPOINTS).glob("tmp-step-*"))


def curve(run: Path) -> dict[str, dict[int, float]]:
    """Return key → step → value of what must come out alike."""
    events = read_metrics(run / METRICS_NAME).events
    return {key: {event["step"]: event[key] for event in events if key in event} for key in CURVE}


def write_json(path: Path, tree: object) -> None:
    """Write a file at once or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(tree, indent=1), encoding="utf-8")
    temporary.replace(path)


def _is_forkserver(process: psutil.Process) -> bool:
    try:
        return any("forkserver" in argument for argument in process.cmdline())
    except psutil.Error:
        return False


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
