"""Splits: every usable row on one side, no scaffold on two, always the same; and the order that each kind promises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimol_scale.downstream.data.splits import keep_fraction, split_rows
from unimol_scale.downstream.data.splitting.parts import PARTS
from unimol_scale.downstream.data.splitting.scaffold_similarity import bulk_similarity
from unimol_scale.errors import ConfigError

RINGS = [
    "c1ccccc1",
    "c1ccncc1",
    "c1ccc2ccccc2c1",
    "C1CCCCC1",
    "C1CC1",
    "c1ccoc1",
    "c1ccc(-c2ccccc2)cc1",
    "C1CCNCC1",
    "",
]


def split(kind, scaffolds, *, usable=None, smiles=None, splits=None, **keys):
    return split_rows(
        kind,
        usable_M=np.ones(len(scaffolds), np.bool_) if usable is None else np.array(usable),
        scaffold_smiles=scaffolds,
        smiles=[f"{scaffold}{row}" for row, scaffold in enumerate(scaffolds)] if smiles is None else smiles,
        splits=splits,
        **{"seed": 0, **keys},
    )


def parts_of(dealt):
    return {name: getattr(dealt, name).tolist() for name in PARTS}


@st.composite
def tables(draw):
    rows = draw(st.lists(st.tuples(st.sampled_from(RINGS), st.booleans()), max_size=60))
    # Enough small scaffolds that no part of any kind is empty.
    rows += [(ring, True) for ring in RINGS] + [(f"C1CC{'C' * n}C1", True) for n in range(20)]
    return [ring for ring, _ in rows], [usable for _, usable in rows]


@given(tables(), st.sampled_from(["scaffold", "scaffold-similarity", "random"]), st.integers(0, 9))
def test_every_usable_row_is_in_one_part_and_no_group_is_in_two(table, kind, seed):
    scaffolds, usable = table
    smiles = [f"{ring}{row // 2}" for row, ring in enumerate(scaffolds)]  # now and then the same molecule twice
    dealt = split(kind, scaffolds, usable=usable, smiles=smiles, seed=seed)
    assert sorted(row for part in parts_of(dealt).values() for row in part) == np.flatnonzero(usable).tolist()
    assert all(part == sorted(part) for part in parts_of(dealt).values())
    names = smiles if kind == "random" else scaffolds
    sides = [{names[row] for row in part} for part in parts_of(dealt).values()]
    assert len(set.union(*sides)) == sum(map(len, sides))
    again = split(kind, scaffolds, usable=usable, smiles=smiles, seed=seed)
    assert parts_of(again) == parts_of(dealt)


def test_scaffold_fills_training_with_the_largest_scaffolds_as_deepchem_does():
    # Sizes 5, 2, 1, 1, 1 of ten rows: training holds 8, so the first two and one more; ties go from the last row up.
    scaffolds = ["C1CC1", "a", "b", "a", "a", "b", "a", "a", "c1ccoc1", "C1CCCCC1"]
    dealt = split("scaffold", scaffolds)
    assert parts_of(dealt) == {"train": [1, 2, 3, 4, 5, 6, 7, 9], "valid": [8], "test": [0]}


def test_a_scaffold_too_large_for_training_does_not_keep_smaller_ones_out():
    # Of twelve rows training holds 7 and validation one more: b (4) fits in neither, d still fits in training.
    dealt = split("scaffold", ["a"] * 6 + ["b"] * 4 + ["c", "d"], fractions=(0.6, 0.1, 0.3))
    assert parts_of(dealt) == {"train": [0, 1, 2, 3, 4, 5, 11], "valid": [10], "test": [6, 7, 8, 9]}


def test_scaffold_similarity_tests_on_what_is_least_like_the_rest():
    biphenyl, naphthalene, cubane = "c1ccc(-c2ccccc2)cc1", "c1ccc2ccccc2c1", "C12C3C4C1C5C2C3C45"
    scaffolds = [cubane, *[biphenyl] * 5, "", *["c1ccccc1"] * 8, *[naphthalene] * 4, "C1CCOC1"]
    dealt = split("scaffold-similarity", scaffolds)
    assert 0 in dealt.test
    assert 6 in dealt.train
    similarity = dict(zip(RINGS, bulk_similarity(RINGS, [1] * len(RINGS)), strict=True))
    ordered = split("scaffold-similarity", RINGS * 4)
    sides = [[similarity[(RINGS * 4)[row]] for row in part] for part in parts_of(ordered).values()]
    assert min(sides[0]) >= max(sides[1])
    assert min(sides[1]) >= max(sides[2])


def test_similarity_to_the_bulk_is_the_ratio_of_shared_to_united_bits():
    from rdkit import Chem
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    names, sizes = RINGS[:-1], [3, 1, 2, 5, 1, 1, 4, 2]
    bits = [set(generator.GetFingerprint(Chem.MolFromSmiles(name)).GetOnBits()) for name in names]
    expected = [
        sum(n * len(mine & other) for other, n in zip(bits, sizes, strict=True))
        / sum(n * len(mine | other) for other, n in zip(bits, sizes, strict=True))
        for mine in bits
    ]
    np.testing.assert_allclose(bulk_similarity([*names, ""], [*sizes, 99]), [*expected, np.inf])


def test_scaffolds_that_have_no_kekule_structure_are_compared_too():
    assert np.isfinite(bulk_similarity(["c1cncn1", "c1ccccc1"], [1, 1])).all()


def test_random_splits_differ_by_seed_and_have_the_sizes_asked_for():
    scaffolds = [""] * 100
    first, second = split("random", scaffolds, seed=1), split("random", scaffolds, seed=2)
    assert [len(part) for part in parts_of(first).values()] == [80, 10, 10]
    assert parts_of(first) != parts_of(second)
    assert [len(p) for p in parts_of(split("random", scaffolds, fractions=(0.5, 0.2, 0.3))).values()] == [50, 20, 30]


def test_a_given_split_is_followed():
    given_splits = ["test", "train", "valid", "train", "nonsense"]
    dealt = split("column", [""] * 5, usable=[True] * 4 + [False], splits=given_splits)
    assert parts_of(dealt) == {"train": [1, 3], "valid": [2], "test": [0]}
    with pytest.raises(ConfigError, match=r"row 5: .*'nonsense'; .*valid: test, train, valid"):
        split("column", [""] * 5, splits=given_splits)
    with pytest.raises(ConfigError, match="did you mean 'train'"):
        split("column", [""] * 3, splits=["training", "valid", "test"])
    with pytest.raises(ConfigError, match="a part is empty"):
        split("column", [""] * 4, splits=["train", "test", "train", "test"])
    with pytest.raises(ConfigError, match="split_column"):
        split("column", [""] * 4)


def sizes_of(dealt):
    return [len(part) for part in parts_of(dealt).values()]


def test_words_of_a_split_are_translated_and_parts_that_are_not_used_are_left_out():
    words = ["train", "train", "valid", "test-dev", "train", "valid", "train"]
    parts = {"train": "train", "valid": "test", "test-dev": "unused"}
    given = {"splits": words, "split_parts": parts}
    with pytest.raises(ConfigError, match="a part is empty; valid_rows=N takes validation rows from the training rows"):
        split("file", [""] * 7, **given)
    dealt = split("file", [""] * 7, **given, valid_rows=2)
    assert dealt.test.tolist() == [2, 5]
    assert sizes_of(dealt) == [2, 2, 2]
    assert {*dealt.train, *dealt.valid} == {0, 1, 4, 6}
    others = {tuple(split("file", [""] * 7, **given, valid_rows=2, seed=seed).valid) for seed in range(9)}
    assert len(others) > 1
    smiles = ["same", "same", "b", "c", "d", "e", "same"]
    assert split("file", [""] * 7, **given, valid_rows=1, smiles=smiles).valid.tolist() == [4]
    with pytest.raises(ConfigError, match="row 4: the split file holds 'test-dev'"):
        split("file", [""] * 7, splits=words)
    with pytest.raises(ConfigError, match="2 usable rows have no part in the split file, the first is row 2"):
        split("file", [""] * 4, splits=["train", "", "", "test"])
    with pytest.raises(ConfigError, match="the split already has 1 validation rows"):
        split("column", [""] * 3, splits=["train", "valid", "test"], valid_rows=1)
    with pytest.raises(ConfigError, match="valid_rows 4 must be fewer than the 4 training rows"):
        split("file", [""] * 7, **given, valid_rows=4)


def test_numbers_of_molecules_are_met_exactly_and_the_rest_goes_to_the_part_that_is_null():
    smiles = [f"{row // 2}" if row < 40 else f"{row}" for row in range(100)]  # twenty molecules with two rows
    for seed in range(9):
        dealt = split("random", [""] * 100, sizes=[71, 10, None], smiles=smiles, seed=seed)
        assert sizes_of(dealt) == [71, 10, 19]
        sides = [{smiles[row] for row in part} for part in parts_of(dealt).values()]
        assert len(set.union(*sides)) == sum(map(len, sides))
    assert sizes_of(split("random", [""] * 100, sizes=[None, 10, 19])) == [71, 10, 19]
    assert sizes_of(split("scaffold-similarity", RINGS * 4, sizes=[20, None, 8])) == [20, 8, 8]
    scaffolds = ["C1CC1", "a", "b", "a", "a", "b", "a", "a", "c1ccoc1", "C1CCCCC1"]
    assert parts_of(split("scaffold", scaffolds, sizes=[8, 1, None])) == parts_of(split("scaffold", scaffolds))
    with pytest.raises(ConfigError, match=r"\[71, 29, None\] leave no row of 100 usable ones"):
        split("random", [""] * 100, sizes=[71, 29, None])


@pytest.mark.parametrize("kind", ["scaffold", "scaffold-similarity", "random"])
def test_too_few_molecules_are_an_error(kind):
    with pytest.raises(ConfigError, match="2 usable molecules are too few"):
        split(kind, ["a", "b", "c"], usable=[True, False, True])


@pytest.mark.parametrize("kind", ["scaffold", "scaffold-similarity"])
def test_a_single_scaffold_can_not_be_split(kind):
    with pytest.raises(ConfigError, match="a part is empty"):
        split(kind, ["c1ccccc1"] * 50)


@pytest.mark.parametrize("fractions", [(0.8, 0.2), (1.0, 0.0, 0.0), (0.8, 0.2, 0.2)])
def test_fractions_are_three_positive_numbers_that_add_up_to_one(fractions):
    with pytest.raises(ConfigError, match="add up to 1"):
        split("random", [""] * 9, fractions=fractions)


@given(st.integers(1, 200), st.integers(0, 9), st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted))
def test_smaller_fractions_lie_within_larger_ones(size, seed, fractions):
    rows = np.arange(size) * 3
    small, large = (keep_fraction(rows, fraction, seed) for fraction in fractions)
    assert set(small) <= set(large) <= set(rows)
    assert len(small) == max(1, round(fractions[0] * size))
    assert small.tolist() == sorted(small)
    assert keep_fraction(rows, 1.0, seed).tolist() == rows.tolist()


def test_a_fraction_is_a_choice_by_seed_and_within_bounds():
    rows = np.arange(100)
    assert keep_fraction(rows, 0.25, 0).tolist() != keep_fraction(rows, 0.25, 1).tolist()
    for fraction in (0.0, 1.5):
        with pytest.raises(ConfigError, match="label_fraction"):
            keep_fraction(rows, fraction, 0)


@pytest.mark.parametrize("kind", ["scaffold", "scaffold-similarity", "random", "cluster"])
def test_no_row_is_set_aside_for_a_test_if_its_fraction_is_zero(kind):
    scaffolds = [RINGS[row % 8] for row in range(40)]
    smiles = [f"C{scaffold}" for scaffold in scaffolds] if kind != "random" else None
    dealt = split(kind, scaffolds, smiles=smiles, fractions=(0.9, 0.1, 0.0))
    assert len(dealt.test) == 0
    assert len(dealt.valid) in range(3, 6)
    assert sorted([*dealt.train.tolist(), *dealt.valid.tolist()]) == list(range(40))


def test_two_molecules_are_enough_for_training_and_validation():
    dealt = split("random", ["", ""], fractions=(0.9, 0.1, 0.0))
    assert (len(dealt.train), len(dealt.valid), len(dealt.test)) == (1, 1, 0)
    with pytest.raises(ConfigError, match="1 usable molecules are too few for train and valid"):
        split("random", [""], fractions=(0.9, 0.1, 0.0))


def test_a_stratified_split_gives_every_part_its_share_of_each_class_and_keeps_molecules_together():
    classes = [float(row % 10 == 0) for row in range(100)]
    smiles = [f"{'C' * (row % 10 + 1)}{row // 20}" for row in range(100)]  # each twice, of the same class
    dealt = split("stratified", [""] * 100, smiles=smiles, classes=classes, fractions=(0.8, 0.2, 0.0), seed=3)
    assert sorted([*dealt.train.tolist(), *dealt.valid.tolist()]) == list(range(100))
    assert (len(dealt.valid), sum(classes[row] for row in dealt.valid)) == (20, 2)
    assert not {smiles[row] for row in dealt.train} & {smiles[row] for row in dealt.valid}
    again = split("stratified", [""] * 100, smiles=smiles, classes=classes, fractions=(0.8, 0.2, 0.0), seed=4)
    assert parts_of(again) != parts_of(dealt)
    with pytest.raises(ConfigError, match="the labels are not classes of a single target"):
        split("stratified", [""] * 100, smiles=smiles)
