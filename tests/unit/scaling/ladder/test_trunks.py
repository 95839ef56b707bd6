"""Ladders whose budgets branch off a trunk: what is trained in which order, goes on, is planned, submitted and read."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.helpers.pretend_training import calls, make_place
from unimol_scale.cli.main import main
from unimol_scale.errors import ConfigError, RunError
from unimol_scale.scaling.ladder import ladder, ladder_estimate, slurm
from unimol_scale.scaling.runs.read_runs import _without_trunks, read_runs

TRUNK = "try-0.1M-trunk-seed0"
SBATCH = """#!/bin/bash
echo "$@" >> submitted.txt
echo "Submitted batch job 7$(wc -l < submitted.txt) on cluster here"
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ladder of one size, three budgets and two seeds, with a stand-in for the pretraining command."""
    monkeypatch.chdir(tmp_path)
    make_place(tmp_path)
    change(tmp_path, schedule="wsd", sizes=["0.1M"], steps=[100, 50, 200], warmup=0.1)
    return tmp_path


def change(place: Path, **changes: object) -> None:
    path = place / "ladder.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def climb() -> int:
    return main(["ladder", "ladder.yaml"])


def rungs(place: Path) -> list[ladder.Rung]:
    return ladder.plan(ladder.read_ladder(place / "ladder.yaml"))


def test_one_trunk_for_a_size_and_seed_and_one_branch_for_each_budget(place: Path) -> None:
    trunk, *branches = rungs(place)[:4]
    assert [rung.name for rung in rungs(place) if rung.is_trunk] == [TRUNK, "try-0.1M-trunk-seed1"]
    assert trunk.overrides == {
        "train.learning_rate": 0.001, "train.steps": 160, "train.schedule": "constant",
        "train.keep_steps": [40, 80, 160], "train.warmup_steps": 5, "seed": 0,
    }  # fmt: skip
    assert [(rung.steps, rung.begins) for rung in branches] == [(50, 40), (100, 80), (200, 160)]
    assert branches[2].overrides == {
        "train.learning_rate": 0.001, "train.steps": 200, "train.schedule": "wsd", "branch_from": f"runs/{TRUNK}",
        "train.warmup_steps": 5, "seed": 0,
    }  # fmt: skip
    change(place, overrides={"train": {"decay_fraction": 0.1, "decay_shape": "linear"}})
    trunk, branch, *_ = rungs(place)
    assert trunk.overrides["train.keep_steps"] == [45, 90, 180]
    assert "train.decay_shape" not in trunk.overrides
    assert branch.overrides["train.decay_shape"] == "linear"


def test_a_trunk_is_trained_before_its_branches_and_all_of_it_goes_on(place: Path) -> None:
    change(place, seeds=[0])
    names = [TRUNK, *(f"try-0.1M-{steps}steps-seed0" for steps in (50, 100, 200))]
    assert climb() == 0
    assert calls(place) == names
    assert climb() == 0
    assert len(calls(place)) == 4
    (place / "runs" / names[2] / "summary.json").unlink()
    assert climb() == 0
    assert calls(place)[4:] == [names[2]]


def test_of_several_runs_at_a_time_a_branch_waits_for_its_trunk(place: Path) -> None:
    change(place, runs_at_once=4)  # more than the two that can begin
    assert climb() == 0
    trunks = [rung.name for rung in rungs(place) if rung.is_trunk]
    assert sorted(calls(place)[:2]) == trunks
    assert sorted(calls(place)) == sorted(rung.name for rung in rungs(place))


def test_a_larger_budget_makes_the_trunk_longer_and_leaves_finished_branches(place: Path) -> None:
    change(place, seeds=[0])
    assert climb() == 0
    change(place, steps=[50, 100, 200, 400])
    assert climb() == 0
    assert calls(place)[4:] == [TRUNK, "try-0.1M-400steps-seed0"]
    change(place, steps=[50, 100])
    assert climb() == 0
    assert len(calls(place)) == 6
    change(place, overrides={"train": {"learning_rate": 0.002}})
    with pytest.raises(RunError, match=rf"{TRUNK} holds a run with other settings.*\n  train\.learning_rate"):
        ladder_estimate.estimate_runs(ladder.read_ladder(Path("ladder.yaml")), rungs(place), None)  # type: ignore[arg-type]


def test_branches_are_read_and_trunks_left_out_by_name_unless_asked_for(place: Path) -> None:
    assert climb() == 0
    records, notes = read_runs([place / "runs"])
    assert sorted(record.name for record in records) == sorted(
        f"try-0.1M-{steps}steps-seed{seed}" for steps in (50, 100, 200) for seed in (0, 1)
    )
    assert {(record.decays, Path(record.trunk).name) for record in records if record.seed == 0} == {(True, TRUNK)}
    assert {record.own_flops for record in records} == {1e6}
    assert len(notes) == 1
    assert f"trunks are left out: {place}/runs/{TRUNK}, " in notes[0]
    assert len(read_runs([place / "runs"], trunks=True)[0]) == 8
    # Kept by its owner's rhythm of checkpoints alone, it is known by what branched off it.
    path = place / "runs" / TRUNK / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "keep_steps": []}))
    assert len(read_runs([place / "runs"])[0]) == 6
    # Any other run at a constant rate counts, as before.
    for branch in (place / "runs").glob("try-0.1M-*steps-seed0"):
        shutil.rmtree(branch)
    assert TRUNK in {record.name for record in read_runs([place / "runs"])[0]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overrides": {"train": {"schedule": "cosine"}}}, r"train\.schedule is set by the ladder itself"),
        ({"overrides": {"train": {"keep_steps": [5]}}}, r"train\.keep_steps is set by the ladder itself"),
        ({"overrides": {"branch_from": "runs/a"}}, "branch_from is set by the ladder itself"),
        ({"overrides": {"train": {"decay_fraction": 1}}}, "must be between 0 and 1, got 1"),
        ({"warmup": 0.9}, "50 steps, starts to decay after step 40, before its warm-up of 45 steps is over"),
        ({"schedule": "linear"}, "schedule: .*'linear'"),
    ],
)
def test_trunks_that_make_no_sense_are_refused(place: Path, changes: dict[str, object], message: str) -> None:
    change(place, **changes)
    with pytest.raises(ConfigError, match=message):
        rungs(place)


def test_the_plan_says_what_sharing_saves(place: Path) -> None:
    def estimate(size, settings, ranks):
        own = settings["train"]["steps"] - (160 if "branch_from" in settings else 0)  # too few for the short branches
        return SimpleNamespace(seconds=3600.0 * own, disk_bytes=2**30, device="h100")

    planned = ladder_estimate.estimate_runs(ladder.read_ladder(place / "ladder.yaml"), rungs(place), estimate)
    # For each seed a trunk of 160 steps and decays of 10, 20 and 40, in place of 50, 100 and 200.
    assert "in place" not in (line := ladder_estimate.total_line(planned))
    assert f"sharing saves {1 - 230 / 350:.0%} of the compute" in line
    whole = [run for run in planned if not run.rung.is_trunk]
    assert "sharing" not in ladder_estimate.total_line(whole)


def test_of_many_trunks_a_note_names_three() -> None:
    records = [
        SimpleNamespace(source=f"runs/t{number}", is_trunk=True, trunk=None, decays=False) for number in range(5)
    ]
    kept, (note,) = _without_trunks(records)
    assert kept == []
    assert "left out: runs/t0, runs/t1, runs/t2 and 2 more. Their" in note


def test_slurm_starts_branches_only_after_their_trunks(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "sbatch").write_text(SBATCH)
    (place / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")
    assert main(["ladder", "ladder.yaml", "--slurm"]) == 0
    out = capsys.readouterr().out
    assert "next: sbatch runs/try.trunks.slurm.sh\nnext: sbatch --dependency=afterok:TRUNKS" in out
    assert main(["ladder", "ladder.yaml", "--slurm", "--submit"]) == 0
    submitted = (place / "submitted.txt").read_text().splitlines()
    assert submitted == [
        "runs/try.trunks.slurm.sh", "--dependency=afterok:71 --kill-on-invalid-dep=yes runs/try.slurm.sh",
    ]  # fmt: skip
    trunks, branches = ((place / "runs" / f"try{part}.slurm.sh").read_text() for part in (".trunks", ""))
    assert (TRUNK in trunks, TRUNK in branches) == (True, False)
    assert not list((place / "runs").glob("try-*.sh"))  # `fit-scaling-law runs/try-*` must find runs alone
    assert ("--array=0-1" in trunks, "--array=0-5" in branches) == (True, True)
    for name in (TRUNK, "try-0.1M-trunk-seed1"):
        assert main(["ladder", "ladder.yaml", "--only", name]) == 0
    assert main(["ladder", "ladder.yaml", "--slurm", "--submit"]) == 0
    assert (place / "submitted.txt").read_text().splitlines()[2:] == ["runs/try.slurm.sh"]
    with pytest.raises(RunError, match="did not report the job number"):
        slurm._job_number("submitted")
