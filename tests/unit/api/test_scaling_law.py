"""``us.fit_scaling_law``: the numbers of the command, from folders and from tables in memory."""

import json
import math
import pickle
import sys

import numpy as np
import pyarrow as pa
import pytest

import unimol_scale as us
from tests.helpers.flags import flags_in
from tests.helpers.simulated_runs import SIZES, chinchilla, write_run
from unimol_scale.cli.main import main

BOOTSTRAP = 60


class Frame:
    """What a DataFrame of any library has: names of columns, and columns by name."""

    def __init__(self, columns):
        self._columns = columns
        self.columns = list(columns)

    def __getitem__(self, name):
        return np.array(self._columns[name])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of runs of four sizes and three budgets, with the losses of a known law and some noise."""
    root = tmp_path_factory.mktemp("runs")
    for size in ("0.1M", "0.2M", "0.5M", "1M"):
        for steps in (500, 2000, 8000):
            write_run(root / f"{size}-{steps}", size, steps, noise=0.002)
    return root


@pytest.fixture(scope="module")
def table():
    rows = [(SIZES[size], D) for size in ("0.1M", "0.2M", "0.5M", "1M", "2M") for D in (3e4, 1e5, 4e5)]
    return {
        "N": [N for N, _ in rows],
        "D": [D for _, D in rows],
        "loss": [chinchilla(N, D) for N, D in rows],
        "name": [f"run-{at}" for at in range(len(rows))],
    }


def test_its_numbers_are_those_of_the_commands_law_json(runs, tmp_path, capfd):
    asked = ["--law", "chinchilla", "--hold-out", "1", "--bootstrap", str(BOOTSTRAP)]
    assert (
        main(["fit-scaling-law", str(runs), *asked, "--output", str(tmp_path / "command"), "--predict", "4M@2M"]) == 0
    )
    capfd.readouterr()
    law = us.fit_scaling_law(runs, law="chinchilla", hold_out=1, bootstrap=BOOTSTRAP, predict=["4M@2M"])
    report = law.report(tmp_path / "call")
    assert capfd.readouterr() == ("", "")
    expected = json.loads((tmp_path / "command" / "law.json").read_text())
    assert json.loads(json.dumps(law.to_dict())) == expected
    assert (tmp_path / "call" / "law.json").read_text() == (tmp_path / "command" / "law.json").read_text()
    assert report.read_text() == (tmp_path / "command" / "report.md").read_text()
    assert law.parameters == expected["law"]["parameters"]
    assert {name: list(ends) for name, ends in law.intervals.items()} == expected["law"]["intervals"]
    assert law.held_out_error == expected["held_out_error"]
    prediction = law.predict("4M", 2_000_000)
    assert (prediction.loss, list(prediction.interval)) == (
        expected["predictions"][0]["loss"],
        expected["predictions"][0]["interval"],
    )


@pytest.mark.parametrize("kind", [dict, Frame, pa.table, lambda columns: [dict(columns)]])
def test_a_table_in_memory_gives_the_law_of_the_same_table_in_a_file(table, tmp_path, kind):
    lines = [",".join(table), *(",".join(map(repr, row)) for row in zip(*table.values(), strict=True))]
    (tmp_path / "losses.csv").write_text("\n".join(lines).replace("'", "") + "\n")
    options = {"law": "chinchilla", "columns": {"C": "6ND"}, "bootstrap": BOOTSTRAP}
    from_file = us.fit_scaling_law(tmp_path / "losses.csv", **options)
    law = us.fit_scaling_law(kind(table), **options)
    assert law.parameters == from_file.parameters
    assert law.intervals == from_file.intervals
    assert law.predict("4M", "2M").loss == pytest.approx(chinchilla(SIZES["4M"], 2e6), rel=0.01)
    assert law.predict(SIZES["4M"], 2e6).loss == law.predict(float(SIZES["4M"]), "2M").loss


def test_an_optimum_balances_size_and_data(table):
    law = us.fit_scaling_law(table, law="chinchilla", columns={"C": "6ND"}, hold_out="none", bootstrap=BOOTSTRAP)
    best = law.optimal("1e14")
    assert best.parameters * best.molecules * 6 == pytest.approx(1e14, rel=0.02)
    for factor in (0.5, 2.0):
        other = law.predict(best.parameters * factor, best.molecules / factor)
        assert other.loss > best.loss
    assert best.parameters_interval is not None


def test_a_plot_is_a_figure_that_leaves_pyplot_alone(table, tmp_path):
    law, before = us.fit_scaling_law(table, law="chinchilla", bootstrap=0), "matplotlib.pyplot" in sys.modules
    figure = law.plot("D")
    assert figure.axes[0].get_xlabel() == "samples seen D"  # a table does not say what they are
    figure.savefig(tmp_path / "law.png")
    assert (tmp_path / "law.png").stat().st_size > 10_000
    assert law.plot().axes[0].get_xlabel() == "parameters N"
    assert ("matplotlib.pyplot" in sys.modules) == before
    assert law.intervals is None


def test_a_law_is_readable(table):
    law = us.fit_scaling_law(table, law="chinchilla", bootstrap=0)
    assert repr(law).startswith("ScalingLaw(chinchilla: L = E + A/N^alpha + B/D^beta; E 0.3, A ")
    assert "held-out error 0" in repr(law)
    assert [check.name for check in law.held_out] == ["run-12", "run-13", "run-14"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"law": "chinchila"}, us.ConfigError, "unknown law 'chinchila'; did you mean 'chinchilla'"),
        ({"hold_out": "some"}, us.RunError, "^hold_out some: give largest"),
        ({"trajectory": True}, us.ConfigError, "unknown argument 'trajectory'; did you mean 'trajectories'"),
        ({"burn_in": 0.5}, us.RunError, "^burn_in needs trajectories"),
        ({"burn_in_steps": 5}, us.RunError, "^burn_in_steps needs trajectories"),
        (
            {"trajectories": True, "burn_in": 0.5, "burn_in_steps": 5},
            us.ConfigError,
            "^burn_in and burn_in_steps exclude each other",
        ),
        ({"trajectories": True, "burn_in_steps": 5}, us.RunError, "does not record its number of steps; use burn_in"),
        ({"leave_out": ["run-99"]}, us.RunError, "^leave_out run-99: there is no such run"),
        ({"columns": {"losss": "x"}}, us.RunError, "unknown column 'losss'; did you mean 'loss'"),
        ({"columns": {"loss": "final"}}, us.RunError, "the table has no column 'final' for loss; name it with columns"),
        ({"law": "kaplan", "variable": "N"}, us.ConfigError, "^variable belongs to the laws in one variable"),
        ({"parameters": "totl"}, us.ConfigError, "^parameters: unknown value 'totl'; did you mean 'total'"),
        ({"budgets": ["much"]}, us.RunError, "^budgets 'much' is not a number of FLOPs"),
        ({"predict": "9X@1M"}, us.RunError, "unknown size '9X'"),
        ({"predict": ["9X@1M"]}, us.RunError, "unknown size '9X'"),
        ({"leave_out": {"run-1", "run-2"}}, us.ConfigError, "^leave_out: expected a list, got a set, which has no"),
        ({"budgets": frozenset({1e14})}, us.ConfigError, "^budgets: expected a list, got a frozenset, which has no"),
    ],
)
def test_what_is_wrong_with_a_call_is_said_by_the_names_of_its_arguments(table, options, error, message):
    with pytest.raises(error, match=message) as raised:
        us.fit_scaling_law(table, bootstrap=0, **options)
    assert not flags_in(raised.value)


def test_a_column_that_is_a_set_is_refused(table):
    with pytest.raises(us.ConfigError, match=r"^column loss: expected a list, got a set, which has no order"):
        us.fit_scaling_law({**table, "loss": set(table["loss"])})


def test_what_was_left_out_is_told_by_the_name_of_the_argument(table, caplog):
    law = us.fit_scaling_law(table, law="chinchilla", bootstrap=0, leave_out="run-1")
    assert [note for note in law.notes if "left out (leave_out run-1)" in note]
    assert not flags_in(law.notes)
    assert "left out (leave_out run-1)" in caplog.text


def test_budgets_without_an_optimum_are_told(table, caplog):
    law = us.fit_scaling_law(table, law="chinchilla", bootstrap=0, budgets=[1e14, "2e14"])
    assert len(law.analysis.unanswered) == 2
    (said,) = [warning for warning in law.warnings if "the FLOPs of every run" in warning]
    assert said in caplog.text
    assert not flags_in(law.warnings)
    answered = us.fit_scaling_law(table, law="chinchilla", bootstrap=0, columns={"C": "6ND"}, budgets=1e14)
    assert answered.warnings == answered.analysis.fit.warnings


@pytest.mark.parametrize(
    ("runs", "message"),
    [(None, "^runs: expected paths, runs or tables, got NoneType"), ([3], "got int"), ([], "^runs: the list is empty")],
)
def test_what_is_no_run_is_told(runs, message):
    with pytest.raises(us.RunError, match=message):
        us.fit_scaling_law(runs)


def test_a_law_can_be_kept_with_pickle(table):
    law = us.fit_scaling_law(table, law="chinchilla", columns={"C": "6ND"}, bootstrap=0)
    best = law.optimal(1e14)
    assert pickle.loads(pickle.dumps(law)).optimal("1e14").parameters == best.parameters


def test_what_the_law_has_no_word_on_is_an_error(table):
    law = us.fit_scaling_law(table, law="chinchilla", bootstrap=0)
    for wrong in (lambda: law.predict("9X", "1M"), lambda: law.predict("1M", "many"), lambda: law.optimal("much")):
        with pytest.raises(us.RunError):
            wrong()
    with pytest.raises(us.RunError, match="the FLOPs of every run"):
        law.optimal(1e14)
    with pytest.raises(us.RunError, match="against='S': the runs do not differ in it; valid: D, N"):
        law.plot("S")
    uneven = {**table, "loss": table["loss"][1:]}
    with pytest.raises(us.RunError, match="the table: its columns have different lengths"):
        us.fit_scaling_law(uneven)
    with pytest.raises(us.RunError, match="nowhere does not exist"):
        us.fit_scaling_law("nowhere")


def test_tasks_follow_from_the_loss(table):
    results = {
        "run": table["name"],
        "task": ["gap"] * len(table["name"]),
        "metric": ["mae"] * len(table["name"]),
        "value": [0.2 * loss**1.5 for loss in table["loss"]],
    }
    law = us.fit_scaling_law(table, law="chinchilla", bootstrap=50, task=results)
    (task,) = law.tasks
    assert task.form in ("power", "floor")
    found = law.predict_tasks(4e6, "2M")["gap"]
    assert found.error == pytest.approx(0.2 * law.predict(4e6, "2M").loss ** 1.5, rel=0.01)
    assert law.to_dict()["tasks"]["gap"]["form"] == task.form
    with pytest.raises(us.RunError, match="there are no tasks"):
        us.fit_scaling_law(table, law="chinchilla", bootstrap=0).predict_tasks(4e6, "2M")


def test_the_best_learning_rate_follows_from_sweeps(tmp_path, caplog):
    rates, sizes = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), (1e5, 4e5, 1.6e6, 6.4e6)
    rows = [(n, 1e6, rate, 1 + 0.02 * math.log(rate / (0.3 * n**-0.45)) ** 2) for n in sizes for rate in rates]
    law = us.fit_rate_law(dict(zip(("N", "D", "lr", "loss"), zip(*rows, strict=True), strict=True)), bootstrap=50)
    assert law.coefficients["b"] == pytest.approx(-0.45, abs=0.01)
    assert law.rate(1e6, "1M") == pytest.approx(0.3 * 1e6**-0.45, rel=0.02)
    caplog.clear()
    law.rate(1e9, 1e6)
    assert "extrapolated: N is 156 times the largest" in caplog.text
    assert law.report(tmp_path / "report").is_file()
    assert law.to_dict()["kind"] == "learning-rate"
