"""How many models are trained at the same time."""

import dataclasses

import pytest
import torch

from tests.helpers.tiny_finetuning import fitting
from unimol_scale.downstream.finetuning.problem.identity import identify_start
from unimol_scale.downstream.finetuning.problem.prepare_problems import prepare_problems
from unimol_scale.downstream.finetuning.processes import models_at_once as rule
from unimol_scale.downstream.finetuning.processes.models_at_once import models_at_once
from unimol_scale.engine.parallel.ranks import Ranks
from unimol_scale.errors import ConfigError

PLENTY = 2**40


@pytest.fixture
def problem(settings):
    """A problem that costs nothing to train."""

    def made(**changes):
        config = settings(inputs="2d", hydrogens=False, **changes)
        model, hashes, chosen = identify_start(config)
        return prepare_problems(config.with_choices, model, chosen, hashes, None)[0]

    return made


@pytest.fixture
def long(monkeypatch, problem):
    """The same, as if it took long; there is memory enough."""
    monkeypatch.setattr(rule, "_WORTH_FLOPS", 1.0)
    monkeypatch.setattr(rule, "available_bytes", lambda: PLENTY)
    return problem()


@pytest.mark.parametrize(
    ("models", "cores", "at_once"),
    [
        (1, 8, 1),
        (3, 1, 1),
        (2, 2, 2),
        (3, 2, 3),  # two and then one would leave a core idle
        (4, 2, 2),
        (10, 2, 2),
        (3, 8, 3),
        (10, 8, 10),
        (15, 8, 12),
    ],
)
def test_cores_have_work_to_the_end(long, models, cores, at_once):
    assert models_at_once([long] * models, cores) == at_once


def test_memory_limits_the_processes(long, monkeypatch):
    monkeypatch.setattr(rule, "available_bytes", lambda: 2.9 * 2**30)  # half of it holds two processes of 0.5 GiB
    assert models_at_once([long] * 8, 8) == 2
    monkeypatch.setattr(rule, "available_bytes", lambda: 0)
    assert models_at_once([long] * 8, 8) == 1
    monkeypatch.setattr(rule, "available_bytes", lambda: None)  # a system that does not say
    assert models_at_once([long] * 8, 8) == 1


def test_short_work_a_probe_and_a_gpu_stay_in_this_process(long, problem):
    assert models_at_once([problem(train=fitting(probe="mlp"))] * 4, 2) == 1
    assert models_at_once([dataclasses.replace(long, device=torch.device("cuda"))] * 4, 2) == 1


def test_work_of_a_second_is_not_worth_a_process(problem):
    assert models_at_once([problem()] * 4, 2) == 1


def test_the_user_decides(problem):
    assert models_at_once([problem(models_at_once=3)] * 4, 2) == 3
    assert models_at_once([problem(models_at_once=8)] * 4, 2) == 4
    assert models_at_once([problem(models_at_once=1)] * 4, 2) == 1


def test_ranks_share_each_training_instead(long):
    ranks = Ranks(rank=0, world_size=2, device=torch.device("cpu"))
    assert models_at_once([dataclasses.replace(long, ranks=ranks)] * 4, 2) == 1
    asked = dataclasses.replace(long, ranks=ranks, config=dataclasses.replace(long.config, models_at_once=2))
    with pytest.raises(ConfigError, match="leave it out"):
        models_at_once([asked] * 4, 2)
