"""The memory of the machine: what the system says, and whether malloc returns what was freed."""

import subprocess
import sys
from pathlib import Path

import pytest

from unimol_scale.common.machine import memory

MIB = 2**20
# Blocks as a training step frees them: between others that stay, after a larger one has raised malloc's thresholds.
HOLDS_AFTER_FREEING = """
import ctypes, sys
from unimol_scale.common.machine.memory import resident_bytes, return_freed_memory
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.free(libc.malloc(24 << 20))
if sys.argv[1] == "asked":
    return_freed_memory()
before, blocks, kept = resident_bytes(), [], []
for _ in range(40):
    blocks.append(libc.malloc(4 << 20))
    ctypes.memset(blocks[-1], 1, 4 << 20)
    kept.append(libc.malloc(100_000))
for block in blocks:
    libc.free(block)
print(resident_bytes() - before)
"""


# Rounds of blocks that are all freed again, as the forward passes of equal batches.
FAULTS_IN_LATER_ROUNDS = """
import ctypes, resource, sys
from unimol_scale.common.machine.memory import keep_freed_memory
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
if sys.argv[1] == "asked":
    keep_freed_memory()
def round_of_blocks():
    blocks = [libc.malloc(4 << 20) for _ in range(10)]
    for block in blocks:
        ctypes.memset(block, 1, 4 << 20)
    for block in blocks:
        libc.free(block)
for _ in range(3):
    round_of_blocks()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    round_of_blocks()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_freed_memory_goes_back_when_asked_for():
    def held(how: str) -> int:
        command = [sys.executable, "-c", HOLDS_AFTER_FREEING, how]
        return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)

    assert held("unasked") > 100 * MIB
    assert held("asked") < 20 * MIB


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_kept_memory_costs_no_more_page_faults():
    def faults(how: str) -> int:
        command = [sys.executable, "-c", FAULTS_IN_LATER_ROUNDS, how]
        return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)

    assert faults("unasked") > 1000
    assert faults("asked") < 100


def test_a_container_is_no_larger_than_its_limit(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable: 64000000 kB\n")
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.available_bytes() == 64_000_000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_bytes() == 64_000_000 * 1024
    (tmp_path / "memory.max").write_text(f"{24 * 2**30}\n")
    (tmp_path / "memory.current").write_text(f"{10 * 2**30}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {2 * 2**30}\n")
    assert memory.available_bytes() == 16 * 2**30  # the page cache gives way


def test_where_the_system_says_nothing_nothing_is_known(monkeypatch):
    monkeypatch.setattr(memory, "_PROC", Path("/nowhere"))
    assert memory.available_bytes() is None
    assert memory.resident_bytes() == 0


def test_the_launcher_says_how_many_ranks_share_the_machine(monkeypatch):
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert memory.local_ranks() == 1
    monkeypatch.setenv("LOCAL_SIZE", "3")
    assert memory.local_ranks() == 3
