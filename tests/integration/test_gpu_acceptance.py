"""The acceptance run of a GPU, in its small form on a CPU: every stage passes, and one that does not is seen."""

import json

import pytest
import torch

from benchmarks.gpu.__main__ import STAGES, main
from unimol_scale.model.fused.launching import has_triton

pytestmark = pytest.mark.deepspeed


@pytest.mark.timeout(1200)
def test_the_quick_form_passes_on_a_cpu(tmp_path):
    status = main(["--output", str(tmp_path), "--device", "cpu", "--seconds", "1100"])
    report = (tmp_path / "report.md").read_text()
    assert status == 0, report
    results = json.loads((tmp_path / "results.json").read_text())
    assert [result["name"] for result in results] == [stage.name for stage in STAGES if not stage.needs_gpu]
    checked = {result["name"] for result in results if result["findings"]["checks"]}
    assert {"parity", "speed", "engine", "resume", "large", "downstream"} <= checked
    assert ("kernels" in checked) == has_triton()
    assert "| resume | passed |" in report


def test_a_stage_that_takes_too_long_fails_the_run_and_the_next_is_still_told(tmp_path):
    arguments = ["--output", str(tmp_path), "--device", "cpu", "--seconds", "1.5", "--only", "peak", "syncs"]
    assert main(arguments) == 1
    first, second = json.loads((tmp_path / "results.json").read_text())
    assert first["status"].startswith("took longer than")
    assert second["status"].startswith(("not started", "took longer than"))


def test_a_check_that_fails_fails_the_run(tmp_path):
    from benchmarks.gpu.__main__ import _said
    from benchmarks.gpu.stage import Findings, read_findings

    findings = Findings()
    findings.at_most("error", 0.1, 0.2)
    findings.at_most("not a number", float("nan"), 0.2)
    findings.equal("status", 1, 0)
    findings.write(tmp_path / "stage.json")
    told = read_findings(tmp_path / "stage.json")
    assert [check.passed for check in told.checks] == [True, False, False]
    assert _said(0, json.loads((tmp_path / "stage.json").read_text()), 1.0) == "2 of 3 checks failed"
    assert "status 1" in _said(1, None, 1.0)


def test_graphs_are_compared_with_the_same_kernels_started_one_by_one(tmp_path, monkeypatch):
    from benchmarks.gpu import graphs
    from benchmarks.gpu.stage import Findings, StageSettings

    monkeypatch.setattr(graphs, "capture_on", lambda _: lambda work: work)  # a CPU captures nothing
    cpu = StageSettings(device=torch.device("cpu"), quick=True, folder=tmp_path, store=None, seconds=100)
    findings = Findings()
    graphs._compare_numbers(cpu, findings)
    assert all(check.passed for check in findings.checks), findings.checks
    assert len(findings.checks) == 2 * (2 * (4 + 1) + 1)
