import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.molecules import random_columns
from unimol_scale.data.batch import collate
from unimol_scale.data.features import shortest_paths
from unimol_scale.data.relations import (
    BOND_CLASSES,
    KIND_CLASSES,
    KIND_FEATURES,
    NO_CLASS,
    bond_kinds,
    edge_classes,
    path_bonds,
    path_classes,
)
from unimol_scale.store.schema import BOND_VOCABULARIES


def stored(kind="SINGLE", stereo="NONE", conjugated="False"):
    """Bond features as a batch holds them: position in each vocabulary, plus one."""
    words = zip(BOND_VOCABULARIES.values(), (kind, stereo, conjugated), strict=True)
    return [vocabulary.index(word) + 1 for vocabulary, word in words]


def graph(num_atoms, bonds):
    """One molecule as bond features [1, A, A, 3] and paths [1, A, A]; bonds are (i, j, stored features)."""
    features = np.zeros((1, num_atoms, num_atoms, 3), dtype=np.uint8)
    for i, j, values in bonds:
        features[0, i, j] = features[0, j, i] = values
    return features, shortest_paths(features[..., 0] > 0)


def walk(features, path, i, j):
    """The first five bond classes on the way that always takes the lowest neighbour that is closer, spelt out."""
    classes = []
    while i != j and len(classes) < 5:
        k = min(k for k in range(len(path)) if features[i, k, 0] and path[k, j] == path[i, j] - 1)
        classes.append(int(BOND_CLASSES[tuple(features[i, k])]))
        i = k
    return classes + [NO_CLASS] * (5 - len(classes))


def all_walks(kinds, path, i, j):
    """The kinds of bonds on every shortest path from i to j."""
    if i == j:
        return [[]]
    closer = [k for k in range(len(path)) if kinds[i, k] and path[k, j] == path[i, j] - 1]
    return [[int(kinds[i, k]), *rest] for k in closer for rest in all_walks(kinds, path, k, j)]


def random_graphs(seed, num_atoms, density):
    """Two molecules with two places of padding: bond features and paths."""
    rng = np.random.default_rng(seed)
    A, B = num_atoms + 2, 2
    features = np.zeros((B, A, A, 3), dtype=np.uint8)
    for molecule, i, j in np.argwhere(rng.random((B, num_atoms, num_atoms)) < density):
        if i != j:
            bond = [rng.integers(len(words)) + 1 for words in BOND_VOCABULARIES.values()]
            features[molecule, i, j] = features[molecule, j, i] = bond
    return features, shortest_paths(features[..., 0] > 0)


ANY_GRAPH = given(st.integers(0, 10_000), st.integers(1, 9), st.floats(0.0, 0.5))


@settings(max_examples=30)
@ANY_GRAPH
def test_path_bonds_are_the_first_of_all_shortest_paths_in_any_graph_and_order(seed, num_atoms, density):
    features, path = random_graphs(seed, num_atoms, density)
    kinds, found = bond_kinds(features), path_bonds(features, path)
    np.testing.assert_array_equal(KIND_FEATURES[kinds] * (kinds > 0)[..., None], features)
    B, A, _ = path.shape
    for b in range(B):
        for i in range(A):
            for j in range(A):
                walks = all_walks(kinds[b], path[b], i, j) if path[b, i, j] < A else [[]]
                first = min(walk[:5] for walk in walks)
                assert found[b, i, j].tolist() == first + [0] * (5 - len(first))
    order = np.random.default_rng(seed).permutation(A)
    shuffled = path_bonds(features[:, order][:, :, order], path[:, order][:, :, order])
    np.testing.assert_array_equal(shuffled, found[:, order][:, :, order])


def test_in_a_tree_the_bonds_on_the_only_path_are_the_ones_to_predict():
    batch = collate(random_columns([14, 3, 1, 9]))
    kinds = path_bonds(batch.bond_features_BAA3, batch.path_BAA)
    classes = edge_classes(batch.bond_features_BAA3, batch.path_BAA)
    np.testing.assert_array_equal(KIND_CLASSES[kinds], classes)
    assert (classes != NO_CLASS).any()


@settings(max_examples=30)
@ANY_GRAPH
def test_edge_classes_are_those_of_one_shortest_path_in_any_graph(seed, num_atoms, density):
    features, path = random_graphs(seed, num_atoms, density)
    classes = edge_classes(features, path)
    B, A, _ = path.shape
    for b in range(B):
        for i in range(A):
            for j in range(A):
                reachable = path[b, i, j] < A
                expected = walk(features[b], path[b], i, j) if reachable else [NO_CLASS] * 5
                assert classes[b, i, j].tolist() == expected


def test_a_ring_is_walked_through_its_lower_neighbour_in_both_directions():
    kinds = ["SINGLE", "DOUBLE", "TRIPLE", "AROMATIC"]
    ring, path = graph(4, [(k, (k + 1) % 4, stored(kinds[k])) for k in range(4)])
    classes = edge_classes(ring, path)[0]
    # From 0 to 2 by way of 1, not 3: bonds 0 and 1. From 1 to 3 by way of 0: bonds 0 and 3.
    kind = {word: BOND_CLASSES[tuple(stored(word))] for word in kinds}
    assert classes[0, 2].tolist() == [kind["SINGLE"], kind["DOUBLE"], -1, -1, -1]
    assert classes[1, 3].tolist() == [kind["SINGLE"], kind["AROMATIC"], -1, -1, -1]


def test_path_lengths_have_a_class_each_up_to_ten_and_share_one_above():
    chain, path = graph(25, [(k, k + 1, stored()) for k in range(23)])  # atom 24 stands alone
    valid = np.ones((1, 25), dtype=bool)
    valid[0, 23] = False
    classes = path_classes(path, valid)[0]
    assert classes[0, :23].tolist() == [NO_CLASS, *range(10), *[10] * 12]
    assert (classes[:, 23] == NO_CLASS).all()
    assert (classes[24] == NO_CLASS).all()
    assert (edge_classes(chain, path)[0, 0, 22] != NO_CLASS).all()  # the first five hops of a long path


def test_bonds_have_twenty_four_classes_and_unknown_kinds_none():
    codes = [
        BOND_CLASSES[tuple(stored(kind, stereo, conjugated))]
        for kind in ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
        for stereo in ("NONE", "Z", "E")
        for conjugated in ("False", "True")
    ]
    assert codes == list(range(24))
    assert BOND_CLASSES[tuple(stored("DOUBLE", "CIS"))] == BOND_CLASSES[tuple(stored("DOUBLE", "Z"))]
    assert BOND_CLASSES[tuple(stored("DOUBLE", "ANY"))] == BOND_CLASSES[tuple(stored("DOUBLE", "NONE"))]
    misc, path = graph(3, [(0, 1, stored("misc")), (1, 2, stored())])
    assert edge_classes(misc, path)[0, 0, 2].tolist() == [NO_CLASS, BOND_CLASSES[tuple(stored())], -1, -1, -1]


def test_atoms_without_bonds_have_no_targets():
    batch = collate(random_columns([1, 1]))
    assert (path_classes(batch.path_BAA, batch.valid_BA) == NO_CLASS).all()
    assert (edge_classes(batch.bond_features_BAA3, batch.path_BAA) == NO_CLASS).all()
