"""What a ladder would take in all: finished runs need no more time, but their disk."""

from types import SimpleNamespace

from tests.helpers.pretend_training import make_place
from unimol_scale.errors import StoreError
from unimol_scale.scaling.ladder import ladder_estimate
from unimol_scale.scaling.ladder.ladder import plan, read_ladder


def estimate(size, settings, ranks):
    assert settings["data"] == {"path": "store"}
    assert settings["train"] == {"steps": 20, "learning_rate": 0.001}
    if size == "1M":
        raise StoreError("no store")
    return SimpleNamespace(seconds=7200.0 * ranks, disk_bytes=2**31, device="h100")


def test_finished_runs_need_disk_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_place(tmp_path)
    config = read_ladder(tmp_path / "ladder.yaml")
    rungs = plan(config)
    monkeypatch.setattr(ladder_estimate, "finished_run", lambda config, rung: "diverged" if rung is rungs[0] else None)
    planned = ladder_estimate.estimate_runs(config, rungs, estimate)
    assert [run.state for run in planned] == ["finished", "to be trained", "to be trained", "to be trained"]
    line = ladder_estimate.total_line(planned)
    assert f"estimated for h100: {2 * config.ranks:.1f} h for the 1 run left" in line
    assert "up to 4.0 GiB of disk" in line
    assert "time and disk of 2 of 4 runs are unknown: no store" in line
