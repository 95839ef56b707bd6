"""How many models are trained at the same time, and with how many threads."""

import dataclasses

import pytest
import torch

from tests.helpers.tiny_finetuning import fitting
from unimol_scale.downstream.finetuning.problem.identity import identify_start
from unimol_scale.downstream.finetuning.problem.prepare_problems import prepare_problems
from unimol_scale.downstream.finetuning.processes import models_at_once as rule
from unimol_scale.downstream.finetuning.processes.models_at_once import Processes, check_models_at_once, plan_processes
from unimol_scale.engine.parallel.ranks import Ranks
from unimol_scale.errors import ConfigError

PLENTY = 2**40
HERE = Processes(count=0, threads=2)
RANKS = Ranks(rank=0, world_size=2, device=torch.device("cpu"))


@pytest.fixture
def problem(settings, monkeypatch):
    """A problem that costs nothing to train, of a model with parameters for many threads."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(rule, "threads_for", lambda _, cores: cores)

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
    ("models", "cores", "count", "threads"),
    [
        (1, 8, 0, 8),
        (3, 1, 0, 1),
        (2, 2, 2, 1),
        (3, 2, 3, 1),  # two and then one would leave a core idle
        (4, 2, 2, 1),
        (5, 3, 3, 1),
        (10, 2, 2, 1),
        (3, 8, 3, 3),
        (5, 8, 5, 2),
        (10, 8, 10, 1),
        (15, 8, 8, 1),
    ],
)
def test_cores_have_work_to_the_end(long, models, cores, count, threads):
    assert plan_processes([long] * models, models, cores) == Processes(count=count, threads=threads)


def test_the_threads_of_a_model_do_not_depend_on_what_is_missing_or_on_memory(long, monkeypatch):
    assert plan_processes([long] * 3, 1, 2) == Processes(count=1, threads=1)
    monkeypatch.setattr(rule, "available_bytes", lambda: 2.9 * 2**30)  # half of it holds two processes of 0.5 GiB
    assert plan_processes([long] * 8, 8, 8) == Processes(count=2, threads=1)
    monkeypatch.setattr(rule, "available_bytes", lambda: 0)
    assert plan_processes([long] * 8, 8, 8) == Processes(count=1, threads=1)


def test_a_system_that_does_not_say_what_is_free_has_half_of_its_memory(long, monkeypatch):
    monkeypatch.setattr(rule, "available_bytes", lambda: None)
    assert plan_processes([long] * 2, 2, 2) == Processes(count=2, threads=1)


def test_a_small_model_gets_no_more_threads_than_it_can_use(long, monkeypatch):
    monkeypatch.setattr(rule, "threads_for", lambda parameters, cores: 1)
    assert plan_processes([long] * 3, 3, 64) == Processes(count=3, threads=1)


def test_a_process_with_more_threads_needs_more_memory(long):
    assert rule._bytes_of_process(long, 8) > rule._bytes_of_process(long, 1)


def test_short_work_a_probe_a_gpu_and_ranks_stay_in_this_process(long, problem):
    assert plan_processes([problem(train=fitting(probe="mlp"))] * 4, 4, 2) == HERE
    assert plan_processes([dataclasses.replace(long, device=torch.device("cuda"))] * 4, 4, 2) == HERE
    assert plan_processes([dataclasses.replace(long, ranks=RANKS)] * 4, 4, 2) == HERE


def test_work_of_a_second_is_not_worth_a_process(problem):
    assert plan_processes([problem()] * 4, 4, 2) == HERE


def test_the_user_decides(problem):
    assert plan_processes([problem(models_at_once=3)] * 4, 4, 2) == Processes(count=3, threads=1)
    assert plan_processes([problem(models_at_once=8)] * 4, 2, 8) == Processes(count=2, threads=2)
    assert plan_processes([problem(models_at_once=1)] * 4, 4, 2) == HERE


def test_what_cannot_be_trained_at_the_same_time_is_refused_or_stays_in_this_process(settings, long):
    check_models_at_once(settings(models_at_once=1), RANKS)
    with pytest.raises(ConfigError, match="leave it out"):
        check_models_at_once(settings(models_at_once=2), RANKS)
    own = dataclasses.replace(settings(), metric="__main__:my_error", models_at_once=2)
    with pytest.raises(ConfigError, match="move it to a file of its own"):
        check_models_at_once(own, None)
    by_default = dataclasses.replace(long.config, metric="__main__:my_error")
    assert plan_processes([dataclasses.replace(long, config=by_default)] * 4, 4, 2) == HERE
