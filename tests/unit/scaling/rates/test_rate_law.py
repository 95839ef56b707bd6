"""The law of the best learning rate: found in simulated sweeps, with what the sweeps do not tell said so."""

from collections.abc import Sequence

import numpy as np
import pytest

from unimol_scale.errors import RunError
from unimol_scale.scaling.rates.rate_law import RateAnalysis, RateFitConfig, fit_rates
from unimol_scale.scaling.rates.sweeps import minima_of, sweeps_of
from unimol_scale.scaling.runs.run_records import RunRecord

A, B, C, D = 0.0, -0.4, -0.15, 0.3
RATES = (1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3, 3.2e-3, 6.4e-3, 1.28e-2)
SIZES = (1e5, 4e5, 1.6e6, 6.4e6)


def best(n: float, d: float, batch: float) -> float:
    return float(np.exp(A + B * np.log(n) + C * np.log(d) + D * np.log(batch)))


def sweep_runs(
    cases: Sequence[tuple[float, float, int]], rates: Sequence[float] = RATES, noise: float = 0.0, seed: int = 0
) -> list[RunRecord]:
    rng = np.random.default_rng(seed)
    found = []
    for n, d, batch in cases:
        for rate in rates:
            away = np.log(rate / best(n, d, batch))
            # Steeper above the best rate than below it, as training is.
            loss = (0.3 + 60.0 / n**0.4) * np.exp(0.02 * away**2 + 0.004 * away**3 * (away > 0) + rng.normal(0, noise))
            name = f"{n:g}-{d:g}-{batch}-{rate:g}"
            found.append(
                RunRecord(
                    name=name,
                    source=f"runs/{name}",
                    parameters=n,
                    molecules=d,
                    loss=float(loss),
                    learning_rate=rate,
                    global_batch_size=batch,
                )
            )
    return found


CASES = [(n, d, batch) for n in SIZES for d in (1e6, 1e7) for batch in (32, 128)]


def fit(records: list[RunRecord], **settings: object) -> RateAnalysis:
    return fit_rates(records, [], RateFitConfig(**{"bootstrap": 300, **settings}))  # type: ignore[arg-type]


def test_all_exponents_are_found() -> None:
    law = fit(sweep_runs(CASES, noise=0.001)).law
    assert law.formula == "log lr* = a + b log N + c log D + d log batch"
    for name, value in {"b": B, "c": C, "d": D}.items():
        assert law.coefficients[name] == pytest.approx(value, abs=0.05)
    assert law.rate(1e6, 3e6, 64) == pytest.approx(best(1e6, 3e6, 64), rel=0.1)


def test_the_minimum_of_a_sweep_lies_between_its_rates() -> None:
    (one,) = minima_of(sweeps_of(sweep_runs([(1e6, 1e6, 64)])))
    assert one.rate == pytest.approx(best(1e6, 1e6, 64), rel=0.1)
    assert one.rate not in RATES
    assert one.curvature == pytest.approx(0.04, rel=0.3)


def test_intervals_cover_the_truth() -> None:
    covered = {"b": 0, "c": 0}
    cases = [(n, d, 64) for n in SIZES for d in (1e6, 1e7)]
    for seed in range(40):
        law = fit(sweep_runs(cases, noise=0.004, seed=seed), seed=seed).law
        assert law.intervals is not None
        for name, value in {"b": B, "c": C}.items():
            covered[name] += law.intervals[name][0] <= value <= law.intervals[name][1]
    assert all(31 <= count <= 40 for count in covered.values()), covered  # of 40, at 90 %


def test_a_minimum_at_the_edge_is_told_and_does_not_shape_the_law() -> None:
    records = sweep_runs([(n, 1e6, 64) for n in (1e4, *SIZES)], rates=RATES[:7])
    analysis = fit(records)
    (edge,) = [one for one in analysis.minima if one.obstacle is not None]
    assert edge.sweep.parameters == 1e4
    assert edge.rate is None
    (warning,) = [text for text in analysis.warnings if "edge of the sweep" in text]
    assert "N = 10k" in warning
    assert "the highest rate, 0.0064" in warning
    assert "add higher ones" in warning
    assert analysis.law.coefficients["b"] == pytest.approx(B, abs=0.05)
    assert analysis.law.ranges["N"] == (SIZES[0], SIZES[-1])


def test_what_did_not_vary_or_varied_with_another_is_named() -> None:
    alone = fit(sweep_runs([(n, 1e6, 64) for n in SIZES]))
    assert set(alone.law.coefficients) == {"a", "b"}
    assert any(text.startswith("D is 1e+06 in every sweep") for text in alone.warnings)
    together = fit(sweep_runs([(n, 20 * n, 64) for n in SIZES]))
    assert set(together.law.coefficients) == {"a", "b"}
    assert any("D changes together with N" in text and "both together" in text for text in together.warnings)
    assert together.law.coefficients["b"] == pytest.approx(B + C, abs=0.05)


def test_extrapolation_is_named() -> None:
    law = fit(sweep_runs([(n, 1e6, 64) for n in SIZES])).law
    assert law.beyond(1e6, 1e6, 64) == []
    size, data = law.beyond(6.4e7, 1e8, 64)
    assert size == "N is 10 times the largest of the sweeps"
    assert data == "D is 100 times the largest of the sweeps, which the law does not depend on"


def test_few_sweeps_have_a_law_without_intervals() -> None:
    analysis = fit(sweep_runs([(n, 1e6, 64) for n in SIZES[:2]]))
    assert analysis.law.intervals is None
    assert any("no intervals: 2 sweeps" in text for text in analysis.warnings)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (sweep_runs([(n, 1e6, 64) for n in SIZES], rates=RATES[:1]), "differ only in the learning rate"),
        (sweep_runs([(n, 1e6, 64) for n in SIZES], rates=RATES[:2]), "no sweep has a minimum.*2 learning rates"),
        (sweep_runs([(1e6, 1e6, 64)]), "there is no law"),
        ([RunRecord(name="a", source="runs/a", parameters=1e6, molecules=1e6, loss=1.0)], "runs/a does not record its"),
    ],
)
def test_runs_that_are_no_sweeps_are_refused(records: list[RunRecord], message: str) -> None:
    with pytest.raises(RunError, match=message):
        fit(records)
