"""Runs that were written as one table are the same runs when they are read back, and give the same law."""

import dataclasses
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.helpers.simulated_runs import write_ladder, write_run

from unimol_scale.cli.main import main
from unimol_scale.errors import RunError
from unimol_scale.scaling.runs.read_runs import read_runs
from unimol_scale.scaling.runs.runs_table import write_runs_table

SIZES = ["0.1M", "0.2M", "0.5M", "1M"]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write_ladder(tmp_path / "runs", sizes=SIZES)
    return tmp_path / "runs"


def test_runs_come_back_as_they_were(runs: Path, tmp_path: Path) -> None:
    branch = {"branch": {"trunk": str(runs / "trunk"), "step": 80, "own": {"flops": 5.0}}, "schedule": "wsd"}
    write_run(runs / "branch", "2M", 100, summary=branch)
    write_run(runs / "tuned", "2M", 200, summary={"init": {"path": "runs/earlier"}})
    records, _ = read_runs([runs])
    write_runs_table(records, tmp_path / "runs.parquet")
    again, _ = read_runs([tmp_path / "runs.parquet"])
    for before, after in zip(records, again, strict=True):
        assert after.source == f"{tmp_path / 'runs.parquet'}: {before.name}"
        trunk = None if before.trunk is None else Path(before.trunk).name
        remarks = tuple(remark.replace(before.source, before.name) for remark in before.remarks)
        assert after == dataclasses.replace(before, source=after.source, trunk=trunk, remarks=remarks)


def test_the_law_of_the_table_is_that_of_the_runs(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table = tmp_path / "results" / "runs.parquet"
    assert main(["runs", "table", str(runs), "--output", str(table)]) == 0
    assert "fit-scaling-law" in capsys.readouterr().out
    laws = []
    for source, name in ((runs, "folders"), (table, "table")):
        report = tmp_path / name
        assert main(["fit-scaling-law", str(source), "--bootstrap", "50", "--output", str(report)]) == 0
        laws.append(json.loads((report / "law.json").read_text()))
        text = (report / "report.md").read_text()
        assert "| batch size | 64 molecules |" in text
    for key in ("law", "terms", "checklist"):
        assert laws[0][key] == laws[1][key]


def test_nobody_learns_where_the_runs_and_their_data_were(runs: Path, tmp_path: Path) -> None:
    for folder in runs.iterdir():
        with (folder / "config.yaml").open("a") as file:
            file.write(f"data: {{path: {tmp_path}/secret/zinc}}\noutput: {folder}\n")
    assert main(["runs", "table", str(runs), "--output", str(tmp_path / "runs.parquet")]) == 0
    rows = pq.read_table(tmp_path / "runs.parquet").to_pylist()
    assert str(tmp_path) not in str(rows)
    assert json.loads(rows[0]["settings"])["data.path"] == "zinc"


def test_runs_of_two_validation_sets_make_no_table(runs: Path, tmp_path: Path) -> None:
    write_run(runs / "other", "2M", 100, summary={"validation_sha256": "w" * 64})
    with pytest.raises(RunError, match="validation set"):
        read_runs([runs])
    assert main(["runs", "table", str(runs), "--output", str(tmp_path / "runs.parquet")]) == 2
    assert not (tmp_path / "runs.parquet").exists()


def test_list_names_finished_and_unfinished_runs(runs: Path, capsys: pytest.CaptureFixture) -> None:
    folder = write_run(runs / "half", "2M", 100)
    (folder / "summary.json").unlink()
    (folder / "config.yaml").write_text("size: 2M\ntrain: {steps: 400}\n")
    assert main(["runs", "list", str(runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("finished" in line for line in lines) == len([path for path in runs.iterdir() if path.name != "half"])
    (half,) = [line for line in lines if "half" in line]
    assert "2M" in half
