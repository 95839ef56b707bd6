import json

import pytest
import yaml

from unimol_scale.cli.main import main
from unimol_scale.common.units import duration


def test_the_help_says_what_each_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["ladder", "--help"])
    text = capsys.readouterr().out
    for words in ("Slurm job array", "print the planned runs", "best next run", "training compute of the next run"):
        assert words in " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["l.yaml", "--next", "runs"], "either a ladder file, or --next"),
        (["l.yaml", "--submit"], "--submit belongs to --slurm"),
        (["--next", "nowhere"], "nowhere does not exist"),
        (["l.yaml", "--slurm"], "l.yaml does not exist"),
        (["l.yaml", "--budget", "1e12"], "--budget belongs to --next"),
        (["l.yaml", "--device", "h100"], "--device belongs to --dry-run"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ladder", *arguments]) == 2
    assert message in capsys.readouterr().err


def write_ladder(tmp_path, data, **changes):
    tree = {
        "name": "try", "data": str(data), "sizes": ["42M", "84M"], "steps": [5000], "launcher": "deepspeed", "ranks": 8,
        "overrides": {"train": {"global_batch_size": 256, "warmup_steps": 10}}, "output": str(tmp_path / "runs"),
    }  # fmt: skip
    path = tmp_path / "ladder.yaml"
    path.write_text(yaml.safe_dump(tree | changes))
    return str(path)


def test_the_dry_run_says_the_hours_and_the_disk_that_plan_says(capsys, sample_store, tmp_path) -> None:
    settings = ["train.global_batch_size=256", "train.steps=5000", "train.warmup_steps=10"]
    hours, disk = 0.0, 0.0
    for size in ("42M", "84M"):
        assert main(["plan", "--size", size, "--gpus", "8", "--data", str(sample_store), "--json", *settings]) == 0
        tree = json.loads(capsys.readouterr().out)
        hours += tree["compute"]["days"] * 24
        disk += tree["disk_bytes"] / 2**30
    ladder = write_ladder(tmp_path, sample_store, steps=[5000, 10000])
    assert main(["ladder", ladder, "--dry-run", "--device", "h100"]) == 0
    out = capsys.readouterr().out
    assert f"estimated for h100: {duration(3 * hours * 3600)} for the 4 runs left" in out
    assert f"up to {2 * disk:.1f} GiB of disk for all" in out
    assert main(["ladder", ladder, "--dry-run", "--device", "h10"]) == 2
    assert "did you mean 'h100'" in capsys.readouterr().err


def test_a_dry_run_before_there_is_a_store_assumes_molecules_as_plan_does(capsys, tmp_path) -> None:
    settings = ["train.global_batch_size=256", "train.steps=5000", "train.warmup_steps=10"]
    assert main(["plan", "--size", "84M", "--gpus", "8", "--atoms", "25", "--json", *settings]) == 0
    days = json.loads(capsys.readouterr().out)["compute"]["days"]
    ladder = write_ladder(tmp_path, tmp_path / "none", sizes=["84M"], steps=[5000])
    assert main(["ladder", ladder, "--dry-run", "--device", "h100", "--atoms", "25"]) == 0
    assert f"estimated for h100: {duration(days * 86400)} for the 1 run left" in capsys.readouterr().out
    assert main(["ladder", ladder, "--atoms", "25"]) == 2
    assert "--atoms belongs to --dry-run" in capsys.readouterr().err


def test_a_dry_run_without_its_store_still_shows_the_ladder(capsys, tmp_path) -> None:
    assert main(["ladder", write_ladder(tmp_path, tmp_path / "none"), "--dry-run", "--device", "h100"]) == 0
    out = capsys.readouterr().out
    assert "time and disk of 2 of 2 runs are unknown: no store at" in out
    assert "--atoms 25 assumes molecules of that size" in out
    assert "--size 84M" in out
