import numpy as np

from tests.helpers.random_keys import keys


def test_a_molecule_draws_the_same_numbers_in_any_company():
    together = keys([3, 8, 5]).uniform(1, 7)
    alone = keys([8]).uniform(1, 4)
    np.testing.assert_array_equal(together[1, :4], alone[0])


def test_seed_epoch_molecule_and_stream_each_change_the_draw():
    base = keys([5]).uniform(1, 8)
    others = [keys([6]).uniform(1, 8), keys([5], epoch=1).uniform(1, 8), keys([5], seed=1).uniform(1, 8)]
    others.append(keys([5]).uniform(2, 8))
    assert all(not np.any(base == other) for other in others)


def test_uniform_and_normal_have_their_moments_and_no_correlation_between_neighbours():
    uniform = keys(range(20_000)).uniform(0, 8)
    assert uniform.min() >= 0.0
    assert uniform.max() < 1.0
    assert abs(uniform.mean() - 0.5) < 0.003
    assert abs(uniform.var() - 1 / 12) < 0.001
    normal = keys(range(20_000)).normal(0, 8)
    assert abs(normal.mean()) < 0.01
    assert abs(normal.std() - 1.0) < 0.01
    assert abs(np.mean(normal**4) - 3.0) < 0.1
    correlation = np.corrcoef(normal.T) - np.eye(8)
    assert np.abs(correlation).max() < 0.03
    assert abs(np.corrcoef(normal[:-1, 0], normal[1:, 0])[0, 1]) < 0.03
