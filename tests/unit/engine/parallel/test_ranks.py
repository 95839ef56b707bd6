"""Ranks that were not told of each other, a port that is taken, and the cores of a machine."""

import os
import socket
import subprocess
import sys

import pytest

from unimol_scale.engine.parallel.ranks import start_ranks
from unimol_scale.errors import ConfigError


@pytest.fixture
def untold(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_several_processes_without_ranks_are_refused(untold):
    untold.setenv("SLURM_STEP_NUM_TASKS", "8")
    with pytest.raises(ConfigError, match="8 processes"):
        start_ranks()


def test_missing_variables_are_named(untold):
    untold.setenv("RANK", "0")
    untold.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not"):
        start_ranks()


# In a process of its own: torch's group of ranks belongs to the whole process.
ALONE = """
import os, sys, torch
from unimol_scale.engine.parallel import ranks
from unimol_scale.errors import ConfigError
try:
    me = ranks.start_ranks()
except ConfigError as error:
    sys.exit(f"error: {error}")
print(ranks.share_cores(me, 30_000), ranks.share_cores(me, 10**9), torch.get_num_threads())
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
print(ranks.share_cores(me, 10**9), torch.get_num_threads())
os.environ["OMP_NUM_THREADS"] = "3"
print(ranks.share_cores(me, 30_000), torch.get_num_threads())
"""


def start_alone(**variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.run(
        [sys.executable, "-c", ALONE], env={**environment, **variables}, capture_output=True, text=True, check=False
    )


def test_threads_follow_the_models_size_the_cores_and_first_of_all_the_user():
    by_size, bound, told = start_alone().stdout.splitlines()
    cores = len(os.sched_getaffinity(0))
    assert by_size.split() == ["1", str(cores), str(cores)]
    assert bound.split() == ["1", "1"]
    assert told.split() == ["3", "3"]


def test_a_port_that_is_taken_is_one_line_that_names_it():
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = start_alone(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    assert done.returncode == 1
    assert f"error: port {port} on 127.0.0.1 is taken, perhaps by another run" in done.stderr
    assert "Traceback" not in done.stderr
