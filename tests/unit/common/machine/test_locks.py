"""Locks on files: who holds one is said, whoever dies lets go, and a file system without locks is told."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.full_disk import files_no_larger_than
from unimol_scale.common.machine import locks
from unimol_scale.common.machine.locks import HeldError, claim_lock, hold_lock, wait_for_lock
from unimol_scale.errors import StoreError

REPOSITORY = Path(__file__).resolve().parents[4]
HOLDER = """
import sys, time
from pathlib import Path
from unimol_scale.common.machine.locks import claim_lock
file = claim_lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds the lock ``tmp_path / "lock"``."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_who_holds_a_lock_is_named_and_lets_go_when_it_is_killed(
    tmp_path: Path, other: "subprocess.Popen[str]"
) -> None:
    with pytest.raises(HeldError) as refused:
        claim_lock(tmp_path / "lock")
    assert refused.value.holder.startswith(f" (process {other.pid} on ")
    other.kill()
    other.wait()
    with claim_lock(tmp_path / "lock"), pytest.raises(HeldError, match=f"process {os.getpid()} on "):
        claim_lock(tmp_path / "lock")
    claim_lock(tmp_path / "lock").close()


def test_a_lock_file_of_an_earlier_version_names_nobody(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(HeldError) as refused:
            claim_lock(tmp_path / "lock")
        assert refused.value.holder == ""


def test_a_long_wait_is_told_once_with_the_holder(
    tmp_path: Path, other: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PATIENCE_S", 0.05)
    told: list[str] = []
    entered = threading.Event()

    def wait() -> None:
        with wait_for_lock(tmp_path / "lock", told.append):
            entered.set()

    thread = threading.Thread(target=wait)
    thread.start()
    deadline = time.monotonic() + 60
    while not told and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not entered.is_set()
    other.kill()
    thread.join(60)
    assert entered.is_set()
    assert len(told) == 1
    assert told[0].startswith(f" (process {other.pid} on ")


def test_what_is_free_is_held_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE_S", 0.0)
    told: list[str] = []
    with wait_for_lock(tmp_path / "lock", told.append), pytest.raises(HeldError):
        claim_lock(tmp_path / "lock")
    assert told == []


def test_many_share_a_lock_and_one_holds_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with hold_lock(path, shared=True) as one, hold_lock(path, shared=True, wait=False) as two:
        assert (one, two) == (True, True)
        with hold_lock(path, wait=False) as alone:
            assert not alone
    with hold_lock(path) as alone, hold_lock(path, shared=True, wait=False) as shared:
        assert (alone, shared) == (True, False)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(file: object, kind: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    expected = f"{tmp_path / 'lock'} cannot be locked: {os.strerror(code)}.*another file system"
    with pytest.raises(StoreError, match=expected):
        claim_lock(tmp_path / "lock")
    with pytest.raises(StoreError, match=expected), wait_for_lock(tmp_path / "lock", print):
        pytest.fail("entered")
    with pytest.raises(StoreError, match=expected), hold_lock(tmp_path / "lock"):
        pytest.fail("entered")


def test_a_full_disk_keeps_nobody_from_a_lock(tmp_path: Path) -> None:
    with files_no_larger_than(0), claim_lock(tmp_path / "lock"), pytest.raises(HeldError) as refused:
        claim_lock(tmp_path / "lock")
    assert refused.value.holder == ""
