"""The builder's command line; no Ray is started."""

import re
from pathlib import Path

import pytest

from conformer_gen.config import BuildConfig
from unimol_scale.cli.verbs.build import build_parser, config_of, main

CONFIGS = Path(__file__).parents[2] / "configs" / "build"


def parse(*arguments: str) -> BuildConfig:
    return config_of(build_parser().parse_args(arguments))


def test_the_commented_file_says_the_defaults() -> None:
    from_file = parse("--config", str(CONFIGS / "sample.yaml"))
    assert from_file == parse("--source", "sample", "--output", "data/sample")
    assert from_file.directory == parse("--source", "sample").directory


def test_flags_win_over_overrides_and_those_over_the_file() -> None:
    file = str(CONFIGS / "zinc20.yaml")
    assert parse("--config", file).conformers.count == 10
    assert parse("--config", file, "conformers.count=3").conformers.count == 3
    assert parse("--config", file, "--conformers", "2", "conformers.count=3").conformers.count == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "zinc"], "did you mean 'zinc20'"),
        (["--source", "zinc20"], "needs --input"),
        (["--source", "sample", "--backend", "arow"], "did you mean 'arrow'"),
        (["--source", "sample", "conformers.cuont=2"], "did you mean 'count'"),
        (["--source", "sample", "--conformers", "0"], "1 to 255"),
        (["--source", "zinc20", "--input", "nowhere.smi", "--dry-run"], "does not exist"),
    ],
)
def test_bad_input_is_one_clear_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


def test_a_dry_run_counts_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--source", "sample", "--dry-run"]) == 0
    words = capsys.readouterr().out
    assert "4,999 rows from 1 input (first_5K.smi)" in words
    hours, size = (float(re.search(rf"about ([\d.]+) {unit}", words)[1]) for unit in ("core-hours", "MiB"))
    assert 4_999 * 1e-3 / 3600 < hours < 4_999 * 0.2 / 3600, "a molecule takes 1 to 200 ms"
    assert 300 * 4_999 / 2**20 < size < 1200 * 4_999 / 2**20, "and 300 to 1,200 bytes"
    assert "measured on 40 of the first 2,000 rows" in words
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_what_it_can_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--dry-run", "--output", str(tmp_path / "store")]
    assert main(["--source", "zinc20", "--input", "C[A-B]AA", *arguments]) == 0
    assert "would download 2 of 2 inputs" in capsys.readouterr().out
    (tmp_path / "bad.smi").write_text("nonsense\n*\n")
    assert main(["--source", "smiles", "--input", str(tmp_path / "bad.smi"), *arguments]) == 0
    assert "would write nothing" in capsys.readouterr().out
