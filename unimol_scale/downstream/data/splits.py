"""Splits rows once into training, validation and test: by scaffold, cluster or time, at random, or as given.

Every kind of split collects rows into groups that must stay together, orders the groups, and divides them. Splits into
folds are in ``splitting.folds``.
"""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from unimol_scale.downstream.config import GIVEN_SPLITS, SplitKind, check_fractions
from unimol_scale.downstream.data.splitting.clusters import group_clusters
from unimol_scale.downstream.data.splitting.parts import ABSENT, PARTS, UNUSED, DataSplit
from unimol_scale.downstream.data.splitting.row_groups import Groups, cut, fill, group_rows, largest_first, shuffled
from unimol_scale.downstream.data.splitting.scaffold_similarity import bulk_similarity
from unimol_scale.downstream.data.splitting.times import read_times
from unimol_scale.errors import ConfigError, nearest

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]


def split_rows(
    kind: SplitKind,
    *,
    usable_M: Bool,
    scaffold_smiles: Sequence[str],
    smiles: Sequence[str],
    splits: Sequence[str] | None,
    split_parts: Mapping[str, str] | None = None,
    valid_rows: int | None = None,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    sizes: Sequence[int | None] | None = None,
    classes: Sequence[Hashable] | None = None,
    seed: int,
) -> DataSplit:
    """Divide the usable rows of a table into training, validation and test.

    scaffold: the deterministic Murcko split of MoleculeNet (Wu et al. 2018), as in DeepChem's ScaffoldSplitter, which
        the papers use. Scaffolds have no stereo. Large scaffolds come first; among equally large ones, the one whose
        first molecule comes last. Each goes into training if it fits, otherwise into validation if it fits, otherwise
        into the test. Molecules without rings share one scaffold.
    scaffold-similarity: Uni-Mol2 mentions such a split for QM9 without defining it. Here scaffolds are ordered by their
        similarity to the whole set (``bulk_similarity``), most similar first, and divided into training, validation and
        test, which has the most unusual scaffolds. Molecules without rings have no scaffold and come first. As with
        other scaffold splits, the test is out of distribution; the definition is this project's.
    cluster: like "scaffold", with clusters of molecules instead of scaffolds (``cluster_molecules``). If nearly every
        molecule is a cluster of its own, this is nearly a random split.
    time: the oldest rows are for training, the newest for the test. Rows of the same time stay together. Rows of the
        same molecule stay together too, at its oldest time, because the molecule is known from then on.
    random: random by seed; rows of the same molecule stay together.
    stratified: like "random", but for each class separately, so that all parts have similar fractions of each class.
    column, file: as stated in the data, or in a file beside it; fractions and sizes are ignored.

    Args:
        kind: one of the above.
        usable_M: which rows have a molecule, bool [M].
        scaffold_smiles: [M] Murcko scaffolds, "" for none.
        smiles: [M] canonical SMILES.
        splits: [M] words of the split column or file; needed by "column" and "file", and, as times, by "time".
        split_parts: word → part, or "unused"; None, or {}: the words are "train", "valid" and "test".
        valid_rows: for "column" and "file" without validation rows: number of training rows that become validation
            rows, by seed; rows of the same molecule stay together.
        fractions: fractions of train, valid and test, matched as closely as whole groups allow. The test fraction may
            be 0: then no rows are set aside for it.
        sizes: instead of fractions, numbers of rows, one of them None for the rest. Random parts have exactly these
            sizes if there are enough molecules with a single row.
        classes: [M] classes of the rows; needed by "stratified".
        seed: seed of "random", "stratified" and ``valid_rows``.

    Raises:
        ConfigError: a part would be empty, the fractions are wrong (``check_fractions``), the sizes exceed the number
            of rows, a word is not a part or not a time, or there are too many molecules for clusters.
    """
    check_fractions(fractions)
    needed = PARTS if sizes is not None or fractions[2] > 0.0 else PARTS[:2]
    rows = np.flatnonzero(usable_M)
    if len(rows) < len(needed):
        raise ConfigError(f"{len(rows)} usable molecules are too few for {' and '.join(needed)}")
    ends = _ends(len(rows), fractions, sizes)
    if kind in GIVEN_SPLITS:
        parts = _given(rows, kind, splits, split_parts or dict.fromkeys(PARTS))
        if valid_rows is not None:
            parts = _with_validation(parts, smiles, valid_rows, seed)
    elif kind == "random":
        groups = shuffled(group_rows(rows, smiles), np.random.default_rng(seed))
        parts = cut(groups, ends) if sizes is None else fill(groups, ends)
    elif kind == "stratified":
        parts = _stratified(group_rows(rows, smiles), classes, fractions, sizes, np.random.default_rng(seed))
    elif kind == "scaffold":
        parts = fill(largest_first(group_rows(rows, scaffold_smiles)), ends)
    elif kind == "cluster":
        parts = fill(largest_first(group_clusters(rows, smiles)), ends)
    elif kind == "time":
        parts = cut(_by_time(rows, smiles, splits), ends)
    else:
        groups = group_rows(rows, scaffold_smiles)
        similarity = bulk_similarity([scaffold_smiles[group[0]] for group in groups], [len(g) for g in groups])
        order = np.argsort(-similarity, kind="stable")  # among equals, the one with the earliest first row comes first
        parts = cut([groups[at] for at in order.tolist()], ends)
    dealt = {name: len(part) for name, part in zip(PARTS, parts, strict=True)}
    if not all(dealt[name] for name in needed):
        remedy = "give more molecules, other fractions, or split=random"
        if kind in GIVEN_SPLITS:
            remedy = "valid_rows=N takes validation rows from the training rows" if dealt["train"] else "see split_parts"
        raise ConfigError(f"split {kind} divides {len(rows):,} usable molecules as {dealt}: a part is empty; {remedy}")
    train, valid, test = (np.sort(np.array(part, np.int64)) for part in parts)
    return DataSplit(train=train, valid=valid, test=test)


def _stratified(
    groups: Groups,
    classes: Sequence[Hashable] | None,
    fractions: Sequence[float],
    sizes: Sequence[int | None] | None,
    random: np.random.Generator,
) -> Groups:
    """Divide the groups of each class at random; a group has the class of its first row."""
    if classes is None:
        raise ConfigError("split=stratified divides by class, but the labels are not classes of a single target")
    if sizes is not None:
        raise ConfigError("split=stratified divides by fractions; remove split_sizes")
    of_class: dict[Hashable, Groups] = {}
    for group in groups:
        of_class.setdefault(classes[group[0]], []).append(group)
    parts: Groups = [[], [], []]
    for members in of_class.values():
        ends = _ends(sum(map(len, members)), fractions, None)
        for part, dealt in zip(parts, cut(shuffled(members, random), ends), strict=True):
            part += dealt
    return parts


def _by_time(rows: Int64, smiles: Sequence[str], words: Sequence[str] | None) -> Groups:
    """Return groups of rows of the same time, oldest first; a molecule has its oldest time."""
    if words is None:
        raise ConfigError("split=time needs the name of a column: split_column")
    time_R = read_times(words, rows)
    oldest: dict[str, float] = {}
    for row, time in zip(rows.tolist(), time_R.tolist(), strict=True):
        oldest[smiles[row]] = min(time, oldest.get(smiles[row], time))
    groups = group_rows(rows, [oldest.get(text) for text in smiles])
    return sorted(groups, key=lambda group: oldest[smiles[group[0]]])


def _ends(total: int, fractions: Sequence[float], sizes: Sequence[int | None] | None) -> tuple[float, float]:
    """Return the number of rows after which training ends, and after which validation ends."""
    if sizes is None:
        return fractions[0] * total, (fractions[0] + fractions[1]) * total
    rest = total - sum(size or 0 for size in sizes)
    if rest < 1:
        raise ConfigError(f"split_sizes {list(sizes)} leave no row of {total:,} usable ones for the part that is null")
    train, valid, _ = (rest if size is None else size for size in sizes)
    return train, train + valid


def _given(
    rows: Int64, kind: SplitKind, splits: Sequence[str] | None, named: Mapping[str, str | None]
) -> list[list[int]]:
    if splits is None:
        raise ConfigError("split=column needs the name of a column: split_column")
    if kind == "file" and (absent := [row for row in rows.tolist() if splits[row] == ABSENT]):
        raise ConfigError(f"{len(absent):,} usable rows have no part in the split file, the first is row {absent[0] + 1}")
    parts: dict[str, list[int]] = {name: [] for name in (*PARTS, UNUSED)}
    for row in rows.tolist():
        word = splits[row]
        if word not in named:
            raise ConfigError(f"row {row + 1}: the split {kind} holds {word!r}; {nearest(word, named)}")
        parts[named[word] or word].append(row)
    del parts[UNUSED]
    return list(parts.values())


def _with_validation(parts: list[list[int]], smiles: Sequence[str], valid_rows: int, seed: int) -> list[list[int]]:
    """Move some training rows into the empty validation part."""
    train, valid, test = parts
    if valid:
        raise ConfigError(f"valid_rows: the split already has {len(valid):,} validation rows; remove valid_rows")
    if valid_rows >= len(train):
        raise ConfigError(f"valid_rows {valid_rows:,} must be fewer than the {len(train):,} training rows")
    groups = shuffled(group_rows(np.array(train, np.int64), smiles), np.random.default_rng(seed))
    valid, train, _ = fill(groups, (valid_rows, len(train)))
    return [train, valid, test]


def keep_fraction(rows: Int64, fraction: float, seed: int) -> Int64:
    """Return a random part of the rows, in their order; with the same seed, a smaller part is a subset of a larger one.

    Args:
        rows: row numbers, int64 [R]; at least one is kept.
        fraction: fraction of the rows to keep.
        seed: seed of the choice.

    Raises:
        ConfigError: the fraction is not above 0 and at most 1.
    """
    if not 0.0 < fraction <= 1.0:
        raise ConfigError(f"label_fraction must be above 0 and at most 1, got {fraction}")
    kept = max(1, round(fraction * len(rows)))
    return rows[np.sort(np.random.default_rng(seed).permutation(len(rows))[:kept])]


def set_aside(split: DataSplit, fraction: float, smiles: Sequence[str], seed: int) -> DataSplit:
    """Return the split with a fraction of its training rows, drawn by molecule, moved to calibration.

    Args:
        split: a split without calibration rows.
        fraction: fraction of the training rows; 0 moves none.
        smiles: [M] canonical SMILES; rows of the same molecule stay together.
        seed: seed of the choice.

    Raises:
        ConfigError: training or calibration would have no rows.
    """
    if not fraction:
        return split
    groups = shuffled(group_rows(split.train, smiles), np.random.default_rng([seed, 1]))
    calibration, train, _ = fill(groups, (fraction * len(split.train), len(split.train)))
    if not calibration or not train:
        raise ConfigError(
            f"calibration_fraction {fraction} of {len(split.train):,} training rows leaves none for calibration or none "
            "for training"
        )
    train_R, calibration_R = (np.sort(np.array(part, np.int64)) for part in (train, calibration))
    return dataclasses.replace(split, train=train_R, calibration=calibration_R)
