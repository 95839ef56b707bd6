"""Threads: the user's word first, then affinity, quota, siblings and the size of the model; waiting is passive."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from unimol_scale.common.machine import threads

REPOSITORY = Path(__file__).resolve().parents[4]


@pytest.fixture
def unsaid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Nobody has said anything, and no control group limits anything."""
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    for name in (*names, "TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(threads, "_PROC", tmp_path / "proc")
    return monkeypatch


def test_threads_wait_passively_unless_the_user_has_said_how_they_wait(unsaid: pytest.MonkeyPatch) -> None:
    threads.wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    unsaid.setenv("OMP_WAIT_POLICY", "active")
    threads.wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == "active"
    unsaid.delenv("OMP_WAIT_POLICY")
    unsaid.setenv("GOMP_SPINCOUNT", "100")
    threads.wait_passively()
    assert "OMP_WAIT_POLICY" not in os.environ


@pytest.mark.parametrize("entry", ["unimol_scale.cli.main", "conformer_gen.build", "launch.pretrain"])
def test_commands_say_so_before_torch_is_there_to_read_it(entry: str) -> None:
    program = f"import sys, {entry}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=False).returncode == 0


def test_a_small_model_gets_no_more_threads_than_its_size_can_use(unsaid: pytest.MonkeyPatch) -> None:
    assert threads.threads_for(30_000, cores=16) == 1
    assert threads.threads_for(109_000, cores=16) == 1
    assert threads.threads_for(84_000_000, cores=16) == 16


def test_what_the_user_set_wins_over_size_and_cores(unsaid: pytest.MonkeyPatch) -> None:
    unsaid.setenv("OMP_NUM_THREADS", "3")
    assert threads.threads_for(30_000, cores=2) == 3
    unsaid.setenv("OMP_NUM_THREADS", "1")
    assert threads.threads_for(84_000_000, cores=16) == 1
    unsaid.setenv("OMP_NUM_THREADS", "4,2")
    assert threads.given_threads() == 4
    for nonsense in ("", "0", "many"):
        unsaid.setenv("OMP_NUM_THREADS", nonsense)
        assert threads.given_threads() is None


def test_torchruns_own_one_is_not_the_users_word(unsaid: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "2"}.items():
        unsaid.setenv(name, value)
    started_with = tmp_path / "proc" / str(os.getppid()) / "environ"
    started_with.parent.mkdir(parents=True)
    started_with.write_bytes(b"HOME=/root\0PATH=/bin\0")
    assert threads.given_threads() is None
    started_with.write_bytes(b"HOME=/root\0OMP_NUM_THREADS=1\0")
    assert threads.given_threads() == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_cores_are_those_of_the_affinity(unsaid: pytest.MonkeyPatch) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert threads.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/job/step\n", {"job/cpu.max": "300000 100000\n", "job/step/cpu.max": "max 100000\n"}, 3),
        ("0::/of/the/host\n", {"cpu.max": "400000 100000\n"}, 4),
        ("4:cpu,x:/a\n", {"cpu,x/cpu.cfs_quota_us": "500000", "cpu,x/cpu.cfs_period_us": "100000"}, 5),
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
    ],
)  # fmt: skip
def test_a_containers_quota_counts_as_cores(
    unsaid: pytest.MonkeyPatch, tmp_path: Path, groups: str, files: dict[str, str], cores: int
) -> None:
    unsaid.setattr(threads, "affinity", lambda: frozenset(range(8)))
    for name, text in {"proc/self/cgroup": groups, **{f"cgroup/{name}": text for name, text in files.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="ascii")
    assert threads.usable_cores() == cores


def test_siblings_share_cores_that_they_have_in_common_and_keep_their_own() -> None:
    machine = frozenset(range(8))
    assert threads.fair_share(machine, [machine] * 4) == 2
    bound = [frozenset({0, 1, 2, 3}), frozenset({4, 5, 6, 7})]
    assert threads.fair_share(bound[0], bound) == 4
    assert threads.fair_share(machine, [machine] * 3) == 2
    assert threads.fair_share(frozenset({0}), [frozenset({0})] * 2) == 1
