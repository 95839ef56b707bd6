"""Processes that were not told of each other must not train beside each other in one run folder."""

import pytest

from unimol_scale.engine.ranks import start_ranks
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
