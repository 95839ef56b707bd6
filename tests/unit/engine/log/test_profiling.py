"""A profile is a trace of warm steps that trace viewers open, and a table for people; off, it is nothing."""

import gzip
import json

import pytest
import torch

from tests.helpers.full_disk import files_no_larger_than
from unimol_scale.engine.log.profiling import StepProfiler


def run(profiler, steps):
    weight = torch.ones(8, 8, requires_grad=True)
    for _ in range(steps):
        (weight @ weight).sum().backward()
        profiler.step()


def test_the_trace_holds_the_three_steps_after_the_warm_up(tmp_path):
    told = []
    with StepProfiler(tmp_path / "profile", told.append) as profiler:
        run(profiler, 20)
        assert (tmp_path / "profile" / "trace.json.gz").is_file()  # not only at the end of a long run
    trace = json.loads(gzip.decompress((tmp_path / "profile" / "trace.json.gz").read_bytes()))
    names = [event.get("name", "") for event in trace["traceEvents"]]
    assert names.count("aten::mm") == 3 * 3  # forward, and two for the gradient
    # Counted from 0: the fifth to the seventh step.
    assert {name for name in names if name.startswith("ProfilerStep")} == {f"ProfilerStep#{step}" for step in (4, 5, 6)}
    table = (tmp_path / "profile" / "operators.txt").read_text()
    assert "aten::mm" in table
    assert "# of Calls" in table
    assert told == [f"profile of steps 5 to 7 of this session: {tmp_path / 'profile'}/"]
    assert sorted(p.name for p in (tmp_path / "profile").iterdir()) == ["operators.txt", "trace.json.gz"]


def test_a_short_run_is_profiled_as_far_as_it_goes(tmp_path):
    told = []
    with StepProfiler(tmp_path, told.append) as profiler:
        run(profiler, 5)
    assert "steps 5 to 5" in told[0]
    assert (tmp_path / "trace.json.gz").is_file()


@pytest.mark.parametrize("steps", [0, 2, 4])
def test_a_run_too_short_for_a_profile_says_so(tmp_path, steps):
    told = []
    with StepProfiler(tmp_path, told.append) as profiler:
        run(profiler, steps)
    assert "no profile" in told[0]
    assert list(tmp_path.iterdir()) == []


def test_off_it_does_nothing(tmp_path):
    told = []
    with StepProfiler(None, told.append) as profiler:
        run(profiler, 10)
    assert told == []


def test_a_full_disk_costs_the_profile_and_not_the_run(tmp_path):
    told = []
    with StepProfiler(tmp_path, told.append) as profiler, files_no_larger_than(1000):
        run(profiler, 10)
    assert len(told) == 1
    assert "cannot be written" in told[0]
    assert not (tmp_path / "trace.json.gz").exists()
