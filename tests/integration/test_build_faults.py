"""A build under fire: SIGKILL at random moments, to the driver, to a worker, to everything, does not change a byte."""

import json
from pathlib import Path

import pytest

from benchmarks import build_faults

pytestmark = pytest.mark.ray


def test_a_store_is_the_same_after_kills_of_worker_driver_and_machine(tmp_path: Path) -> None:
    common = ["--source", "sample", "--limit", "120", "task_size=10"]
    calm = build_faults.build([*common, "--workers", "1"], tmp_path / "calm")
    kills = build_faults.plan_kills(3, calm.seconds, seed=2)
    assert {kill.victim for kill in kills} == set(build_faults.VICTIMS)
    outcome = build_faults.build([*common, "--workers", "2"], tmp_path / "killed", kills)
    assert outcome.kills == kills, "the build ended before it could be killed"
    assert outcome.starts == 3
    hashes = build_faults.file_hashes(tmp_path / "calm")
    assert build_faults.file_hashes(tmp_path / "killed") == hashes
    assert {"manifest.json", "failures.parquet", "train/shard-00000.arrow", "report.md"} <= set(hashes)
    assert json.loads((tmp_path / "killed" / "manifest.json").read_text())["counts"]["read"] == 120
