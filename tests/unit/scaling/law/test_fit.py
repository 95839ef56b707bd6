import numpy as np
import pytest
from scipy.optimize import minimize, nnls

from unimol_scale.errors import ConfigError, RunError
from unimol_scale.scaling.law.fit import FitConfig, fit_law
from unimol_scale.scaling.law.laws import Chinchilla, Droppo, Kaplan, Law, Power, Saturating, UniMol2
from unimol_scale.scaling.law.points import Points
from unimol_scale.scaling.law.solver import TIE_BREAK, make_problem, nonnegative_least_squares, residuals_and_jacobian

CHINCHILLA = {"E": 0.3, "A": 60.0, "alpha": 0.4, "B": 150.0, "beta": 0.5}
QUICK = FitConfig(bootstrap=0)


def make(
    law: Law, truth: dict[str, float], columns: dict[str, np.ndarray], noise: float = 0.0, seed: int = 0
) -> Points:
    rng = np.random.default_rng(seed)
    loss = law.predict(truth, columns) * np.exp(rng.normal(0.0, noise, len(next(iter(columns.values())))))
    names = tuple(f"run {i}" for i in range(len(loss)))
    return Points(names=names, runs=np.arange(len(loss)), columns=columns, loss=loss)


def grid(sizes: int = 6, budgets: int = 5) -> dict[str, np.ndarray]:
    n, d = np.meshgrid(np.geomspace(1e5, 1e7, sizes), np.geomspace(1e4, 1e6, budgets))
    return {"N": n.ravel(), "D": d.ravel()}


def test_every_law_is_recovered_exactly_from_losses_without_noise() -> None:
    n = np.geomspace(1e5, 1e7, 6)
    m, s = (values.ravel() for values in np.meshgrid(np.geomspace(40, 400, 5), np.geomspace(2e5, 8e5, 8)))
    cases = [
        (Chinchilla(), CHINCHILLA, grid()),
        (Kaplan(), {"N_c": 3e6, "alpha_N": 0.2, "D_c": 2e5, "alpha_D": 0.3}, grid()),
        (Kaplan(), {"N_c": 3e6, "alpha_N": 0.5, "D_c": 2e5, "alpha_D": 0.08}, grid()),
        (Droppo(), {"E": 0.3, "A": 60.0, "alpha": 0.4, "B": 20.0, "beta": 0.3, "p": 0.5}, grid()),
        (Droppo(), {"E": 0.1, "A": 30.0, "alpha": 0.35, "B": 8.0, "beta": 0.25, "p": 1.3}, grid()),
        (Power("N"), {"A": 12.0, "alpha": 0.2}, {"N": n, "D": np.full(6, 1e5)}),
        (Saturating("N"), {"E": 0.4, "A": 90.0, "alpha": 0.45}, {"N": n, "D": np.full(6, 1e5)}),
        (UniMol2(), dict(UniMol2.published), {"N": m * 1e6, "D": s * 1024, "M": m, "S": s, "MS": m * s}),
    ]
    for law, truth, columns in cases:
        points = make(law, truth, columns)
        fit = fit_law(law, points, QUICK)
        np.testing.assert_allclose(fit.predict(columns), points.loss, rtol=1e-6)
        if law.name != "unimol2":  # its six parameters compensate each other; its predictions do not
            assert dict(fit.parameters) == pytest.approx(truth, rel=1e-4)


def test_the_minimum_is_as_low_as_an_independent_optimiser_finds() -> None:
    points = make(Chinchilla(), CHINCHILLA, grid(), noise=0.01)
    fit = fit_law(Chinchilla(), points, QUICK)
    log_n, log_d, log_l = np.log(points.columns["N"]), np.log(points.columns["D"]), np.log(points.loss)

    def objective(theta: np.ndarray) -> float:
        a, alpha, b, beta, e = theta
        predicted = np.logaddexp(np.logaddexp(a - alpha * log_n, b - beta * log_d), e)
        size = np.abs(predicted - log_l)
        huber = np.where(size <= 1e-3, 0.5 * size**2, 1e-3 * (size - 5e-4))
        return float((huber + 0.5 * TIE_BREAK * size**2).sum())

    best = min(
        minimize(
            objective, start, method="Nelder-Mead", options={"maxiter": 20_000, "fatol": 1e-14, "xatol": 1e-10}
        ).fun
        for start in ([4.0, 0.4, 5.0, 0.5, -1.2], [4.5, 0.45, 5.5, 0.55, -1.0], [3.5, 0.35, 4.5, 0.45, -1.5])
    )
    assert fit.objective <= best * (1 + 1e-6)
    parameters = fit.parameters
    ours = [
        np.log(parameters["A"]),
        parameters["alpha"],
        np.log(parameters["B"]),
        parameters["beta"],
        np.log(parameters["E"]),
    ]
    assert objective(np.array(ours)) == pytest.approx(fit.objective, rel=1e-9)


def test_a_wild_outlier_hardly_moves_the_fit() -> None:
    points = make(Chinchilla(), CHINCHILLA, grid(), noise=0.002)
    spoilt = points.loss.copy()
    spoilt[7] *= 1.5
    clean = fit_law(Chinchilla(), points, QUICK)
    robust = fit_law(
        Chinchilla(), Points(names=points.names, runs=points.runs, columns=points.columns, loss=spoilt), QUICK
    )
    assert robust.parameters["alpha"] == pytest.approx(clean.parameters["alpha"], rel=0.05)


def test_two_seeds_of_a_size_leave_one_minimum_and_not_a_band_of_them() -> None:
    columns = {"N": np.repeat(np.geomspace(1e5, 1e7, 6), 2), "D": np.full(12, 1e5)}
    truth = {"E": 0.4, "A": 90.0, "alpha": 0.45}
    noise = np.tile([0.01, -0.01], 6)  # ten times the quadratic zone: Huber's loss alone is flat in between
    points = make(Saturating("N"), truth, columns)
    points = Points(names=points.names, runs=points.runs, columns=columns, loss=points.loss * np.exp(noise))
    found = [fit_law(Saturating("N"), points, FitConfig(bootstrap=0, starts=count)) for count in (1, 2, 8)]
    for fit in found:
        assert dict(fit.parameters) == pytest.approx(truth, rel=1e-3)


@pytest.mark.parametrize("law", [Chinchilla(), Kaplan(), Droppo()])
def test_the_gradient_is_the_slope(law: Law) -> None:
    columns = grid()
    problem = make_problem(law, columns, Chinchilla().predict(CHINCHILLA, columns), 1e-3, (0.01, 5.0))
    theta = np.random.default_rng(0).uniform(0.1, 0.6, (1, len(problem.lower)))
    _, jacobian = residuals_and_jacobian(problem, theta)
    for k in range(theta.shape[1]):
        nudge = 1e-6 * np.eye(theta.shape[1])[k]
        up, down = (residuals_and_jacobian(problem, theta + sign * nudge)[0] for sign in (1, -1))
        np.testing.assert_allclose(jacobian[:, k], (up - down) / 2e-6, atol=1e-8)


def test_nine_of_ten_new_runs_lie_in_the_interval_of_a_single_run() -> None:
    new = {name: np.tile(values[[3, 14, 27]], 20) for name, values in grid().items()}
    inside = {"law": [], "run": []}
    for seed in range(20):
        fit = fit_law(Chinchilla(), make(Chinchilla(), CHINCHILLA, grid(), 0.01, seed), FitConfig(bootstrap=200))
        loss = make(Chinchilla(), CHINCHILLA, new, 0.01, seed=1000 + seed).loss
        for name, band in (("law", fit.band(new)), ("run", fit.run_band(new))):
            assert band is not None
            inside[name] += list((band[0] <= loss) & (loss <= band[1]))
    assert 0.86 < np.mean(inside["run"]) < 0.96
    assert np.mean(inside["law"]) < 0.6
    without = fit_law(Chinchilla(), make(Chinchilla(), CHINCHILLA, grid(), 0.01), QUICK)
    assert without.run_band(new) is None


def test_how_size_and_data_join_is_told_from_the_runs() -> None:
    truth = {"E": 0.0, "A": 27.0, "alpha": 0.37, "B": 7.5, "beta": 0.26, "p": 0.5}
    points = make(Droppo(), truth, grid(), noise=0.005)
    fit = fit_law(Droppo(), points, FitConfig(bootstrap=200))
    assert fit.intervals is not None
    low, high = fit.intervals["p"]
    assert low < 0.5 < high < 1.0
    assert not {"alpha", "beta", "p"} & set(fit.undetermined)
    rigid = fit_law(Chinchilla(), points, QUICK)
    assert fit.aicc is not None
    assert rigid.aicc is not None
    assert fit.aicc < rigid.aicc - 10


def test_how_they_join_stays_open_where_noise_hides_it() -> None:
    truth = {"E": 0.0, "A": 27.0, "alpha": 0.37, "B": 20.0, "beta": 0.3, "p": 0.5}
    fit = fit_law(Droppo(), make(Droppo(), truth, grid(), noise=0.1), FitConfig(bootstrap=200))
    assert "p" in fit.undetermined
    assert any(text.startswith("p is ") for text in fit.warnings)


def test_a_joined_term_that_hardly_counts_is_no_law() -> None:
    truth = {"E": 0.0, "A": 27.0, "alpha": 0.37, "B": 1e-2, "beta": 0.1, "p": 0.5}
    with pytest.raises(RunError, match="its term B in D vanishes"):
        fit_law(Droppo(), make(Droppo(), truth, grid(), noise=0.02), QUICK)


def test_a_weight_counts_like_as_many_copies() -> None:
    columns = grid()
    points = make(Chinchilla(), CHINCHILLA, columns, noise=0.01)
    copies = np.where(np.arange(30) % 3 == 0, 3, 1)
    index = np.repeat(np.arange(30), copies)
    repeated = Points(
        names=tuple(points.names[i] for i in index),
        runs=index,
        columns={name: values[index] for name, values in columns.items()},
        loss=points.loss[index],
    )
    weighted = Points(
        names=points.names, runs=points.runs, columns=columns, loss=points.loss, weights=copies / copies.mean()
    )
    one, two, plain = (fit_law(Chinchilla(), each, QUICK) for each in (repeated, weighted, points))
    assert dict(two.parameters) == pytest.approx(dict(one.parameters), rel=1e-3)
    assert two.parameters["E"] != pytest.approx(plain.parameters["E"], rel=1e-4)


def test_intervals_count_the_weights_too() -> None:
    columns = {"N": np.tile(np.geomspace(1e5, 1e7, 8), 2), "D": np.ones(16)}
    points = make(Power("N"), {"A": 12.0, "alpha": 0.2}, columns, noise=0.002)
    doubtful = np.arange(16) >= 8
    weights = np.where(doubtful, 0.01, 1.0)
    spoilt = Points(
        names=points.names,
        runs=points.runs,
        columns=columns,
        loss=points.loss * np.where(doubtful, 1.5, 1.0),
        weights=weights / weights.mean(),
    )
    low, high = fit_law(Power("N"), spoilt, FitConfig(bootstrap=200)).intervals["alpha"]
    assert 0.19 < low < high < 0.21


def test_terms_that_trade_against_each_other_are_named_even_without_a_bootstrap() -> None:
    m, s = (v.ravel() for v in np.meshgrid([43.8, 84.1, 164.8, 310.1], np.geomspace(2e5, 8.1e5, 4)))
    columns = {"N": m * 1e6, "D": s * 1024, "M": m, "S": s, "MS": m * s}
    fit = fit_law(UniMol2(), make(UniMol2(), dict(UniMol2.published), columns, noise=0.003, seed=4), QUICK)
    assert fit.undetermined == UniMol2().parameters
    assert any("compensate each other" in warning for warning in fit.warnings)


def test_parameters_that_runs_do_not_determine_are_named() -> None:
    within_a_decade = {"N": np.repeat(np.geomspace(1e6, 8e6, 5), 2), "D": np.ones(10)}
    truth = {"E": 0.5, "A": 40.0, "alpha": 0.35}
    fit = fit_law(Saturating("N"), make(Saturating("N"), truth, within_a_decade, 0.005, seed=3), FitConfig())
    assert set(fit.undetermined) == {"E", "A", "alpha"}
    assert any("determined by these runs" in warning or "compensate each other" in warning for warning in fit.warnings)
    wide = make(Chinchilla(), CHINCHILLA, grid(), noise=0.005)
    assert fit_law(Chinchilla(), wide, FitConfig(bootstrap=200)).undetermined == ()


def test_linear_part_equals_the_reference_solver() -> None:
    rng = np.random.default_rng(3)
    bases = rng.normal(0.2, 1.0, (40, 3, 12))
    ours = nonnegative_least_squares(bases)
    for basis, coefficients in zip(bases, ours, strict=True):
        np.testing.assert_allclose(coefficients, nnls(basis.T, np.ones(12))[0], atol=1e-8)


@pytest.mark.parametrize(
    ("law", "columns", "message"),
    [
        (Chinchilla(), {"N": np.geomspace(1e5, 1e6, 8), "D": np.full(8, 1e5)}, "D is constant"),
        (Chinchilla(), {"N": np.geomspace(1e5, 1e6, 8), "D": np.geomspace(1e4, 1e5, 8)}, "change together"),
        (Saturating("N"), {"N": np.array([1e5, 1e6]), "D": np.full(2, 1e5)}, "2 distinct values, but 3 are needed"),
        (Power("N"), {"N": np.array([1e5, 1.001e5]), "D": np.full(2, 1e5)}, "N is constant"),
        (Power("C"), {"N": np.array([1e5, 1e6]), "D": np.full(2, 1e5)}, "not all runs record C"),
        (
            Chinchilla(),
            {"N": np.array([1e5, 1e6, 1e7, 1e5]), "D": np.array([1e4, 1e5, 1e4, 1e6])},
            r"5 parameters, but there are only 4",
        ),
    ],
)
def test_points_that_do_not_determine_the_law_are_refused(
    law: Law, columns: dict[str, np.ndarray], message: str
) -> None:
    count = len(columns["N"])
    points = Points(
        names=tuple(map(str, range(count))), runs=np.arange(count), columns=columns, loss=np.linspace(2, 1, count)
    )
    with pytest.raises(RunError, match=message):
        fit_law(law, points, QUICK)


def test_a_fit_that_did_not_converge_gives_no_numbers() -> None:
    points = make(Chinchilla(), CHINCHILLA, grid(), noise=0.01)
    with pytest.raises(RunError, match="did not converge"):
        fit_law(Chinchilla(), points, FitConfig(bootstrap=0, max_iterations=1))


def test_a_loss_that_does_not_fall_with_size_is_no_law() -> None:
    columns = {"N": np.geomspace(1e5, 1e7, 8), "D": np.full(8, 1e5)}
    rising = Points(names=tuple("abcdefgh"), runs=np.arange(8), columns=columns, loss=np.geomspace(1.0, 1.5, 8))
    for law in (Saturating("N"), Power("N")):
        with pytest.raises(RunError, match=r"the loss rises with N in 100%"):
            fit_law(law, rising, QUICK)
    flat = Points(names=tuple("abcdefgh"), runs=np.arange(8), columns=columns, loss=np.geomspace(1.0, 0.99, 8))
    fit = fit_law(Power("N"), flat, QUICK)
    assert any("alpha is at its bound" in warning for warning in fit.warnings)


def test_a_floor_of_zero_is_reported_as_zero_with_a_warning() -> None:
    columns = {"N": np.geomspace(1e5, 1e7, 8), "D": np.full(8, 1e5)}
    # Losses that bend downward in log-log leave no room for a floor.
    loss = 10.0 / columns["N"] ** 0.2 * np.exp(-0.02 * np.log(columns["N"] / 1e6) ** 2)
    fit = fit_law(
        Saturating("N"), Points(names=tuple("abcdefgh"), runs=np.arange(8), columns=columns, loss=loss), QUICK
    )
    assert fit.parameters["E"] == 0.0
    assert any("E is at its bound" in warning for warning in fit.warnings)


def test_few_sizes_and_a_narrow_range_are_warned_about() -> None:
    columns = {"N": np.geomspace(1e5, 3e5, 3), "D": np.full(3, 1e5)}
    fit = fit_law(Saturating("N"), make(Saturating("N"), {"E": 0.4, "A": 90.0, "alpha": 0.45}, columns), QUICK)
    text = " ".join(fit.warnings)
    assert "only 3 model sizes" in text
    assert "spans only a factor of 3.0" in text
    assert "passes through every point" in text


def test_intervals_cover_the_estimate_and_repeat_with_the_seed() -> None:
    points = make(Chinchilla(), CHINCHILLA, grid(), noise=0.005)
    one, two = (fit_law(Chinchilla(), points, FitConfig(bootstrap=200)) for _ in range(2))
    other = fit_law(Chinchilla(), points, FitConfig(bootstrap=200, seed=1))
    assert one.intervals is not None
    assert one.intervals == two.intervals != other.intervals
    for name, (low, high) in one.intervals.items():
        assert low < one.parameters[name] < high
    low, high = one.band(points.columns)
    assert np.all(low < high)


def test_the_bootstrap_draws_runs_not_points() -> None:
    points = make(Power("N"), {"A": 12.0, "alpha": 0.2}, {"N": np.geomspace(1e5, 1e7, 12), "D": np.full(12, 1e5)}, 0.01)
    index = np.repeat(np.arange(12), 20)
    columns = {name: values[index] for name, values in points.columns.items()}
    names = tuple(points.names[i] for i in index)
    repeated = Points(names=names, runs=index, columns=columns, loss=points.loss[index])
    config = FitConfig(bootstrap=400)
    single, many = fit_law(Power("N"), points, config), fit_law(Power("N"), repeated, config)
    assert single.intervals is not None
    assert many.intervals is not None
    # Twenty copies of every point are no new evidence: the interval must not shrink by √20.
    assert np.diff(many.intervals["alpha"])[0] == pytest.approx(np.diff(single.intervals["alpha"])[0], rel=0.25)


def test_too_few_runs_give_no_interval_instead_of_a_narrow_one() -> None:
    columns = {"N": np.geomspace(1e5, 1e7, 3), "D": np.full(3, 1e5)}
    fit = fit_law(Saturating("N"), make(Saturating("N"), {"E": 0.4, "A": 90.0, "alpha": 0.45}, columns), FitConfig())
    assert fit.intervals is None
    assert fit.band(columns) is None
    assert any("too few to resample" in warning for warning in fit.warnings)


@pytest.mark.parametrize(
    "bad",
    [{"huber_delta": 0.0}, {"bootstrap": -1}, {"confidence": 1.0}, {"starts": 0}, {"exponent_bounds": (1.0, 0.5)}],
)
def test_settings_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        FitConfig(**bad)
