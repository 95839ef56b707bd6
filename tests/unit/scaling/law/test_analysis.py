import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.simulated_runs import BATCH, SIZES, chinchilla, write_ladder
from unimol_scale.errors import ConfigError, RunError
from unimol_scale.model.accounting import count_parameters
from unimol_scale.model.presets import PRESETS
from unimol_scale.scaling.law.analysis import Analysis, AnalysisConfig, analyse, parameters_of_size
from unimol_scale.scaling.law.fit import FitConfig, fit_law
from unimol_scale.scaling.law.law_choice import held_out_error, hold_out_mask
from unimol_scale.scaling.law.laws import Power, Saturating
from unimol_scale.scaling.law.points import columns_at, distinct, make_points
from unimol_scale.scaling.report.law_report import write_report
from unimol_scale.scaling.report.summary_sentences import summary_sentences
from unimol_scale.scaling.runs.counts import parse_count
from unimol_scale.scaling.runs.read_runs import read_runs

QUICK = FitConfig(bootstrap=100)


def run(folder: Path, **settings: object) -> Analysis:
    records, notes = read_runs([folder])
    return analyse(records, notes, AnalysisConfig(**{"fit": QUICK, **settings}))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ladder(tmp_path_factory.mktemp("joint"), steps=(200, 800, 3200), noise=0.001)


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ladder(tmp_path_factory.mktemp("flat"), noise=0.0005)


def test_auto_takes_the_joint_law_when_sizes_and_budgets_vary(joint: Path) -> None:
    analysis = run(joint, hold_out="none")
    assert analysis.fit.law.name == "chinchilla"
    assert {candidate.law.name for candidate in analysis.selection.candidates} >= {"chinchilla", "unimol2", "power"}
    assert analysis.fit.parameters["alpha"] == pytest.approx(0.4, rel=0.1)


def test_auto_takes_a_law_in_n_when_there_is_one_budget(flat: Path) -> None:
    analysis = run(flat)
    # The simulated law has a floor at a fixed budget, which a pure power cannot follow over a decade.
    assert analysis.fit.law.label == "saturating in N"
    assert "left-out sizes" in analysis.selection.reason
    power = run(flat, law="power")
    assert analysis.held_out_error < power.held_out_error


def test_a_law_that_misses_the_sizes_it_did_not_see_is_called_poor(tmp_path: Path) -> None:
    write_ladder(tmp_path, law=lambda n, d: 2.0 + np.sin(n), seeds=(0, 1))
    assert "too large for predictions" in run(tmp_path, hold_out="none", fit=FitConfig(bootstrap=0)).selection.reason


def test_auto_takes_the_pure_power_when_that_is_the_truth(tmp_path: Path) -> None:
    write_ladder(tmp_path, law=lambda n, d: 12.0 / n**0.2, noise=0.002, seeds=(0, 1))
    assert run(tmp_path, hold_out="none").fit.law.label == "power in N"


def test_the_error_that_chooses_a_law_is_of_sizes_it_did_not_see(flat: Path) -> None:
    points = make_points(read_runs([flat])[0], "total")
    law, config = Power("N"), FitConfig(bootstrap=0)
    by_hand = []
    for i in range(len(points)):
        out = np.arange(len(points)) == i
        predicted = fit_law(law, points.take(~out), config).predict(points.take(out).columns)
        by_hand.append(abs(predicted[0] / points.loss[i] - 1))
    assert held_out_error(law, points, config) == pytest.approx(np.mean(by_hand), rel=1e-6)
    # One size less would leave too few to fit: no number is better than one from the points themselves.
    assert held_out_error(Saturating("N"), points.take(np.arange(len(points)) < 3), config) is None


def test_the_held_out_size_is_predicted_and_was_not_fitted(joint: Path) -> None:
    analysis = run(joint)
    assert {check.name for check in analysis.checks} == {"4M-200-0", "4M-800-0", "4M-3200-0"}
    assert analysis.fit.num_points == 15
    assert 0 < analysis.held_out_error < 0.01


@pytest.mark.parametrize(("rule", "sizes"), [("largest", 1), ("2", 2), ("0.5", 3), ("0.34", 3), ("none", 0)])
def test_hold_out_takes_whole_sizes_from_the_top(joint: Path, rule: str, sizes: int) -> None:
    points = make_points(read_runs([joint])[0], "total")
    mask = hold_out_mask(points, rule)
    chosen = np.unique(points.columns["N"][mask])
    assert list(chosen) == sorted(SIZES.values())[len(SIZES) - sizes :]
    assert mask.sum() == 3 * sizes


def test_the_corner_is_the_largest_size_on_the_most_data_it_has_seen(joint: Path, tmp_path: Path) -> None:
    assert {check.name for check in run(joint, hold_out="corner").checks} == {"4M-3200-0"}
    write_ladder(tmp_path, sizes=["1M"], steps=(200, 400))
    one_size = make_points(read_runs([tmp_path])[0], "total")
    assert hold_out_mask(one_size, "corner").sum() == 1


@pytest.mark.parametrize("rule", ["6", "many", "-1", "0", "1.5"])
def test_a_hold_out_that_makes_no_sense_is_refused(joint: Path, rule: str) -> None:
    with pytest.raises(RunError, match="--hold-out"):
        run(joint, hold_out=rule)


def test_too_few_sizes_are_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    write_ladder(tmp_path, sizes=["1M"])
    with pytest.raises(RunError, match=r"leaves nothing to fit.*1 model size"):
        run(tmp_path)
    with pytest.raises(RunError, match=r"no law can be fitted.*train more sizes"):
        run(tmp_path, hold_out="none")


def test_a_law_that_one_budget_can_not_determine_is_refused_by_name(flat: Path) -> None:
    with pytest.raises(RunError, match=r"chinchilla.*D is constant"):
        run(flat, law="chinchilla")


def test_prediction_of_a_preset_without_runs_uses_its_count(joint: Path) -> None:
    analysis = run(joint, predict=("42M@1M",), hold_out="none")
    (prediction,) = analysis.predictions
    assert prediction.parameters == 43_788_112
    assert prediction.loss == pytest.approx(chinchilla(43_788_112, 1e6), rel=0.05)
    assert prediction.interval[0] < prediction.loss < prediction.interval[1]
    assert any("N is 11.6 times the largest" in note for note in prediction.notes)


def test_prediction_of_a_size_that_was_run_uses_the_runs_count(joint: Path) -> None:
    records, _ = read_runs([joint])
    assert parameters_of_size("1M", records, "total") == SIZES["1M"]
    assert parameters_of_size("7e6", records, "total") == 7e6
    groups = count_parameters(PRESETS["1.1B"])
    assert parameters_of_size("1.1B", records, "pair-track") == groups.pair_track
    assert parameters_of_size("1.1B", records, "non-embedding") == groups.total - groups.embedding
    with pytest.raises(RunError, match=r"unknown size '1\.1G'.*did you mean '1\.1B'"):
        parameters_of_size("1.1G", records, "total")


@pytest.mark.parametrize(
    ("request_", "message"),
    [("1M", "not SIZE@MOLECULES"), ("1M@lots", "not SIZE@MOLECULES"), ("1e400@1e6", "unknown size")],
)
def test_a_malformed_request_is_refused(joint: Path, request_: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        run(joint, predict=(request_,))


def test_a_size_beyond_the_runs_is_noted_on_either_side(joint: Path) -> None:
    small, large = run(joint, predict=("1e3@1", "1e12@1e12")).predictions
    assert [note.split(" is ")[0] for note in small.notes if "times the smallest" in note] == ["N", "D"]
    assert [note.split(" is ")[0] for note in large.notes if "times the largest" in note] == ["N", "D"]


def test_a_law_in_n_refuses_to_speak_about_another_budget(flat: Path) -> None:
    assert run(flat, predict=(f"4M@{400 * BATCH}",)).predictions[0].loss > 0
    with pytest.raises(RunError, match="does not depend on D"):
        run(flat, predict=("4M@1B",))


def test_a_law_in_compute_predicts_through_the_runs_flops_per_molecule(joint: Path) -> None:
    points = make_points(read_runs([joint])[0], "total")
    columns = columns_at(points, np.array([5e5, 5e7]), np.array([1e5, 1e5]))
    np.testing.assert_allclose(columns["C"], 150.0 * np.array([5e5, 5e7]) ** 0.95 * 1e5, rtol=1e-6)
    np.testing.assert_allclose(columns["S"], 1e5 / BATCH)


def test_every_validation_of_a_run_is_a_point_after_the_burn_in(joint: Path) -> None:
    analysis = run(joint, burn_in=0.5, hold_out="none", law="chinchilla", fit=FitConfig(bootstrap=0))
    per_run = np.unique(analysis.points.runs, return_counts=True)[1]
    assert set(per_run) == {6}  # of ten validations, those at half of the run and later
    assert analysis.points.num_runs == 18
    record = analysis.records[0]
    own = analysis.points.runs == 0
    np.testing.assert_allclose(analysis.points.columns["D"][own], [d for d, _ in record.curve[4:]])
    np.testing.assert_allclose(analysis.points.loss[own], [loss for _, loss in record.curve[4:]])
    per_molecule = analysis.points.columns["C"] / analysis.points.columns["D"]
    np.testing.assert_allclose(per_molecule[own], record.flops / record.molecules)
    assert {term.term for term in analysis.terms if term.points is not None and len(term.points) == 108} == {
        "token",
        "coordinate",
        "distance",
    }
    with pytest.raises(ConfigError, match="--burn-in"):
        AnalysisConfig(burn_in=1.0)


def test_a_burn_in_in_steps_leaves_out_the_validations_of_the_first_steps(joint: Path) -> None:
    quick = {"hold_out": "none", "law": "chinchilla", "fit": FitConfig(bootstrap=0)}
    analysis = run(joint, burn_in_steps=100, **quick)
    for index, record in enumerate(analysis.records):
        after = [(d, loss) for d, loss in record.curve if d * record.steps / record.molecules > 100]
        own = analysis.points.runs == index
        np.testing.assert_allclose(analysis.points.columns["D"][own], [d for d, _ in after])
        np.testing.assert_allclose(analysis.points.loss[own], [loss for _, loss in after])
    shortest = min(record.steps for record in analysis.records)
    assert len(run(joint, burn_in_steps=0, **quick).points) == 180
    # A run that has nothing behind the burn-in must not count by its end, which lies in it.
    with pytest.raises(
        RunError, match=rf"has {shortest} steps, all of which --burn-in-steps {shortest} would leave out"
    ):
        run(joint, burn_in_steps=shortest, **quick)
    with pytest.raises(ConfigError, match="--burn-in and --burn-in-steps exclude each other"):
        AnalysisConfig(burn_in=0.5, burn_in_steps=10)
    with pytest.raises(ConfigError, match="--burn-in-steps is a whole number of steps, at least 0; got -1"):
        AnalysisConfig(burn_in_steps=-1)
    sentence = summary_sentences(analysis)[0]
    assert f"at {len(analysis.points)} validations along them after the first 100 steps of each" in sentence


def test_points_in_mid_decay_are_warned_about(tmp_path: Path) -> None:
    write_ladder(tmp_path, steps=(200, 800, 3200), noise=0.001)
    quick = FitConfig(bootstrap=0)
    steady = run(tmp_path, burn_in=0.5, law="chinchilla", hold_out="none", fit=quick)
    assert not any("learning rate" in warning for warning in steady.fit.warnings)
    path = tmp_path / "1M-800-0" / "metrics.jsonl"
    path.write_text(path.read_text().replace('"lr": 0.001', '"lr": 0.0001').replace('"lr": 0.0001', '"lr": 0.001', 1))
    falling = run(tmp_path, burn_in=0.5, law="chinchilla", hold_out="none", fit=quick)
    assert any("in 1 of 18 runs the learning rate decays" in warning for warning in falling.fit.warnings)
    ends = run(tmp_path, law="chinchilla", hold_out="none", fit=quick)
    assert not any("learning rate" in warning for warning in ends.fit.warnings)


def test_runs_that_skipped_steps_are_warned_about(tmp_path: Path) -> None:
    write_ladder(tmp_path, steps=(200, 800, 3200), noise=0.001)
    path = tmp_path / "1M-800-0" / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "skipped": 7}))
    analysis = run(tmp_path, law="chinchilla", fit=FitConfig(bootstrap=0))
    assert any("1M-800-0 (7)" in warning for warning in analysis.fit.warnings)


def test_held_out_sizes_have_statistics_of_their_own(joint: Path) -> None:
    analysis = run(joint, hold_out="2", law="chinchilla", budgets=(1e14,))
    assert list(analysis.statistics) == ["2M", "4M", "all"]
    every = analysis.statistics["all"]
    assert every.num_points == 6
    assert every.pearson > 0.999
    assert every.r2 > 0.999
    assert analysis.held_out_error == every.relative_error
    (best,) = analysis.optima
    assert best.loss < chinchilla(best.parameters * 3, best.molecules / 3**0.95)
    assert best.loss < chinchilla(best.parameters / 3, best.molecules * 3**0.95)


def test_a_budget_leaves_auto_the_laws_that_can_answer(joint: Path, flat: Path) -> None:
    analysis = run(joint, budgets=(1e14,), fit=FitConfig(bootstrap=0))
    considered = {candidate.law.name for candidate in analysis.selection.candidates}
    assert considered == {"chinchilla", "droppo", "kaplan", "unimol2"}
    (reason,) = run(flat, budgets=(1e14,), fit=FitConfig(bootstrap=0)).unanswered
    assert "has no trade-off between size and data" in reason


def test_n_may_count_a_track_alone(joint: Path) -> None:
    points = make_points(read_runs([joint])[0], "atom-track")
    assert sorted(set(points.columns["N"])) == sorted(size - 72_000 for size in SIZES.values())
    with pytest.raises(RunError, match="N is constant"):
        run(joint, parameters="pair-track", law="chinchilla", hold_out="none")


def test_a_trajectory_is_many_values_although_neighbours_are_close() -> None:
    values = np.linspace(1.0, 2.0, 1000)
    assert distinct(values).max() > 60


def test_distinct_values_are_one_within_a_percent() -> None:
    assert distinct(np.array([200.0, 100.0, 100.5, 400.0])).tolist() == [1, 0, 0, 2]


@pytest.mark.parametrize(
    ("text", "value"), [("838M", 8.38e8), ("1.1e9", 1.1e9), ("12_000", 12000.0), ("1B", 1e9), ("0", None), ("-1", None)]
)
def test_counts_are_read_with_their_suffix(text: str, value: float | None) -> None:
    assert parse_count(text) == value


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="--variable belongs to the laws in one variable"):
        AnalysisConfig(law="chinchilla", variable="N")
    with pytest.raises(ConfigError, match="did you mean 'power'"):
        AnalysisConfig(law="powr")


def test_the_report_holds_the_numbers_and_every_picture(joint: Path, tmp_path: Path) -> None:
    analysis = run(joint, predict=("42M@1M",))
    report = write_report(analysis, tmp_path / "report")
    text = report.read_text()
    tree = json.loads((tmp_path / "report" / "law.json").read_text())
    assert tree["law"]["parameters"] == dict(analysis.fit.parameters)  # full precision
    assert tree["held_out_error"] == analysis.held_out_error
    assert [point["name"] for point in tree["points"] if point["held_out"]] == [check.name for check in analysis.checks]
    assert set(tree["terms"]) == {"token", "coordinate", "distance"}
    pictures = {path.name for path in report.parent.glob("*.png")}
    expected = {"loss_vs_N.png", "loss_vs_D.png", "loss_vs_C.png", "residuals.png", "curves.png", "terms.png"}
    expected |= {"exponents.png", "isoflop.png"}
    assert pictures >= expected
    for name in expected:
        assert f"]({name})" in text
        assert (report.parent / name).read_bytes().startswith(b"\x89PNG")
    assert f"{analysis.held_out_error:.2%}" in text


def test_no_picture_is_drawn_against_a_constant(flat: Path, tmp_path: Path) -> None:
    write_report(run(flat), tmp_path)
    assert not (tmp_path / "loss_vs_D.png").exists()
    assert (tmp_path / "loss_vs_N.png").exists()


def test_a_loss_term_that_no_law_fits_is_reported_and_not_hidden(tmp_path: Path) -> None:
    write_ladder(tmp_path / "runs", noise=0.001)
    for summary in (tmp_path / "runs").glob("*/summary.json"):
        tree = json.loads(summary.read_text())
        tree["final"]["valid/loss/token"] = 0.0
        summary.write_text(json.dumps(tree))
    analysis = run(tmp_path / "runs")
    (token,) = [term for term in analysis.terms if term.term == "token"]
    assert token.fit is None
    assert "token is 0.0" in token.obstacle
    assert token.obstacle in write_report(analysis, tmp_path / "report").read_text()
