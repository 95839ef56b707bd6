"""A build under fire: SIGKILLs at random moments and a full disk do not change a byte."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.build import faults

pytestmark = pytest.mark.ray
ON_RAY = Path(__file__).parents[1] / "helpers" / "build_on_ray.py"
COMMON = ["--source", "sample", "--limit", "120", "task_size=10"]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that was built in peace, without Ray."""
    store = tmp_path_factory.mktemp("calm") / "store"
    faults.build([*COMMON, "--workers", "1"], store)
    return store


def test_a_store_is_the_same_after_kills_of_worker_driver_and_machine(
    calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "SCRIPT", ON_RAY)
    monkeypatch.setenv("PYTHONPATH", str(ON_RAY.parents[2]))
    kills = faults.plan_kills(3, rows=120, task_size=10, seed=2)
    assert {kill.victim for kill in kills} == set(faults.VICTIMS)
    outcome = faults.build([*COMMON, "--workers", "2"], tmp_path / "killed", kills)
    assert outcome.kills == kills, "the build ended before it could be killed"
    assert outcome.starts == 3
    hashes = faults.file_hashes(calm)
    assert faults.file_hashes(tmp_path / "killed") == hashes
    assert {"manifest.json", "failures.parquet", "train/shard-00000.arrow", "report.md"} <= set(hashes)
    assert json.loads((calm / "manifest.json").read_text())["counts"]["read"] == 120


def test_a_full_disk_is_a_clear_error_and_with_room_the_build_goes_on(
    calm: Path, small_disk: Callable[[str], Path]
) -> None:
    store = small_disk("64k") / "store"
    command = [sys.executable, str(faults.SCRIPT), *COMMON, "--workers", "1", "--output", str(store)]
    reached = []
    for size in ("64k", "256k"):
        small_disk(size)
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 2, result.stderr
        assert "the disk is full: make room, and run the same command again to continue" in result.stderr
        assert not (store / "manifest.json").exists()
        reached.append(sorted(path.name for path in (store / ".build").iterdir()))
    assert "embedded" not in reached[0], "it was full for the workers"
    assert "failed" in reached[1], "and then for assembly"
    small_disk("64m")
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert faults.file_hashes(store) == faults.file_hashes(calm)
