"""Folds: every usable row is tested once a repeat, groups stay whole, sizes are even, and all of it follows the seed."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import DataStructs
from rdkit.Chem import MolFromSmiles, rdFingerprintGenerator
from rdkit.ML.Cluster import Butina

from tests.helpers.tiny_finetuning import MOLECULES
from unimol_scale.downstream.data.splits import split_rows
from unimol_scale.downstream.data.splitting.clusters import cluster_molecules
from unimol_scale.downstream.data.splitting.folds import split_folds
from unimol_scale.downstream.data.splitting.parts import PARTS, Fold
from unimol_scale.errors import ConfigError

FRACTIONS = (0.8, 0.1, 0.1)


def folds_of(kind, scaffolds, *, usable=None, smiles=None, splits=None, **keys):
    return split_folds(
        kind,
        usable_M=np.ones(len(scaffolds), np.bool_) if usable is None else np.array(usable),
        scaffold_smiles=scaffolds,
        smiles=[f"{scaffold}{row}" for row, scaffold in enumerate(scaffolds)] if smiles is None else smiles,
        splits=splits,
        **{"folds": 5, "repeats": 1, "fractions": FRACTIONS, "seed": 0, **keys},
    )


def parts_of(dealt):
    return [(fold, [getattr(split, part).tolist() for part in PARTS]) for fold, split in dealt]


@st.composite
def tables(draw):
    sizes = draw(st.lists(st.integers(1, 9), min_size=8, max_size=25))
    scaffolds = [f"ring{at}" for at, size in enumerate(sizes) for _ in range(size)]
    scaffolds += [""] * draw(st.integers(0, 40))
    order = draw(st.permutations(range(len(scaffolds))))
    usable = draw(st.lists(st.booleans(), min_size=len(scaffolds), max_size=len(scaffolds)))
    usable = [may or at % 2 == 0 for at, may in enumerate(usable)]  # half of each at least
    return [scaffolds[at] for at in order], usable


@settings(max_examples=40)
@given(tables(), st.sampled_from(["random-kfold", "scaffold-kfold"]), st.integers(2, 5), st.integers(0, 3))
def test_every_usable_row_is_tested_once_a_repeat_and_groups_stay_whole(table, kind, folds, seed):
    scaffolds, usable = table
    smiles = [f"{scaffold}-{row // 2}" for row, scaffold in enumerate(scaffolds)]  # some molecules twice
    keys = {"usable": usable, "smiles": smiles, "folds": folds, "seed": seed}
    names = [(s, "" if s else text) for s, text in zip(scaffolds, smiles, strict=True)]
    names = smiles if kind == "random-kfold" else names
    rows = np.flatnonzero(usable).tolist()
    largest = max(Counter(names[row] for row in rows).values())
    dealt = folds_of(kind, scaffolds, repeats=2, **keys)
    assert [fold for fold, _ in dealt] == [Fold(repeat=r, fold=f) for r in (1, 2) for f in range(1, folds + 1)]
    for repeat in (1, 2):
        tests = [split.test.tolist() for fold, split in dealt if fold.repeat == repeat]
        assert sorted(row for test in tests for row in test) == rows
        assert max(map(len, tests)) - min(map(len, tests)) <= largest
    for _, parts in parts_of(dealt):
        assert sorted(row for part in parts for row in part) == rows
        assert all(parts)
        assert all(part == sorted(part) for part in parts)
        sides = [{names[row] for row in part} for part in parts]
        assert len(set.union(*sides)) == sum(map(len, sides)), "a group is in two parts"
    assert parts_of(folds_of(kind, scaffolds, repeats=2, **keys)) == parts_of(dealt)
    assert parts_of(folds_of(kind, scaffolds, repeats=1, **keys)) == parts_of(dealt)[:folds], "a longer one goes on"


def test_repeats_and_seeds_deal_the_rows_anew():
    scaffolds = [f"ring{row // 3}" for row in range(60)]
    dealt = folds_of("scaffold-kfold", scaffolds, repeats=3)
    sets = [{tuple(split.test.tolist()) for fold, split in dealt if fold.repeat == repeat} for repeat in (1, 2, 3)]
    other = {tuple(split.test.tolist()) for _, split in folds_of("scaffold-kfold", scaffolds, seed=1)}
    assert not sets[0] & sets[1]
    assert not sets[1] & sets[2]
    assert not sets[0] & other
    valids = {tuple(split.valid.tolist()) for _, split in dealt}
    assert len(valids) > 5


def test_validation_is_a_share_of_the_rest_in_the_ratio_of_the_fractions():
    dealt = folds_of("random-kfold", ["x"] * 1000, fractions=(0.6, 0.2, 0.2))
    assert {tuple(map(len, parts)) for _, parts in parts_of(dealt)} == {(600, 200, 200)}


def test_molecules_without_rings_are_dealt_one_by_one_and_large_scaffolds_do_not_unbalance_the_folds():
    # As in ESOL: a quarter of benzenes, a third without rings.
    scaffolds = ["benzene"] * 280 + [""] * 340 + [f"ring{row // 4}" for row in range(500)]
    dealt = folds_of("scaffold-kfold", scaffolds, repeats=4)
    for repeat in range(1, 5):
        tests = [split.test.tolist() for fold, split in dealt if fold.repeat == repeat]
        sizes = sorted(map(len, tests))
        assert sizes[-1] == 280, "the benzenes fill one fold by themselves"
        assert sizes[3] - sizes[0] <= 1
        without = [sum(scaffolds[row] == "" for row in test) for test in tests]
        assert min(count for count, test in zip(without, tests, strict=True) if len(test) < 280) > 40
    holding = {fold.fold for fold, split in dealt if 0 in split.test}
    assert len(holding) > 1, "the largest group is not always in the first fold"


def test_clusters_are_those_of_rdkit_and_stay_whole():
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    smiles = [*MOLECULES, *(f"CCCC{text}" for text in MOLECULES if text[:2] in ("CC", "c1"))]
    prints = [generator.GetFingerprint(MolFromSmiles(text)) for text in smiles]
    for distance in (0.35, 0.65):
        away = [1 - s for at in range(len(smiles)) for s in DataStructs.BulkTanimotoSimilarity(prints[at], prints[:at])]
        expected = Butina.ClusterData(away, len(smiles), distance, isDistData=True)
        found = cluster_molecules(smiles, distance)
        assert [np.flatnonzero(found == at).tolist() for at in range(found.max() + 1)] == [sorted(c) for c in expected]
    twice = [*smiles, *smiles[:5]]
    cluster_M = cluster_molecules(twice)
    assert cluster_M[-5:].tolist() == cluster_M[:5].tolist()
    dealt = folds_of("cluster-kfold", [""] * len(twice), smiles=twice, folds=3)
    (single,) = [split_rows(
        "cluster", usable_M=np.ones(len(twice), bool), scaffold_smiles=[""] * len(twice), smiles=twice, splits=None, seed=0
    )]  # fmt: skip
    for split in (*(split for _, split in dealt), single):
        sides = [set(cluster_M[getattr(split, part)].tolist()) for part in PARTS]
        assert len(set.union(*sides)) == sum(map(len, sides))
    assert max(cluster_M[single.train].tolist().count(c) for c in set(cluster_M.tolist())) > 2


def test_too_many_molecules_for_clusters_are_refused(monkeypatch):
    monkeypatch.setattr("unimol_scale.downstream.data.splitting.clusters.MOST_CLUSTERED", 5)
    with pytest.raises(ConfigError, match="30 molecules are more than 5; use a split by scaffold"):
        folds_of("cluster-kfold", [""] * 30, smiles=MOLECULES)


def test_folds_are_those_of_the_column_in_the_order_of_their_numbers():
    words = [str(10 - row % 3) for row in range(30)]
    dealt = folds_of("column-kfold", ["x"] * 30, smiles=[f"m{row // 2}" for row in range(30)], splits=words)
    assert [{words[row] for row in split.test.tolist()} for _, split in dealt] == [{"8"}, {"9"}, {"10"}]
    for _, (train, valid, test) in parts_of(dealt):
        assert sorted([*train, *valid, *test]) == list(range(30))
        assert not {row // 2 for row in train} & {row // 2 for row in valid}
    words[4] = ""
    with pytest.raises(ConfigError, match="row 5 has no fold"):
        folds_of("column-kfold", ["x"] * 30, splits=words)
    usable = [row != 4 for row in range(30)]
    assert len(folds_of("column-kfold", ["x"] * 30, splits=words, usable=usable)) == 3
    with pytest.raises(ConfigError, match="all rows are in the fold 'a'"):
        folds_of("column-kfold", ["x"] * 30, splits=["a"] * 30)


def test_too_few_groups_are_refused():
    with pytest.raises(ConfigError, match="3 groups of molecules are too few for 5 folds"):
        folds_of("scaffold-kfold", ["a", "b", "c"] * 9)
    with pytest.raises(ConfigError, match="repeat 1, fold 1: the .* rows outside its test form 1 groups, too few"):
        folds_of("scaffold-kfold", ["a", "b"] * 9, folds=2)


def timed(words, smiles=None, **keys):
    smiles = [f"m{row}" for row in range(len(words))] if smiles is None else smiles
    usable = np.ones(len(words), np.bool_)
    dealt = split_rows(
        "time", usable_M=usable, scaffold_smiles=["x"] * len(words), smiles=smiles, splits=words, seed=0, **keys
    )
    return [getattr(dealt, part).tolist() for part in PARTS]


def test_the_newest_rows_are_the_test():
    numbers = [f"{(7 * row) % 20}" for row in range(20)]
    train, valid, test = timed(numbers, fractions=(0.6, 0.2, 0.2))
    assert sorted(int(numbers[row]) for row in train) == list(range(12))
    assert sorted(int(numbers[row]) for row in valid) == list(range(12, 16))
    assert sorted(int(numbers[row]) for row in test) == list(range(16, 20))
    # Dates of different precision; as text, 2009 would come after 2010-01.
    dates = [f"20{10 + int(word) // 12:02}-{1 + int(word) % 12:02}" for word in numbers]
    dates[numbers.index("0")] = "2009-12-31 10:30"
    assert timed(dates, fractions=(0.6, 0.2, 0.2)) == [train, valid, test]


def test_rows_of_one_time_and_of_one_molecule_stay_together():
    words = ["1"] * 8 + ["2"] * 4 + ["3"] * 4 + ["9"] * 4
    smiles = [f"m{row}" for row in range(20)]
    smiles[19] = "m0"  # measured again
    train, valid, test = timed(words, smiles, fractions=(0.5, 0.25, 0.25))
    assert 19 in train
    assert {words[row] for row in train if row != 19} == {"1"}
    assert not {words[row] for row in valid} & {words[row] for row in test}


@pytest.mark.parametrize(("word", "said"), [("", "row 3 has no time;"), ("March", "row 3 has no time, but 'March'")])
def test_a_row_without_a_time_is_named(word, said):
    with pytest.raises(ConfigError, match=said):
        timed([*("1", "2", word), *("4",) * 9])
