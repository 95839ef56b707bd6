"""From the loss to the error on a task: the form, the estimate and its intervals in simulated tables."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.simulated_runs import chinchilla, write_ladder
from unimol_scale.errors import RunError
from unimol_scale.scaling.law.analysis import Analysis, AnalysisConfig, analyse
from unimol_scale.scaling.law.fit import FitConfig
from unimol_scale.scaling.runs.counts import groups_of_size
from unimol_scale.scaling.runs.read_runs import read_runs
from unimol_scale.scaling.tasks.task_law import TaskLaw, fit_task, fit_tasks, predict_task
from unimol_scale.scaling.tasks.task_table import TaskResult, read_task_table

QUICK = FitConfig(bootstrap=200)
Truth = Callable[[float], float]


def floor(loss: float) -> float:
    return 0.05 + 0.1 * loss**2.5


def power(loss: float) -> float:
    return 0.2 * loss**1.3


def constant(loss: float) -> float:
    return 0.3


def rows(truth: Truth, noise: float = 0.01, seed: int = 0, count: int = 12, seeds: int = 3) -> list[TaskResult]:
    rng = np.random.default_rng(seed)
    return [
        TaskResult(
            run=f"run {i}",
            task="gap",
            metric="mae",
            loss=float(loss),
            error=float(truth(float(loss)) * np.exp(rng.normal(0.0, noise))),
            seed=str(j),
        )
        for i, loss in enumerate(np.geomspace(0.4, 2.0, count))
        for j in range(seeds)
    ]


@pytest.mark.parametrize(
    ("truth", "form", "parameters"),
    [
        (floor, "floor", {"e0": 0.05, "k": 0.1, "p": 2.5}),
        (power, "power", {"k": 0.2, "p": 1.3}),
        (constant, "constant", {"e0": 0.3}),
    ],
)
def test_form_and_parameters_are_found(truth: Truth, form: str, parameters: dict[str, float]) -> None:
    law = fit_task(rows(truth), QUICK)
    assert law.form == form
    assert law.parameters == pytest.approx(parameters, rel=0.1)
    assert not law.undetermined


@pytest.mark.parametrize("truth", [floor, power, constant])
@pytest.mark.parametrize("seed", range(3))
def test_exact_rows_give_exact_predictions_whatever_form_was_chosen(truth: Truth, seed: int) -> None:
    law = fit_task(rows(truth, noise=0.001, seed=seed), QUICK)
    losses = np.geomspace(0.3, 2.5, 9)  # a little beyond those that were measured
    np.testing.assert_allclose(law.predict(losses), [truth(float(loss)) for loss in losses], rtol=0.01)


def test_a_task_that_does_not_depend_on_the_loss_is_seldom_said_to() -> None:
    forms = [
        fit_task(rows(constant, noise=0.05, seed=seed, count=8), FitConfig(bootstrap=0)).form for seed in range(40)
    ]
    assert forms.count("constant") >= 32


def test_intervals_of_the_law_cover_the_truth() -> None:
    covered = 0
    for seed in range(40):
        band = fit_task(rows(power, noise=0.03, seed=seed), QUICK).band(np.array([0.8]))
        assert band is not None
        covered += band[0][0] <= power(0.8) <= band[1][0]
    assert 30 <= covered <= 40


@pytest.mark.parametrize(
    ("results", "obstacle"),
    [
        (rows(power, count=3), "3 pretraining runs were measured, but 4 are needed"),
        ([TaskResult(**{**vars(one), "loss": 1.0}) for one in rows(power)], "are almost the same"),
    ],
)
def test_too_little_is_refused(results: list[TaskResult], obstacle: str) -> None:
    law = fit_task(results, QUICK)
    assert law.form is None
    assert obstacle in str(law.obstacle)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ladder(tmp_path_factory.mktemp("runs"), steps=(200, 800, 3200), noise=0.001)


def ladder(runs: Path) -> Analysis:
    config = AnalysisConfig(law="chinchilla", hold_out="none", predict=("42M@1M", "1M@100k"), fit=QUICK)
    return analyse(*read_runs([runs]), config)


def write_table(path: Path, runs: Path, truth: Truth, **columns: object) -> Path:
    records, _ = read_runs([runs])
    rng = np.random.default_rng(0)
    data: dict[str, list[object]] = {"run": [], "task": [], "metric": [], "value": [], "seed": []}
    for record in records:
        for seed in range(2):
            value = truth(record.loss) * np.exp(rng.normal(0.0, 0.01))
            for name, one in zip(data, (record.name, "gap", "mae", value, seed), strict=True):
                data[name].append(one)
    for name, one in columns.items():
        data[name] = [one] * len(data["run"])
    pq.write_table(pa.table(data), path)
    return path


def chained(runs: Path, table: Path) -> TaskLaw:
    analysis = ladder(runs)
    (law,) = fit_tasks(read_task_table(table, analysis.records), analysis, QUICK)
    return law


def test_both_laws_together_predict_the_task(runs: Path, tmp_path: Path) -> None:
    law = chained(runs, write_table(tmp_path / "t.parquet", runs, power))
    far, near = law.predictions
    truth = power(chinchilla(groups_of_size("42M")["total"], 1e6))
    assert far.error == pytest.approx(truth, rel=0.05)
    assert far.interval is not None
    assert far.interval[0] < truth < far.interval[1]
    assert any("below the lowest of the models measured" in note for note in far.notes)
    assert not any("measured on the task" in note for note in near.notes)
    # The first law's own uncertainty is in the interval.
    alone = law.band(np.array([far.loss]))
    assert alone is not None
    assert far.interval[1] - far.interval[0] > alone[1][0] - alone[0][0]


def test_a_task_that_does_not_depend_says_so(runs: Path, tmp_path: Path) -> None:
    law = chained(runs, write_table(tmp_path / "t.parquet", runs, constant))
    assert law.form == "constant"
    assert law.predictions[0].error == pytest.approx(0.3, rel=0.01)
    assert any("does not depend on the loss" in note for note in law.predictions[0].notes)


def test_beyond_the_models_an_open_law_predicts_nothing(runs: Path, tmp_path: Path) -> None:
    law = chained(runs, write_table(tmp_path / "t.parquet", runs, power))
    analysis = ladder(runs)
    opened = TaskLaw(**{**vars(law), "undetermined": True})
    far, near = (predict_task(opened, analysis, one) for one in analysis.predictions)
    assert far.error is None
    assert "do not determine" in str(far.obstacle)
    assert near.error is not None


def test_scores_become_errors_and_checkpoints_find_their_loss(runs: Path, tmp_path: Path) -> None:
    records, _ = read_runs([runs])
    path = write_table(tmp_path / "t.parquet", runs, lambda loss: 0.9, metric="roc_auc")
    assert read_task_table(path, records)[0].error == pytest.approx(0.1, rel=0.3)
    record = next(one for one in records if one.name == "1M-800-0")
    header, row = "run,checkpoint,task,metric,value\n", "1M-800-0,80,gap,mae,0.5\n"
    (tmp_path / "t.csv").write_text(header + row)
    (result,) = read_task_table(tmp_path / "t.csv", records)
    assert result.loss == record.curve[0][1] != record.loss
    (tmp_path / "t.csv").write_text(header + row.replace("80,gap", "81,gap"))
    with pytest.raises(RunError, match="was not validated at step 81"):
        read_task_table(tmp_path / "t.csv", records)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run,task,value\na,b,1\n", "no column 'metric'"),
        ("run,task,metric,value\nnobody,b,mae,1\n", "there is no run 'nobody'"),
        ("run,task,metric,value,loss\na,b,maee,1,1\n", "unknown metric 'maee'"),
        ("run,task,metric,value,loss\na,b,mae,-1,1\n", "finite number above zero"),
        ("run,task,metric,value,loss\na,b,mae,1,1\na,b,rmse,1,1\n", "measured both by mae and by rmse"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, runs: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(RunError, match=message):
        read_task_table(tmp_path / "t.csv", read_runs([runs])[0])
