"""A law and a metric from somebody else's files, through the commands that take them."""

import json

import pytest
import yaml

from tests.helpers.extensions import OBJECTIVE, forget, importable, imported
from tests.helpers.simulated_runs import write_ladder, write_run
from unimol_scale.cli.main import main
from unimol_scale.config import to_tree
from unimol_scale.downstream.finetuning.results import read
from unimol_scale.model.presets import PRESETS

LAW = "toy_law:NoFloor"
FINETUNE = ("finetune", "--from", "none", "--size", "0.03M", "--split", "random", "--inputs", "2d", "--data", "set.csv")
SHORT = ("--seeds", "1", "train.epochs=2", "train.batch_size=8", "fractions=[0.5,0.25,0.25]", "--no-baselines")
METRIC = "toy_metric:MEDIAN_ERROR"


def without_floor(parameters, molecules):
    return 60.0 / parameters**0.4 + 150.0 / molecules**0.5


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a verb in a folder of its own; return the status and what was printed."""
    monkeypatch.chdir(tmp_path)
    forget()

    def called(*arguments):
        status = main(list(map(str, arguments)))
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return called


@pytest.fixture
def table(tmp_path):
    rows = ["C" * n + end for n in range(1, 9) for end in ("O", "N", "S")]
    (tmp_path / "set.csv").write_text("smiles,mass\n" + "".join(f"{row},{14.5 * len(row)}\n" for row in rows))


def test_a_law_is_fitted_tested_predicted_from_and_drawn(run, tmp_path):
    write_ladder(tmp_path / "runs", steps=(200, 800, 3200), noise=0.001, law=without_floor)
    arguments = ("fit-scaling-law", "runs", "--law", LAW, "--bootstrap", 50, "--predict", "42M@1M", "--budget", "1e15")
    with importable():
        status, out, _ = run(*arguments)
        assert run(*arguments, "--variable", "N")[0] == 2
    assert status == 0
    assert "law: no-floor, because it was asked for" in out
    report = tmp_path / "reports" / "scaling-law"
    tree = json.loads((report / "law.json").read_text())
    law = tree["law"]
    assert law["parameters"] == pytest.approx({"A": 60.0, "alpha": 0.4, "B": 150.0, "beta": 0.5}, rel=0.1)
    assert law["bootstrap_draws"] == 50
    assert law["intervals"]["alpha"][0] < law["parameters"]["alpha"] < law["intervals"]["alpha"][1]
    assert tree["held_out_error"] < 0.01
    assert tree["predictions"][0]["loss"] == pytest.approx(without_floor(42e6, 1e6), rel=0.05)  # nearly
    assert {"loss_vs_N.png", "residuals.png", "exponents.png", "isoflop.png", "allocation.png"} <= {
        path.name for path in report.iterdir()
    }
    assert "**L = A/N^alpha + B/D^beta** (no-floor; an example)" in (report / "report.md").read_text()


def test_runs_of_somebodys_objective_are_fitted_without_it(run, tmp_path):
    for size, steps in (("0.1M", 200), ("0.5M", 200), ("2M", 200), ("4M", 200)):
        write_run(tmp_path / "runs" / size, size, steps, summary={"objective": OBJECTIVE})
    status, out, err = run("fit-scaling-law", "runs", "--bootstrap", 0, "--law", "saturating")
    assert status == 0, err
    assert "held-out error" in out
    assert not imported()


def test_the_next_run_of_a_ladder_takes_somebodys_law_but_their_objective_only_if_it_is_named(run, tmp_path):
    write_ladder(tmp_path / "runs", steps=(200, 800, 3200), noise=0.001, law=without_floor)
    for path in (tmp_path / "runs").glob("*/summary.json"):
        path.write_text(path.read_text().replace('"denoise"', f'"{OBJECTIVE}"'))
    for path in (tmp_path / "runs").glob("*/config.yaml"):
        model = {"model": to_tree(PRESETS[path.parent.name.split("-")[0]]), "data": {"path": "data/sample"}}
        path.write_text(f"{path.read_text()}  learning_rate: 1e-3\n{yaml.safe_dump(model)}")
    arguments = ("ladder", "--next", "runs", "--law", LAW)
    with importable():
        status, _, err = run(*arguments)
        assert status == 2
        assert f"only if you name it yourself: add --objective {OBJECTIVE}" in err
        assert run(*arguments, "--objective", "blend")[0] == 2
        status, out, err = run(*arguments, "--objective", OBJECTIVE)
    assert status == 0, err
    assert "law: no-floor" in out
    assert f"objective: {OBJECTIVE}" in (tmp_path / "next.yaml").read_text()
    assert "toy_objective" not in imported()


def test_a_metric_chooses_and_judges_and_is_not_needed_afterwards(run, table, tmp_path):
    arguments = (*FINETUNE, *SHORT, "--target", "mass", "--metric", METRIC, "--output", "fine", "units.mass=u")
    with importable():
        status, out, err = run(*arguments)
        assert status == 0, err
        assert "valid median_error" in err
    forget()
    done = read(tmp_path / "fine")
    assert f"test median_error {done.mean:.4g} u" in out
    assert (done.metric, done.prefers_high, done.unit) == ("median_error", False, "u")
    # The result is read, and molecules are predicted, without the file of the metric.
    status, again, err = run(*arguments)
    assert status == 0, err
    assert "nothing was computed" in again
    (tmp_path / "asked.smi").write_text("CCCO\n")
    assert run("predict", "asked.smi", "--from", "fine", "--output", "p.csv")[0] == 0
    assert not imported()
    status, _, err = run(*arguments[:-3], "--output", "more")
    assert status == 2
    assert "the metric toy_metric:MEDIAN_ERROR: there is no module 'toy_metric'" in err


def test_a_function_is_a_metric_if_its_name_says_which_way_is_up(run, table, tmp_path):
    with importable():
        status, out, err = run(
            *FINETUNE, *SHORT, "--target", "mass", "--metric", "toy_metric:rank_score", "--output", "a"
        )
    assert status == 0, err
    assert "test rank_score" in out
    assert read(tmp_path / "a").prefers_high
    known = ("--metric", "sklearn.metrics:median_absolute_error", "--output", "b")
    assert run(*FINETUNE, *SHORT, "--target", "mass", *known)[0] == 0
    assert not read(tmp_path / "b").prefers_high
