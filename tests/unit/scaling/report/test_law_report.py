import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.simulated_runs import TERMS, write_ladder
from unimol_scale.common.units import engineering
from unimol_scale.scaling.law.analysis import Analysis, AnalysisConfig, analyse
from unimol_scale.scaling.law.fit import FitConfig
from unimol_scale.scaling.report.law_json import SCHEMA, to_json
from unimol_scale.scaling.report.law_report import CAPTIONS, to_markdown, write_report
from unimol_scale.scaling.runs.read_runs import read_runs

SIZES = ("0.1M", "0.2M", "0.5M", "1M", "2M")


def run(folder: Path, **settings: object) -> Analysis:
    records, notes = read_runs([folder])
    return analyse(records, notes, AnalysisConfig(**{"fit": FitConfig(bootstrap=60), **settings}))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    runs = write_ladder(tmp_path_factory.mktemp("runs"), sizes=SIZES, steps=(200, 800, 3200), seeds=(0, 1), noise=0.002)
    return run(runs, law="chinchilla", budgets=(1e14,), predict=("4M@1M",))


@pytest.fixture(scope="module")
def report(analysis: Analysis, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(analysis, tmp_path_factory.mktemp("report"))


def test_every_picture_is_there_with_a_word_on_how_to_read_it(report: Path) -> None:
    text = report.read_text()
    # What repeated data are worth is told by the law repeated alone.
    captions = {name: caption for name, caption in CAPTIONS.items() if name != "repeats.png"}
    assert {path.name for path in report.parent.glob("*.png")} == set(captions)
    for name, caption in captions.items():
        assert f"{caption}\n\n![" in text
        assert f"]({name})" in text
        assert len((report.parent / name).read_bytes()) > 10_000


def test_law_json_has_the_keys_that_its_schema_names(report: Path, analysis: Analysis) -> None:
    tree = json.loads((report.parent / "law.json").read_text())
    assert set(tree) == set(SCHEMA) == set(tree["schema"])
    assert tree["schema_version"] == 2
    for key in SCHEMA:
        assert f"| `{key}` |" in report.read_text()
    spread = tree["law"]["spread"]
    assert spread["exponents"] == ["alpha", "beta"]
    np.testing.assert_allclose(spread["quantiles"]["alpha"][2], np.median(analysis.fit.draws["alpha"]))
    correlation = np.corrcoef(analysis.fit.draws["alpha"], analysis.fit.draws["beta"])[0, 1]
    assert spread["correlation"][0][1] == pytest.approx(correlation)
    (optimum,) = tree["optima"]
    (at_budget,) = [one for one in tree["slices"] if one["flops"] == 1e14]
    assert at_budget["N"] == optimum["parameters"] == analysis.optima[0].parameters  # full precision
    for point, loss in zip(tree["points"], analysis.points.loss, strict=True):
        assert point["residual"] == point["loss"] / point["predicted"] - 1
        assert point["loss"] == loss
    assert set(tree["terms"]) == set(TERMS)


def test_the_report_begins_with_what_a_reader_needs(analysis: Analysis, report: Path) -> None:
    short = report.read_text().split("## In short")[1].split("## The law")[0]
    assert "24 runs of 4 sizes, 127k to 938k parameters, and 3 budgets, 12.8k to 205k molecules" in short
    assert f"(6 points, 1.8M parameters) with a mean error of {analysis.held_out_error:.2%}" in short
    assert "That is good." in short
    assert f"due to too small a model by {1 - 2 ** -analysis.fit.parameters['alpha']:.1%} (alpha" in short
    optimum = analysis.optima[0]
    assert f"The best use of 1e14 FLOPs is {engineering(optimum.parameters)} (" in short
    assert f"4M@1M should reach a loss of {analysis.predictions[0].loss:.4g}" in short


def test_the_parts_of_the_loss_add_up(analysis: Analysis) -> None:
    text = to_markdown(analysis, {})
    line = next(line for line in text.splitlines() if "the costliest run" in line)
    total, shares = line.split(" has a loss of ")[1].split(": ")
    parts = [float(part.split()[0]) for part in shares.split(", ")]
    assert len(parts) == 3
    assert sum(parts) == pytest.approx(float(total), rel=0.01)


def test_a_parameter_that_the_runs_do_not_settle_is_said_to_be_so(analysis: Analysis) -> None:
    doubtful = replace(analysis, fit=replace(analysis.fit, undetermined=("E",)))
    text = to_markdown(doubtful, {})
    assert "These runs do not determine whether the loss has a floor" in text
    assert "The floor is E" not in text
    assert "not determined by these runs |" in text


def test_bad_predictions_are_called_poor(analysis: Analysis) -> None:
    wrong = {name: replace(one, relative_error=0.2) for name, one in analysis.statistics.items()}
    checks = tuple(replace(check, relative_error=-0.2) for check in analysis.checks)
    text = to_markdown(replace(analysis, statistics=wrong, checks=checks), {})
    assert "20.00%, always too low. That is poor: do not rely on predictions" in text


def test_a_law_in_one_variable_has_no_slices_and_no_allocation(tmp_path: Path) -> None:
    analysis = run(write_ladder(tmp_path / "runs", sizes=SIZES, noise=0.002), law="power")
    report = write_report(analysis, tmp_path / "report")
    assert not (report.parent / "isoflop.png").exists()
    assert not (report.parent / "allocation.png").exists()
    assert to_json(analysis)["slices"] == []
    assert "reduces the loss by " in report.read_text()


def test_points_along_runs_keep_one_row_a_run(tmp_path: Path) -> None:
    runs = write_ladder(tmp_path / "runs", sizes=SIZES, steps=(200, 800, 3200), noise=0.002)
    analysis = run(runs, law="chinchilla", burn_in=0.5, fit=FitConfig(bootstrap=0))
    text = to_markdown(analysis, {})
    table = text.split("## Runs")[1].split("## law.json")[0]
    assert table.count("\n| ") == len(analysis.records) + 2  # the header and the line below it
    assert table.count("held out") == 3
    assert "validations along them after the first 50% of each" in text


def test_without_a_bootstrap_there_is_no_spread(tmp_path: Path) -> None:
    runs = write_ladder(tmp_path / "runs", sizes=SIZES, noise=0.002)
    analysis = run(runs, law="power", hold_out="none", fit=FitConfig(bootstrap=0))
    report = write_report(analysis, tmp_path / "report")
    assert not (report.parent / "exponents.png").exists()
    assert to_json(analysis)["law"]["spread"] is None
    assert "Nothing was held out, so nothing here tests the law" in report.read_text()
