"""``runs prune`` deletes what nothing needs, and nothing else."""

import json

import pytest

from tests.helpers.saved_runs import META, save
from unimol_scale.checkpoints.run.checkpoint_folder import BEST
from unimol_scale.checkpoints.run.unneeded_checkpoints import find_unneeded
from unimol_scale.cli.main import main
from unimol_scale.errors import ConfigError


def make_run(folder, steps, config="", status="finished"):
    for step in steps:
        save(folder, step, world_size=1, meta=META)
    (folder / "config.yaml").write_text(config)
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    if status is not None:
        (folder / "summary.json").write_text(json.dumps({"schema_version": 1, "status": status}))
    return folder


def left(folder):
    return sorted(int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*"))


@pytest.fixture
def runs(tmp_path):
    """A trunk from which a run branches off after 80 of 100 steps, the branch, and a run that is not finished."""
    trunk = make_run(tmp_path / "trunk", (20, 40, 60, 80, 100, 120), "train: {keep_steps: [40]}\n")
    (trunk / "checkpoints" / BEST).write_text("step-00000060\n")
    make_run(tmp_path / "branch", (90, 100), f"branch_from: {trunk}\ntrain: {{steps: 100, decay_fraction: 0.2}}\n")
    make_run(tmp_path / "running", (5, 10), status=None)
    return tmp_path


def test_nothing_is_deleted_without_yes_and_then_only_what_nothing_needs(runs, capsys):
    everything = {name: left(runs / name) for name in ("trunk", "branch", "running")}
    for arguments in ([], ["--dry-run"]):
        assert main(["runs", "prune", str(runs), *arguments]) == 0
        assert {name: left(runs / name) for name in everything} == everything
    said = capsys.readouterr().out
    assert "3 checkpoints of" in said
    assert "can be deleted. Nothing was deleted yet; add --yes" in said
    assert f"{runs}/trunk: step-00000080 is kept ({runs}/branch branches off there)" in said
    assert f"{runs}/running: not touched, because it has no summary.json" in said
    assert main(["runs", "prune", str(runs), "--yes"]) == 0
    assert left(runs / "trunk") == [40, 60, 80, 120]
    assert left(runs / "branch") == [100]
    assert left(runs / "running") == [5, 10]
    assert not list((runs / "trunk" / "checkpoints").glob("tmp-*"))
    assert "3 checkpoints deleted" in capsys.readouterr().out
    assert main(["runs", "prune", str(runs)]) == 0
    assert "No checkpoint can be deleted: every one is still needed." in capsys.readouterr().out


def test_the_newest_intact_one_is_kept_if_a_newer_one_is_damaged(tmp_path):
    run = make_run(tmp_path / "run", (10, 20, 30))
    next((run / "checkpoints" / "step-00000030").glob("share-*/*"), None)
    share = next(
        path for path in (run / "checkpoints" / "step-00000030").rglob("*") if path.suffix != ".json" and path.is_file()
    )
    share.write_bytes(share.read_bytes()[:-1])
    (found,) = find_unneeded([run])
    assert [info.step for info in found.unneeded] == [10]
    assert set(found.kept) == {"step-00000020", "step-00000030"}  # which ``latest`` names


def test_a_run_whose_settings_cannot_be_read_stops_everything(runs):
    (runs / "branch" / "config.yaml").write_text("train: {steps: [")
    with pytest.raises(ConfigError):
        find_unneeded([runs / "trunk", runs / "branch"])


def test_a_checkpoint_that_another_run_began_with_is_kept(tmp_path):
    first = make_run(tmp_path / "first", (10, 20))
    second = make_run(tmp_path / "second", (5,), f"init: {first}/checkpoints/step-00000010\n")
    assert find_unneeded([first, second])[0].unneeded == ()
    assert [info.step for info in find_unneeded([first])[0].unneeded] == [10]
