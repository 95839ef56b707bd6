"""Splits rows into the folds of a repeated cross-validation.

Shapes: M rows of the data, R of them usable, G groups.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from unimol_scale.downstream.config import SplitKind
from unimol_scale.downstream.data.splitting.clusters import group_clusters
from unimol_scale.downstream.data.splitting.parts import DataSplit, Fold
from unimol_scale.downstream.data.splitting.row_groups import Groups, fill, group_rows, shuffled
from unimol_scale.errors import ConfigError

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]


def split_folds(
    kind: SplitKind,
    *,
    usable_M: Bool,
    scaffold_smiles: Sequence[str],
    smiles: Sequence[str],
    splits: Sequence[str] | None,
    folds: int,
    repeats: int,
    fractions: Sequence[float],
    seed: int,
) -> tuple[tuple[Fold, DataSplit], ...]:
    """Split the usable rows of a table for a repeated cross-validation: every row is tested once in each repeat.

    random-kfold: rows of the same molecule stay together.
    scaffold-kfold: molecules with the same Murcko scaffold stay together (``scaffold_groups``).
    cluster-kfold: similar molecules stay together (``cluster_molecules``).
    column-kfold: the split column names the fold of each row (``given_folds``).

    ``deal_folds`` distributes the groups of the first three kinds, and chooses whole groups for validation.

    Args:
        kind: one of the above.
        usable_M: which rows have a molecule, bool [M].
        scaffold_smiles: [M] Murcko scaffolds, "" for none.
        smiles: [M] canonical SMILES.
        splits: [M] words of the split column; needed by "column-kfold".
        folds: number of folds; ignored by "column-kfold".
        repeats: number of repeats; ignored by "column-kfold", which has one.
        fractions: fractions of train, valid and test in a single split. A fold tests 1/folds of the rows; the rest is
            divided in the ratio of the first two fractions.
        seed: seed of all random choices.

    Returns:
        Folds with their rows, in order.

    Raises:
        ConfigError: there are too few rows or groups, or too many molecules for clusters.
    """
    rows = np.flatnonzero(usable_M)
    valid_share = fractions[1] / (fractions[0] + fractions[1])
    if kind == "column-kfold":
        if splits is None:
            raise ConfigError("split=column-kfold needs the name of a column: split_column")
        return given_folds(given_groups(rows, splits), smiles, valid_share=valid_share, seed=seed)
    if kind == "random-kfold":
        groups = group_rows(rows, smiles)
    elif kind == "scaffold-kfold":
        groups = scaffold_groups(rows, scaffold_smiles, smiles)
    else:
        assert kind == "cluster-kfold", "there is no other kind"
        groups = group_clusters(rows, smiles)
    return deal_folds(groups, folds=folds, repeats=repeats, valid_share=valid_share, seed=seed)


def scaffold_groups(rows: Int64, scaffold_smiles: Sequence[str], smiles: Sequence[str]) -> Groups:
    """Return groups of rows with the same Murcko scaffold; each molecule without rings is a group of its own.

    In MoleculeNet's single scaffold split all molecules without rings share the scaffold "" and go into training
    together. That is not suitable for folds: lacking a scaffold is not a similarity. In ESOL and FreeSolv this group is
    a third of the molecules: it would fill one fold, nearly twice as large as the others, and no model could learn from
    some of these molecules to predict the others.

    Args:
        rows: row numbers, int64 [R].
        scaffold_smiles: [M] Murcko scaffolds, "" for a molecule without rings.
        smiles: [M] canonical SMILES.
    """
    names = [(scaffold, "" if scaffold else text) for scaffold, text in zip(scaffold_smiles, smiles, strict=True)]
    return group_rows(rows, names)


def given_groups(rows: Int64, words: Sequence[str]) -> Groups:
    """Return the rows of each fold named in a column; folds are sorted by number, or by name if one is not a number.

    Raises:
        ConfigError: a row has no fold, or all rows have the same one.
    """
    for row in rows.tolist():
        if not words[row]:
            raise ConfigError(f"split=column-kfold: row {row + 1} has no fold in the split column")
    groups = group_rows(rows, words)
    if len(groups) < 2:
        raise ConfigError(f"split=column-kfold: all rows are in the fold {words[groups[0][0]]!r}; at least two are needed")
    names = [words[group[0]] for group in groups]
    numbered = all(name.isascii() and name.isdigit() for name in names)
    order = sorted(range(len(groups)), key=lambda at: (int(names[at]) if numbered else 0, names[at]))
    return [groups[at] for at in order]


def deal_folds(
    groups: Groups, *, folds: int, repeats: int, valid_share: float, seed: int
) -> tuple[tuple[Fold, DataSplit], ...]:
    """Assign groups of rows to folds, anew in each repeat, and choose validation rows from the rows outside each test.

    In each repeat every row is tested in one fold. A group is never divided, neither between folds nor between training
    and validation. Large groups are assigned first, each to the fold with the fewest rows so far. Fold sizes therefore
    differ by at most the largest group, and by at most one row if there are enough groups of one row. Groups of similar
    size (within a factor of two) are in random order; validation groups are drawn at random.

    Args:
        groups: G groups of rows.
        folds: number of folds.
        repeats: number of repeats.
        valid_share: fraction of the rows outside the test that is used for validation.
        seed: seed of all random choices; a repeat does not depend on the number of repeats.

    Returns:
        The folds of the first repeat, those of the second, and so on.

    Raises:
        ConfigError: there are too few groups to fill all parts of all folds.
    """
    dealt = []
    for repeat in range(1, repeats + 1):
        random = np.random.default_rng([seed, repeat])
        tests = _deal(groups, folds, random)
        for number in range(1, folds + 1):
            fold = Fold(repeat=repeat, fold=number)
            rest = [group for other in (*tests[: number - 1], *tests[number:]) for group in other]
            inner = np.random.default_rng([seed, repeat, number])
            dealt.append((fold, _split(tests[number - 1], rest, valid_share, inner, fold)))
    return tuple(dealt)


def given_folds(
    tests: Groups, smiles: Sequence[str], *, valid_share: float, seed: int
) -> tuple[tuple[Fold, DataSplit], ...]:
    """Return given folds, with validation rows drawn at random from the rows outside each test.

    Rows of the same molecule stay together in training or validation; other similarities are not considered.

    Args:
        tests: rows of each fold.
        smiles: [M] canonical SMILES.
        valid_share: fraction of the rows outside the test that is used for validation.
        seed: seed of the choice.

    Raises:
        ConfigError: there are too few rows.
    """
    dealt = []
    for number, test in enumerate(tests, start=1):
        fold = Fold(repeat=1, fold=number)
        others = [row for other in (*tests[: number - 1], *tests[number:]) for row in other]
        rest = group_rows(np.array(others, np.int64), smiles)
        dealt.append((fold, _split([test], rest, valid_share, np.random.default_rng([seed, 1, number]), fold)))
    return tuple(dealt)


def _deal(groups: Groups, folds: int, random: np.random.Generator) -> list[Groups]:
    """Return the groups of each fold."""
    if len(groups) < folds:
        raise ConfigError(
            f"{len(groups)} groups of molecules are too few for {folds} folds; use fewer folds, or split=random-kfold"
        )
    dealt: list[Groups] = [[] for _ in range(folds)]
    sizes = np.zeros(folds, np.int64)
    places = random.permutation(folds)  # so that the first large group is not always in the first fold
    for group in sorted(shuffled(groups, random), key=lambda group: -len(group).bit_length()):
        chosen = int(places[sizes[places].argmin()])
        dealt[chosen].append(group)
        sizes[chosen] += len(group)
    return dealt


def _split(test: Groups, rest: Groups, valid_share: float, random: np.random.Generator, fold: Fold) -> DataSplit:
    """Return the parts of a fold; validation has at least one group."""
    total = sum(len(group) for group in rest)
    mixed = shuffled(rest, random)
    valid, train, _ = fill(mixed, (valid_share * total, total))
    if not valid and mixed:
        smallest = min(mixed, key=len)
        valid, train = smallest, [row for group in mixed if group is not smallest for row in group]
    if not train:
        raise ConfigError(
            f"{fold}: the {total:,} rows outside its test form {len(rest)} groups, too few for training and "
            "validation; use more folds, or split=random-kfold"
        )
    flat = [row for group in test for row in group]
    train_R, valid_R, test_R = (np.sort(np.array(part, np.int64)) for part in (train, valid, flat))
    return DataSplit(train=train_R, valid=valid_R, test=test_R)
