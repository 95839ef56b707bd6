"""``runs list`` says how far an unfinished run is, and where it would go on."""

import json

from unimol_scale.cli.main import main
from unimol_scale.scaling.runs.run_list import list_runs


def make_run(folder, checkpoint):
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("size: 0.03M\ntrain: {steps: 90}\n")
    events = [
        {"step": 0, "molecules": 0, "seconds": 0.0, "valid/loss": 5.9},
        {"step": 60, "molecules": 1920, "seconds": 14.8, "loss": 1.4},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    if checkpoint is not None:
        (folder / "checkpoints" / "latest").write_text(f"step-{checkpoint:08d}\n")
    return folder


def test_a_killed_run_says_from_where_it_resumes_and_of_which_step_its_loss_is(tmp_path, capsys, monkeypatch):
    make_run(tmp_path / "killed", checkpoint=40)
    (run,) = list_runs([tmp_path])
    assert run.state == "at step 60 of 90, saved at step 40"
    assert (run.loss, run.loss_step) == (5.9, 0)
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["runs", "list", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "5.9000 (step 0)" in said
    assert "saved at step 40" in said


def test_a_run_without_a_checkpoint_says_that_nothing_is_saved(tmp_path):
    make_run(tmp_path / "new", checkpoint=None)
    (run,) = list_runs([tmp_path])
    assert run.state == "at step 60 of 90, nothing saved"
