"""The benchmark of the tracks' learning rates: it finds rates that are known, and says where there are none."""

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.training import track_rates
from benchmarks.training.track_rates import RATES, Point, best_rates, build_parser, lowest, report, slopes
from unimol_scale.model.accounting import count_parameters
from unimol_scale.model.presets import preset

SIZES = ("0.03M", "0.1M", "0.3M")
SLOPES = (0.75, 0.5)  # of the made-up best rates, for each doubling of the parameters


def best_of(size: str) -> np.ndarray:
    doublings = math.log2(count_parameters(preset(size)).total / count_parameters(preset("0.03M")).total)
    return np.array([1.6e-2 * SLOPES[0] ** doublings, 3e-2 * SLOPES[1] ** doublings])


def made_up(*, noise: float = 0.0, curvature: float = 0.02) -> list[Point]:
    """Runs whose losses are a quadratic around known rates."""
    random, points = np.random.default_rng(1), []
    for size in SIZES:
        best = np.log2(best_of(size))
        for factor in (0.5, 1.0, 2.0):
            for ratio in (0.25, 0.5, 1.0, 2.0, 4.0):
                rates = np.array([RATES[size] * factor, RATES[size] * factor * ratio])
                away = np.log2(rates) - best
                loss = math.exp(-0.5 + curvature * (away @ away + 0.5 * away[0] * away[1]) + noise * random.normal())
                points.append(Point(size=size, atom_rate=rates[0], pair_rate=rates[1], loss=loss))
    return points


def test_the_lowest_point_of_a_quadratic_is_found_and_a_saddle_has_none() -> None:
    places = np.random.default_rng(0).normal(size=(12, 2))
    values = 3 + (places[:, 0] - 1) ** 2 + 2 * (places[:, 1] + 0.5) ** 2
    found, fitted = lowest(places, values)
    np.testing.assert_allclose(found, [1.0, -0.5], atol=1e-9)
    np.testing.assert_allclose(fitted, values)
    assert np.isnan(lowest(places, places[:, 0] ** 2 - places[:, 1] ** 2)[0]).all()


def test_the_best_rates_and_their_slopes_are_those_the_losses_were_made_with() -> None:
    points, random = made_up(noise=0.003), np.random.default_rng(0)
    found = [best_rates(size, points, random) for size in SIZES]
    for one in found:
        low, high = np.quantile(2**one.drawn_B2, [0.005, 0.995], axis=0)
        assert (low < best_of(one.size)).all()
        assert (best_of(one.size) < high).all()
    factors, drawn = slopes(found, random)
    np.testing.assert_allclose(factors, SLOPES, rtol=0.1)
    assert drawn.shape == (track_rates.DRAWS, 2)


@pytest.mark.parametrize(("curvature", "shown"), [(0.02, "| 0.3M | 0.00"), (-0.02, "| 0.3M | none within the sweep")])
def test_the_report_has_a_row_for_each_size_and_a_picture(tmp_path: Path, curvature: float, shown: str) -> None:
    output = tmp_path / "made" / "tracks.md"
    options = build_parser().parse_args(["--data", "store", "--output", str(output)])
    text = report([*made_up(curvature=curvature), Point(size="0.1M", atom_rate=1, pair_rate=1, loss=math.inf)], options)
    assert shown in text
    assert ("Each doubling of the parameters" in text) == (curvature > 0)
    assert "| 0.1M | 1 | 1 | inf |" in text
    assert (output.parent / "tracks.png").read_bytes().startswith(b"\x89PNG")
