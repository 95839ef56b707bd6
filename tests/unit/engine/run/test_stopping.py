"""A run is told to stop: noted for the step loop once there is something to save, the end of the process before."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unimol_scale.engine.run import stopping
from unimol_scale.engine.run.stopping import StopRequest

REPOSITORY = Path(__file__).resolve().parents[4]


def wait_for(stop: StopRequest) -> str | None:
    deadline = time.monotonic() + 10
    while stop.reason is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return stop.reason


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGTERM, "SIGTERM"),
        (signal.SIGUSR1, "SIGUSR1"),
        (signal.SIGINT, "Ctrl-C"),
        (signal.SIGHUP, "SIGHUP"),
    ],
)
def test_requests_are_noted_once_there_are_steps_and_handlers_return(number: signal.Signals, reason: str) -> None:
    interrupts = signal.signal(signal.SIGINT, signal.default_int_handler)
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may themselves run under nohup
    try:
        before = signal.getsignal(number)
        with StopRequest() as stop:
            stop.steps_begin()
            assert stop.reason is None
            os.kill(os.getpid(), number)
            assert wait_for(stop) == reason
        assert signal.getsignal(number) == before
    finally:
        signal.signal(signal.SIGINT, interrupts)
        signal.signal(signal.SIGHUP, hangup)


def test_a_closed_terminal_does_not_stop_a_run_under_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            stop.steps_begin()
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            assert wait_for(stop) == "SIGTERM"
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_launcher_that_is_gone_is_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def is_gone(self) -> bool:
            return True

    monkeypatch.setattr(stopping, "LauncherWatch", Gone)
    monkeypatch.setattr(stopping, "_LOOK_SECONDS", 0.3)
    with StopRequest() as stop:
        stop.steps_begin()
        assert wait_for(stop) == "the launcher is gone"


def test_a_rank_whose_own_look_is_yet_to_come_names_the_launcher_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Watch:
        gone = False

        def is_gone(self) -> bool:
            return self.gone

    monkeypatch.setattr(stopping, "LauncherWatch", Watch)
    monkeypatch.setattr(stopping, "_LOOK_SECONDS", 3600)
    with StopRequest() as stop:
        stop.steps_begin()
        assert stop.why() == "another rank was told to stop"
        Watch.gone = True
        assert stop.reason is None
        assert stop.why() == "the launcher is gone"


# The main thread hears nothing by itself: it waits inside a system call, as inside a collective.
RUN = """
from unimol_scale.engine.run.stopping import StopRequest
import ctypes
with StopRequest() as stop:
    if {steps}:
        stop.steps_begin()
    print("ready", flush=True)
    for _ in range(200):
        ctypes.CDLL(None).usleep(100_000)
"""


def start(*, steps: bool, launched: bool = False) -> "subprocess.Popen[str]":
    environment = {key: value for key, value in os.environ.items() if key != "RANK"} | {"PYTHONPATH": str(REPOSITORY)}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN.format(steps=steps)],
            env={**environment, "RANK": "0"} if launched else environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_before_the_first_step_a_run_ends_at_once_with_the_status_of_a_stopped_one(number: signal.Signals) -> None:
    process = start(steps=False)
    process.send_signal(number)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 75
    assert errors.startswith("Stopped before the first step")
    assert errors.count("\n") == 1


def test_a_second_ctrl_c_ends_a_run_at_once() -> None:
    process = start(steps=True)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "A second Ctrl-C ends the run at once" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_the_ctrl_c_that_a_launcher_sends_on_is_not_a_second_one() -> None:
    process = start(steps=True, launched=True)
    for _ in range(3):  # from the terminal, and from the launcher
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    assert process.poll() is None
    process.kill()
    process.communicate()
