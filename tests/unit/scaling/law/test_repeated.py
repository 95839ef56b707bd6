"""The law that tells repeated data from new data: what it finds in simulated runs, and when it refuses."""

from collections.abc import Sequence

import numpy as np
import pytest

from unimol_scale.errors import RunError
from unimol_scale.scaling.law.analysis import Analysis, AnalysisConfig, analyse
from unimol_scale.scaling.law.fit import FitConfig, fit_law
from unimol_scale.scaling.law.laws import Chinchilla, Repeated, effective_data
from unimol_scale.scaling.law.points import Points
from unimol_scale.scaling.report.law_json import to_json
from unimol_scale.scaling.report.law_report import write_report
from unimol_scale.scaling.runs.run_records import RunRecord

TRUTH = {"E": 0.3, "A": 60.0, "alpha": 0.4, "B": 150.0, "beta": 0.5, "R_star": 6.0}
SIZES = (1e5, 3e5, 1e6, 3e6, 1e7)
STORES = (3e4, 1e5, 3e5)
EPOCHS = (0.3, 1.0, 4.0, 16.0, 40.0)


def runs(
    noise: float = 0.0, seed: int = 0, stores: Sequence[float] = STORES, epochs: Sequence[float] = EPOCHS
) -> list[RunRecord]:
    rng = np.random.default_rng(seed)
    rows = [(n, u * e, u) for n in SIZES for u in stores for e in epochs]
    found = []
    for n, d, u in rows:
        columns = {"N": np.array([n]), "D": np.array([d]), "U": np.array([u])}
        loss = float(Repeated().predict(TRUTH, columns)[0] * np.exp(rng.normal(0.0, noise)))
        found.append(
            RunRecord(
                name=f"{n:g}-{d:g}-{u:g}",
                source=f"run {n:g}-{d:g}-{u:g}",
                parameters=n,
                molecules=d,
                unique=u,
                loss=loss,
                flops=n * d,
            )
        )
    return found


def run(records: list[RunRecord], bootstrap: int = 0, **settings: object) -> Analysis:
    config = {"law": "repeated", "hold_out": "none", "fit": FitConfig(bootstrap=bootstrap), **settings}
    return analyse(records, [], AnalysisConfig(**config))  # type: ignore[arg-type]


def test_effective_data_are_those_of_the_paper() -> None:
    # Muennighoff et al.: with R* = 15.4, four epochs are worth 93 % or more of as much new data, and forty far less.
    worth = effective_data(np.array([1.0, 4.0, 40.0, 1e6]), np.ones(4), np.array(15.39))
    by_hand = 1 + 15.39 * (1 - np.exp(-np.array([0.0, 3.0, 39.0, 1e6]) / 15.39))
    np.testing.assert_allclose(worth, by_hand, rtol=1e-12)
    assert worth[1] > 0.9 * 4
    assert worth[2] < 0.5 * 40
    # Less than an epoch is all new, whatever the store.
    assert effective_data(np.array([0.2]), np.array([1.0]), np.array(0.01))[0] == 0.2


def test_without_repetitions_it_is_the_law_of_hoffmann() -> None:
    columns = {"N": np.array([1e5, 1e6]), "D": np.array([1e4, 1e6]), "U": np.array([1e4, 1e7])}
    np.testing.assert_allclose(Repeated().predict(TRUTH, columns), Chinchilla().predict(TRUTH, columns), rtol=1e-12)


def test_the_truth_is_found() -> None:
    found = run(runs()).fit.parameters
    np.testing.assert_allclose([found[name] for name in TRUTH], list(TRUTH.values()), rtol=1e-3)


def test_most_intervals_cover_the_truth() -> None:
    covered = dict.fromkeys(TRUTH, 0)
    for seed in range(20):
        fit = run(runs(0.005, seed), 100).fit
        assert fit.undetermined == ()
        assert fit.intervals is not None
        for name, value in TRUTH.items():
            covered[name] += fit.intervals[name][0] <= value <= fit.intervals[name][1]
    assert all(count >= 14 for count in covered.values()), covered  # of 20, at 90 %


def test_where_nothing_was_repeated_it_is_refused_and_auto_does_not_think_of_it() -> None:
    records = runs(0.002, epochs=(0.1, 0.3, 1.0))
    with pytest.raises(RunError, match="no run saw its data twice"):
        run(records)
    analysis = run(records, law="auto")
    assert "repeated" not in {candidate.law.name for candidate in analysis.selection.candidates}
    with pytest.raises(RunError, match=r"--distinct .* does not distinguish repeated data from new"):
        run(records, law="chinchilla", distinct=1e6)


def test_where_the_runs_do_not_say_what_they_had_it_is_refused() -> None:
    records = [RunRecord(**{**vars(record), "unique": None}) for record in runs()]
    with pytest.raises(RunError, match="not all runs record U"):
        run(records)


def test_few_repetitions_leave_r_star_open_and_it_is_named() -> None:
    analysis = run(runs(0.005, epochs=(0.3, 1.0, 1.2)), 100)
    assert "R_star" in analysis.fit.undetermined
    assert any("R_star is" in warning for warning in analysis.fit.warnings)


def test_auto_takes_it_where_data_were_repeated_and_its_predictions_are_of_the_store_at_hand(tmp_path) -> None:
    analysis = run(runs(0.002), 60, law="auto", predict=("2e7@3M",), budgets=(1e11,), hold_out="largest")
    assert analysis.fit.law.name == "repeated"
    (kept,) = analysis.predictions
    assert any("10 epochs of 300k distinct molecules" in note for note in kept.notes)
    (more,) = run(runs(0.002), law="repeated", predict=("2e7@3M",), distinct=3e6).predictions
    fresh = Chinchilla().predict(TRUTH, {"N": np.array([2e7]), "D": np.array([3e6])})[0]
    assert more.loss == pytest.approx(fresh, rel=0.02)
    assert kept.loss > 1.02 * more.loss
    tree = to_json(analysis)
    assert (tree["distinct"], tree["data_unit"]) == (3e5, "molecule")
    assert tree["points"][0]["U"] == 3e4
    text = write_report(analysis, tmp_path).read_text()
    assert "Repeated molecules are worth less than new ones" in text
    assert (tmp_path / "repeats.png").stat().st_size > 10_000


def test_the_best_use_of_a_budget_heeds_how_much_there_is_to_see() -> None:
    records = runs(0.002)
    (little,) = run(records, budgets=(1e13,), distinct=1e5).optima
    (plenty,) = run(records, budgets=(1e13,), distinct=1e9).optima
    assert little.parameters > 1.5 * plenty.parameters  # what cannot be seen anew is better spent on the model
    assert little.loss > plenty.loss
    assert any("epochs of 100k distinct molecules" in note for note in little.notes)


def test_points_with_one_store_keep_their_columns() -> None:
    columns = {"N": np.array([1e5, 1e6]), "D": np.array([1e5, 2e5]), "U": np.array([1e5, 1e5])}
    points = Points(names=("a", "b"), runs=np.arange(2), columns=columns, loss=np.array([2.0, 1.0]), stock=5e5)
    taken = points.take(np.array([True, False]))
    assert (taken.stock, taken.distinct_data) == (5e5, 5e5)
    with pytest.raises(RunError, match="cannot be fitted"):
        fit_law(Repeated(), taken, FitConfig(bootstrap=0))
