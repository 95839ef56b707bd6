import networkx as nx
import numpy as np

from tests.helpers.molecules import random_columns
from unimol_scale.data.batch import collate
from unimol_scale.data.features import shortest_paths
from unimol_scale.data.vocabulary import PATH_UNREACHABLE


def test_collate_pads_with_zeros_and_loses_nothing():
    columns = random_columns([3, 7, 1, 5])
    batch = collate(columns)
    assert batch.atomic_number_BA.shape == (4, 7)
    assert batch.valid_BA.sum(1).tolist() == [3, 7, 1, 5]
    np.testing.assert_array_equal(batch.atomic_number_BA[batch.valid_BA], columns.atomic_number)
    np.testing.assert_array_equal(batch.coordinates_BA3[batch.valid_BA], columns.coordinates)
    assert not batch.atomic_number_BA[~batch.valid_BA].any()
    assert not batch.coordinates_BA3[~batch.valid_BA].any()


def test_bonds_are_symmetric_and_hold_code_plus_one():
    columns = random_columns([4, 6])
    batch = collate(columns)
    i, j = columns.bond_index[3 + 2]
    np.testing.assert_array_equal(batch.bond_features_BAA3[1, i, j], columns.bond_features[3 + 2] + 1)
    np.testing.assert_array_equal(batch.bond_features_BAA3, batch.bond_features_BAA3.transpose(0, 2, 1, 3))
    assert batch.degree_BA.sum(1).tolist() == [6, 10]


def test_paths_agree_with_a_graph_library_and_mark_what_can_not_be_reached():
    rng = np.random.default_rng(1)
    bonded = np.triu(rng.random((6, 20, 20)) < 0.07, 1)
    bonded |= bonded.transpose(0, 2, 1)
    paths = shortest_paths(bonded)
    unreachable = 0
    for matrix, found in zip(bonded, paths, strict=True):
        lengths = dict(nx.all_pairs_shortest_path_length(nx.from_numpy_array(matrix)))
        for i in range(20):
            for j in range(20):
                assert found[i, j] == lengths[i].get(j, PATH_UNREACHABLE)
                unreachable += j not in lengths[i]
    assert unreachable > 0


def test_a_long_chain_has_long_paths():
    chain = np.eye(300, k=1, dtype=bool) | np.eye(300, k=-1, dtype=bool)
    assert shortest_paths(chain[None])[0, 0, -1] == 299
