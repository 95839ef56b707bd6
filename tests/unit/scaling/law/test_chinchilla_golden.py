"""The published points of Hoffmann et al. 2022, figure 4, as rebuilt by Besiroglu et al. 2024 (arXiv 2404.10102)."""

from pathlib import Path

import numpy as np
import pytest

from unimol_scale.scaling.law.fit import FitConfig, fit_law
from unimol_scale.scaling.law.laws import Chinchilla
from unimol_scale.scaling.law.optimal import compute_optimal
from unimol_scale.scaling.law.points import Points, make_points
from unimol_scale.scaling.runs.loss_tables import read_table

TABLE = Path(__file__).parents[5] / "shared" / "data" / "scaling" / "chinchilla_figure4_points.csv"
pytestmark = pytest.mark.skipif(not TABLE.is_file(), reason="the table of published points is not here")


@pytest.fixture(scope="module")
def points() -> Points:
    headers = {"N": "Model Size", "C": "Training FLOP", "D": "C/(6N)"}
    everything = make_points(read_table(TABLE, headers)[0], "total")
    assert len(everything) == 245
    # The five outliers are one group by three measures: the highest losses (3.45 to 5.0), the fewest tokens (under 0.82
    # billion) and the fewest tokens per parameter (under 0.41): models of 2 to 7 billion parameters stopped early.
    loss, ratio = everything.loss, everything.columns["D"] / everything.columns["N"]
    outliers = np.argsort(-loss)[:5]
    assert set(outliers) == set(np.argsort(everything.columns["D"])[:5]) == set(np.argsort(ratio)[:5])
    keep = np.ones(245, dtype=bool)
    keep[outliers] = False
    return everything.take(keep)


def test_the_estimates_agree_with_the_replication_within_its_standard_errors(points: Points) -> None:
    fit = fit_law(Chinchilla(), points, FitConfig(bootstrap=400))
    parameters = fit.parameters
    assert parameters["E"] == pytest.approx(1.817, abs=0.03)
    assert parameters["alpha"] == pytest.approx(0.3478, abs=0.02)
    assert parameters["beta"] == pytest.approx(0.3658, abs=0.02)
    assert parameters["A"] == pytest.approx(482, rel=0.1)
    assert parameters["B"] == pytest.approx(2085, rel=0.1)
    # N_opt grows as C^(β / (α + β)); the allocation that the tool itself finds must say the same, with an interval.
    assert parameters["beta"] / (parameters["alpha"] + parameters["beta"]) == pytest.approx(0.51, abs=0.03)
    best = compute_optimal(fit, points, 5.76e23)  # the budget of Chinchilla itself: 70 billion parameters
    assert best.exponent == pytest.approx(0.51, abs=0.03)
    assert best.exponent_interval[0] < 0.51 < best.exponent_interval[1]
    assert best.parameters_interval[0] < 70e9 < best.parameters_interval[1]
    assert best.molecules / best.parameters == pytest.approx(20, abs=5)
    assert fit.intervals is not None
    for name, published in (("E", 1.817), ("alpha", 0.3478), ("beta", 0.3658)):
        low, high = fit.intervals[name]
        assert low < published < high
    assert 0.02 < np.diff(fit.intervals["alpha"])[0] < 0.1  # Hoffmann et al.'s own interval of 0.001 was too narrow
