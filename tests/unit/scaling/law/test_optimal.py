"""The best use of a compute budget: against the closed form where there is one, and where there is none."""

import numpy as np
import pytest

from unimol_scale.errors import RunError
from unimol_scale.model.accounting import count_parameters, training_flops
from unimol_scale.model.presets import PRESETS
from unimol_scale.scaling.law.fit import Fit, FitConfig, fit_law
from unimol_scale.scaling.law.laws import Chinchilla, Kaplan, Power
from unimol_scale.scaling.law.optimal import compute_optimal
from unimol_scale.scaling.law.points import Points, columns_at

TRUTH = {"E": 0.3, "A": 60.0, "alpha": 0.4, "B": 150.0, "beta": 0.5}


def make(price, noise: float = 0.0, sizes=None) -> Points:
    n, d = (
        v.ravel() for v in np.meshgrid(np.geomspace(1e5, 1e7, 6) if sizes is None else sizes, np.geomspace(1e4, 1e6, 5))
    )
    loss = Chinchilla().predict(TRUTH, {"N": n, "D": d}) * np.exp(np.random.default_rng(2).normal(0, noise, len(n)))
    columns = {"N": n, "D": d, "C": price(n) * d}
    return Points(names=tuple(f"run {i}" for i in range(len(n))), runs=np.arange(len(n)), columns=columns, loss=loss)


def fitted(points: Points, bootstrap: int = 0) -> Fit:
    return fit_law(Chinchilla(), points, FitConfig(bootstrap=bootstrap))


def test_where_compute_is_6nd_the_closed_form_is_met() -> None:
    points = make(lambda n: 6 * n)
    fit = fitted(points)
    p = fit.parameters
    for flops in (1e12, 1e13, 1e15):
        best = compute_optimal(fit, points, flops)
        g = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"]))
        exponent = p["beta"] / (p["alpha"] + p["beta"])
        assert best.parameters == pytest.approx(g * (flops / 6) ** exponent, rel=1e-4)
        assert best.parameters * best.molecules * 6 == pytest.approx(flops, rel=1e-9)
        assert best.exponent == pytest.approx(exponent, rel=1e-3)


def test_the_price_of_the_pair_track_moves_the_optimum() -> None:
    names = ["42M", "84M", "164M", "310M", "570M", "1.1B"]
    sizes = np.array([count_parameters(PRESETS[name]).total for name in names], dtype=np.float64)
    prices = np.array([training_flops(PRESETS[name], 24) for name in names])
    points = make(lambda n: prices[np.searchsorted(sizes, n * 0.999)], sizes=sizes)
    fit = fitted(points)
    flops = 3e16
    best = compute_optimal(fit, points, flops)
    # By brute force along the curve of that budget.
    grid = np.geomspace(1e6, 1e10, 200_001)
    price = columns_at(points, grid, np.ones(len(grid)))["C"]
    losses = Chinchilla().predict(fit.parameters, {"N": grid, "D": flops / price})
    assert best.parameters == pytest.approx(grid[np.argmin(losses)], rel=1e-3)
    assert best.loss == pytest.approx(losses.min(), rel=1e-9)
    by_rule = compute_optimal(fit, make(lambda n: 6 * n, sizes=sizes), flops)
    assert abs(np.log(best.molecules / by_rule.molecules)) > 0.5


def test_intervals_come_with_the_bootstrap_and_notes_with_the_distance() -> None:
    points = make(lambda n: 6 * n, noise=0.005)
    fit = fitted(points, bootstrap=200)
    near, far = (compute_optimal(fit, points, flops) for flops in (1e12, 1e18))
    truth = (0.4 * 60.0 / (0.5 * 150.0)) ** (1 / 0.9) * (1e12 / 6) ** (5 / 9)
    low, high = near.parameters_interval
    assert low < truth < high < 3 * low
    assert near.exponent_interval[0] < 5 / 9 < near.exponent_interval[1]
    assert not any("largest" in note for note in near.notes)
    assert any("far beyond" in note for note in far.notes)


def test_the_joint_law_of_kaplan_has_an_optimum_too() -> None:
    points = make(lambda n: 6 * n)
    truth = {"N_c": 3e6, "alpha_N": 0.2, "D_c": 2e5, "alpha_D": 0.3}
    loss = Kaplan().predict(truth, points.columns)
    fit = fit_law(
        Kaplan(),
        Points(names=points.names, runs=points.runs, columns=points.columns, loss=loss),
        FitConfig(bootstrap=0),
    )
    best = compute_optimal(fit, points, 1e12)
    grid = np.geomspace(1e4, 1e8, 100_001)
    losses = Kaplan().predict(truth, {"N": grid, "D": 1e12 / 6 / grid})
    assert best.parameters == pytest.approx(grid[np.argmin(losses)], rel=1e-3)


def test_what_does_not_determine_an_optimum_is_refused() -> None:
    points = make(lambda n: 6 * n)
    fit = fitted(points)
    with pytest.raises(RunError, match="power in N has no trade-off between size and data"):
        compute_optimal(fit_law(Power("N"), points, FitConfig(bootstrap=0)), points, 1e12)
    bare = {name: column for name, column in points.columns.items() if name != "C"}
    without = Points(names=points.names, runs=points.runs, columns=bare, loss=points.loss)
    with pytest.raises(RunError, match="needs the FLOPs of every run"):
        compute_optimal(fit, without, 1e12)
    with pytest.raises(RunError, match="above zero"):
        compute_optimal(fit, points, -1.0)
    with pytest.raises(RunError, match=r"no compute-optimal size .* 1\.7e\+26 times the C of the costliest run"):
        compute_optimal(fit, points, 1e40)
