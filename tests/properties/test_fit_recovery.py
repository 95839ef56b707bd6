"""What must hold of every fit, whatever the law's parameters and the units of its variables."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from unimol_scale.scaling.fit import Fit, FitConfig, fit_law
from unimol_scale.scaling.laws import Chinchilla, FloatArray, Saturating
from unimol_scale.scaling.points import Points

QUICK = FitConfig(bootstrap=0)
exponents = st.floats(0.15, 0.9)
shares = st.floats(0.1, 1.0)


def design() -> tuple[FloatArray, FloatArray]:
    n, d = np.meshgrid(np.geomspace(1e5, 1e7, 6), np.geomspace(1e4, 1e6, 5))
    return n.ravel(), d.ravel()


def fit(n: FloatArray, d: FloatArray, loss: FloatArray) -> Fit:
    names = tuple(f"run {i}" for i in range(len(loss)))
    return fit_law(
        Chinchilla(), Points(names=names, runs=np.arange(len(loss)), columns={"N": n, "D": d}, loss=loss), QUICK
    )


@settings(max_examples=40, deadline=None)
@given(alpha=exponents, beta=exponents, floor=shares, model=shares, data=shares)
def test_chinchilla_is_recovered_whatever_its_parameters(
    alpha: float, beta: float, floor: float, model: float, data: float
) -> None:
    n, d = design()
    loss = floor + model * (n / 1e6) ** -alpha + data * (d / 1e5) ** -beta
    found = fit(n, d, loss).parameters
    np.testing.assert_allclose([found["E"], found["alpha"], found["beta"]], [floor, alpha, beta], rtol=2e-3)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), unit=st.floats(1e-3, 1e3), scale=st.floats(0.01, 100.0))
def test_units_of_n_and_of_the_loss_change_coefficients_and_nothing_else(seed: int, unit: float, scale: float) -> None:
    n, d = design()
    rng = np.random.default_rng(seed)
    loss = (0.3 + 60.0 / n**0.4 + 150.0 / d**0.5) * np.exp(rng.normal(0.0, 0.005, len(n)))
    one, two = fit(n, d, loss), fit(n * unit, d, loss * scale)
    np.testing.assert_allclose(two.parameters["alpha"], one.parameters["alpha"], rtol=1e-3)
    np.testing.assert_allclose(two.parameters["E"], one.parameters["E"] * scale, rtol=1e-3)
    expected = one.predict({"N": n, "D": d}) * scale
    np.testing.assert_allclose(two.predict({"N": n * unit, "D": d}), expected, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_the_runs_does_not_matter(seed: int) -> None:
    n, d = design()
    rng = np.random.default_rng(seed)
    loss = (0.3 + 60.0 / n**0.4 + 150.0 / d**0.5) * np.exp(rng.normal(0.0, 0.005, len(n)))
    order = rng.permutation(len(n))
    one, two = fit(n, d, loss), fit(n[order], d[order], loss[order])
    np.testing.assert_allclose(list(two.parameters.values()), list(one.parameters.values()), rtol=1e-3)


def test_most_intervals_cover_the_truth() -> None:
    truth = {"E": 0.5, "alpha": 0.35}
    n = np.tile(np.geomspace(1e5, 1e7, 8), 3)
    covered = {name: 0 for name in truth}
    for seed in range(50):
        noise = np.random.default_rng(seed).normal(0.0, 0.005, len(n))
        loss = (truth["E"] + 40.0 / n ** truth["alpha"]) * np.exp(noise)
        points = Points(
            names=tuple(map(str, range(len(n)))),
            runs=np.arange(len(n)),
            columns={"N": n, "D": np.ones(len(n))},
            loss=loss,
        )
        intervals = fit_law(Saturating("N"), points, FitConfig(bootstrap=200)).intervals
        assert intervals is not None
        for name, value in truth.items():
            covered[name] += intervals[name][0] <= value <= intervals[name][1]
    # 90 % intervals over 50 tables.
    assert all(40 <= count <= 49 for count in covered.values()), covered
