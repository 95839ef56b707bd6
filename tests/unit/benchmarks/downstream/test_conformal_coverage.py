"""The benchmark of conformal intervals: of labels that a ridge can learn, both methods hold what they promise."""

import numpy as np

from benchmarks.downstream.conformal_coverage import FoundIntervals, coverage_table, judge_split


def test_both_methods_hold_their_promise_on_labels_with_noise():
    random = np.random.default_rng(0)
    vector_MD = random.normal(size=(400, 6)).astype(np.float32)
    label_M = vector_MD @ random.normal(size=6) + random.normal(size=400)
    found = []
    for _ in range(12):
        found += judge_split(vector_MD, label_M, random.permutation(400), [0.8])
    for method in ("split", "CV+"):
        held = [one.held for one in found if one.method == method]
        assert len(held) == 12
        assert abs(np.mean(held) - 0.8) < 0.06
    width = np.mean([one.width for one in found])
    assert 2.2 < width < 3.2, "noise of one standard deviation: 2 · 1.28"


def test_the_table_says_which_mean_is_within_the_tolerance():
    found = [FoundIntervals(method="split", coverage=0.9, held=held, width=2.0) for held in (0.88, 0.93)]
    found += [FoundIntervals(method="CV+", coverage=0.9, held=0.95, width=3.0)]
    lines = coverage_table(found)
    assert "| split | 90% | 90.5% ± 2.5% | 88.0% to 93.0% | yes | 2 |" in lines
    assert "| CV+ | 90% | 95.0% | 95.0% to 95.0% | no | 3 |" in lines
