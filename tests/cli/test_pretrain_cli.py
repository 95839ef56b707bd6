"""What a user sees of the pretraining command when it does not train: plans and errors."""

import json

import pytest

from unimol_scale.cli.verbs.pretrain import build_parser, main
from unimol_scale.config import read_settings, to_yaml
from unimol_scale.engine.run.run_config import resolve
from unimol_scale.objectives.registry import OBJECTIVES


def test_the_help_names_every_objective():
    told = build_parser().format_help()
    assert all(name in told for name in OBJECTIVES)


def run(capsys, *arguments):
    status = main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_dry_run_of_the_largest_model_prints_the_plan_and_touches_nothing(capsys, sample_store, tmp_path):
    output = tmp_path / "run"
    status, out, _ = run(capsys, "--size", "1.1B", "--dry-run", "--data", sample_store, "--output", output)
    assert status == 0
    assert "1,129,209,696" in out
    for part in ("embedding", "atom track", "pair track", "heads", "optimizer", "activations", "steps", "FLOPs"):
        assert part in out
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "1.1b"], "did you mean '1.1B'"),
        (["--size", "0.1M", "train.step=5"], "did you mean 'steps'"),
        (["--size", "0.1M", "train.steps=many"], "train.steps: expected a whole number, got 'many'"),
        (["--size", "0.1M", "train.precision=fp23"], "did you mean 'fp32'"),
        (["--size", "0.1M", "--objective", "denoyse"], "did you mean 'denoise'"),
        (["--size", "0.1M", "model.heads=5"], "multiple of model.heads"),
        (["--size", "0.1M", "train.steps=10"], "warmup_steps 100000 must be between 0 and train.steps 10"),
        (["--size", "0.1M", "train.steps"], "is not of the form key=value"),
        (["--size", "0.1M", "--config", "nowhere.yaml"], "nowhere.yaml does not exist"),
    ],
)
def test_wrong_settings_are_named_with_the_nearest_valid_one(capsys, arguments, message):
    status, _, err = run(capsys, *arguments, "--data", "unused", "--dry-run")
    assert status == 2
    assert message in err


def test_a_wrong_key_in_a_file_is_named_with_its_line(capsys, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("train:\n  steps: 10\n  warmup_steps: 1\n  learning_rat: 0.1\n")
    status, _, err = run(capsys, "--size", "0.1M", "--config", file, "--data", "unused", "--dry-run")
    assert status == 2
    assert f"{file}:4" in err
    assert "did you mean 'learning_rate'" in err


def test_a_missing_store_names_the_command_that_makes_one(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, "--size", "0.1M", "--dry-run")
    assert status == 2
    assert "unimol-scale build --source sample" in err


def test_settings_may_stand_anywhere_and_the_last_one_wins(capsys, sample_store):
    status, out, _ = run(
        capsys,
        "train.steps=7",
        "--size",
        "0.1M",
        "train.warmup_steps=1",
        "--dry-run",
        "--data",
        sample_store,
        "train.steps=9",
    )
    assert status == 0
    assert "9 of 1,024 molecules" in out


def test_an_unfinished_store_is_refused(capsys, tmp_path):
    (tmp_path / "store" / "train").mkdir(parents=True)
    status, _, err = run(capsys, "--size", "0.1M", "--dry-run", "--data", tmp_path / "store")
    assert status == 2
    assert "manifest.json" in err


def test_a_finished_run_of_unknown_settings_is_not_taken_for_this_one(capsys, sample_store, tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({"status": "finished", "steps": 3}))
    status, _, err = run(capsys, "--size", "0.1M", "--data", sample_store, "--output", tmp_path)
    assert status == 2
    assert "no config.yaml with its settings" in err
    for damaged in ("", "null", '{"status": "fini', "[]"):
        (tmp_path / "summary.json").write_text(damaged)
        status, _, err = run(capsys, "--size", "0.1M", "--data", sample_store, "--output", tmp_path)
        assert status == 2
        assert "summary.json" in err
        assert "run the same command again" in err


def test_a_run_needs_a_size_and_its_extension_does_not(capsys, sample_store, tmp_path):
    status, _, err = run(capsys, "--data", sample_store, "--dry-run")
    assert status == 2
    assert "--size is required" in err
    settings = ["train.steps=9", "train.warmup_steps=1", "train.global_batch_size=8"]
    config = resolve(
        "0.2M", *read_settings(None, {"data": {"path": str(sample_store)}, "output": str(tmp_path)}, settings)
    )
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    status, out, _ = run(capsys, "--output", tmp_path, "--extend", 5, "--dry-run")
    assert status == 0
    assert "size 0.2M" in out
    assert "14 of 8 molecules" in out
