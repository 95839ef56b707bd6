"""Branches of one trunk share their first steps, so the bootstrap draws them as a whole."""

import numpy as np
import pytest

from unimol_scale.scaling.law.bootstrap import draw_weights
from unimol_scale.scaling.law.fit import FitConfig, fit_law
from unimol_scale.scaling.law.laws import Chinchilla
from unimol_scale.scaling.law.points import make_points
from unimol_scale.scaling.runs.run_records import RunRecord

SIZES, AMOUNTS, SEEDS = np.geomspace(1e5, 4e6, 6), np.geomspace(1e5, 1.6e6, 5), 3


def branches(trunk, luck=0.02):
    """Runs of six sizes, three trunks each, whose luck all branches of a trunk share; ``trunk`` names its folder."""
    rng = np.random.default_rng(5)
    return [
        RunRecord(
            name=f"{n:.0f}-{d:.0f}-{seed}",
            source=f"runs/{n:.0f}-{d:.0f}-{seed}",
            parameters=n,
            molecules=d,
            loss=(0.5 + 40 / n**0.35 + 60 / d**0.4) * lucky,
            seed=seed,
            trunk=trunk(n, seed),
        )
        for n in SIZES
        for seed in range(SEEDS)
        for lucky in [np.exp(luck * rng.normal())]
        for d in AMOUNTS
    ]


def of_trunk(n, seed):
    return f"runs/{n:.0f}-trunk-{seed}"


def test_branches_of_a_trunk_are_drawn_as_often_as_each_other():
    weights = draw_weights(Chinchilla(), make_points(branches(of_trunk), "total"), 50, 0)
    assert len(weights) == 50
    by_trunk = weights.reshape(50, len(SIZES) * SEEDS, len(AMOUNTS))
    assert (by_trunk == by_trunk[..., :1]).all()
    apart = draw_weights(Chinchilla(), make_points(branches(lambda n, seed: None), "total"), 50, 0)
    assert (apart.reshape(by_trunk.shape) != by_trunk[..., :1]).any()


def test_shared_luck_makes_the_interval_wider():
    config = FitConfig(bootstrap=200)

    def width(trunk):
        fit = fit_law(Chinchilla(), make_points(branches(trunk), "total"), config)
        low, high = fit.intervals["alpha"]
        return high - low

    assert width(of_trunk) > 1.3 * width(lambda n, seed: None)


def test_a_law_of_too_few_trunks_has_no_interval_and_says_so():
    few = [record for record in branches(lambda n, seed: f"runs/trunk-{seed}")]
    fit = fit_law(Chinchilla(), make_points(few, "total"), FitConfig(bootstrap=50))
    assert not fit.intervals
    assert any("3 trunks with their branches are too few" in warning for warning in fit.warnings)


@pytest.mark.parametrize("part", [slice(0, 40), slice(5, 90)])
def test_points_keep_their_trunk(part):
    points = make_points(branches(of_trunk), "total")
    keep = np.zeros(len(points), bool)
    keep[part] = True
    assert (points.take(keep).drawn_together == points.drawn_together[part]).all()
