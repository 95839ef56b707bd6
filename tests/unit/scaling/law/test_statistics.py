import numpy as np
import pytest

from unimol_scale.scaling.law.statistics import statistics_of


def test_the_statistics_of_a_table_worked_by_hand() -> None:
    found = statistics_of(np.array([1.1, 2.0, 2.7]), np.array([1.0, 2.0, 3.0]))
    assert found.relative_error == pytest.approx((0.1 + 0.0 + 0.1) / 3)
    assert found.rmae == pytest.approx(0.4 / 3 / 2.0)
    assert found.mse == pytest.approx(0.1 / 3)
    assert found.r2 == pytest.approx(1 - 0.1 / 2.0)
    assert found.pearson == pytest.approx(1.6 / np.sqrt(2.0 * 1.28666666666667))
    assert found.num_points == 3


def test_what_one_point_can_not_say_is_not_said() -> None:
    found = statistics_of(np.array([0.088]), np.array([0.09]))
    assert found.relative_error == pytest.approx(0.002 / 0.09)
    assert (found.r2, found.pearson) == (None, None)
    level = statistics_of(np.array([1.0, 1.0]), np.array([0.9, 1.1]))
    assert level.pearson is None
    assert level.r2 == pytest.approx(0.0)
