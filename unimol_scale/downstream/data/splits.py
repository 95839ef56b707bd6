"""Splits rows into training, validation and test: by scaffold, at random, or as given. Uses RDKit fingerprints.

Every kind of split sorts rows into groups that must stay together, orders the groups, and divides them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from unimol_scale.downstream.config import GIVEN_SPLITS, SplitKind
from unimol_scale.errors import ConfigError, nearest

Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

PARTS = ("train", "valid", "test")
UNUSED = "unused"
ABSENT = ""  # word of a row that a split file does not name
ROUNDING = 1e-9  # rows: 0.7 + 0.1 is a little less than 0.8
MORGAN_RADIUS = 2
MORGAN_BITS = 2048


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSplit:
    """Rows of each part, int64, ascending; no row is in two parts, and no part is empty."""

    train: Int64
    valid: Int64
    test: Int64


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
    seed: int,
) -> DataSplit:
    """Divide the usable rows of a table into training, validation and test.

    scaffold: the deterministic Murcko split of MoleculeNet (Wu et al. 2018) as DeepChem's ScaffoldSplitter makes it,
        which the papers use. Scaffolds have no stereo. The largest come first; among equals, the one whose first
        molecule comes last. Each goes into training if it fits there, else into validation if it fits, else into the
        test. Molecules without rings are one scaffold.
    scaffold-similarity: Uni-Mol2 mentions such a split for QM9 without defining it. Here scaffolds are ordered by their
        similarity to the whole set (``bulk_similarity``), the most similar first, and cut in two places: training, then
        validation, then the test, which has the most unusual scaffolds. Molecules without rings have no scaffold and
        come first. As with other scaffold splits, the test is out of distribution; the definition is this project's.
    random: by seed; rows of the same molecule stay together.
    column, file: as the data, or a file beside it, says; fractions and sizes are not used.

    Args:
        kind: one of the above.
        usable_M: bool [M], the rows that have a molecule.
        scaffold_smiles: [M] Murcko scaffolds, "" for none.
        smiles: [M] canonical SMILES.
        splits: [M] words; needed by "column" and "file".
        split_parts: word → part, or "unused"; None, or {}: the words are "train", "valid" and "test".
        valid_rows: of "column" and "file" without validation rows: how many training rows become such, by seed; rows of
            the same molecule stay together.
        fractions: of train, valid and test; parts are as near to them as whole groups allow.
        sizes: in place of fractions, numbers of rows, one of them None: the rest. Random parts have exactly these, as
            long as there are molecules with one row to fill them up.
        seed: of "random" and of ``valid_rows``.

    Raises:
        ConfigError: a part would be empty; fractions that are no three positive numbers with the sum 1; sizes beyond
            the number of rows; a word that is no part.
    """
    if len(fractions) != len(PARTS) or min(fractions) <= 0.0 or abs(sum(fractions) - 1.0) > 1e-9:
        raise ConfigError(f"fractions must be three positive numbers that add up to 1, got {list(fractions)}")
    rows = np.flatnonzero(usable_M)
    if len(rows) < len(PARTS):
        raise ConfigError(f"{len(rows)} usable molecules are too few for training, validation and test")
    ends = _ends(len(rows), fractions, sizes)
    if kind in GIVEN_SPLITS:
        parts = _given(rows, kind, splits, split_parts or dict.fromkeys(PARTS))
        if valid_rows is not None:
            parts = _with_validation(parts, smiles, valid_rows, seed)
    elif kind == "random":
        groups = _shuffled(_groups(rows, smiles), seed)
        parts = _cut(groups, ends) if sizes is None else _fill(groups, ends)
    elif kind == "scaffold":
        groups = _groups(rows, scaffold_smiles)
        parts = _fill(sorted(groups, key=lambda group: (-len(group), -group[0])), ends)
    else:
        groups = _groups(rows, scaffold_smiles)
        similarity = bulk_similarity([scaffold_smiles[group[0]] for group in groups], [len(g) for g in groups])
        order = np.argsort(-similarity, kind="stable")  # among equals, the one whose first row comes first
        parts = _cut([groups[at] for at in order.tolist()], ends)
    dealt = {name: len(part) for name, part in zip(PARTS, parts, strict=True)}
    if not all(dealt.values()):
        remedy = "give more molecules, other fractions, or split=random"
        if kind in GIVEN_SPLITS:
            remedy = "valid_rows=N takes validation rows from the training rows" if dealt["train"] else "see split_parts"
        raise ConfigError(f"split {kind} deals {len(rows):,} usable molecules as {dealt}: a part is empty; {remedy}")
    train, valid, test = (np.sort(np.array(part, np.int64)) for part in parts)
    return DataSplit(train=train, valid=valid, test=test)


def _groups(rows: Int64, names: Sequence[str]) -> list[list[int]]:
    """Return rows with the same name together, in the order of their first rows."""
    groups: dict[str, list[int]] = {}
    for row in rows.tolist():
        groups.setdefault(names[row], []).append(row)
    return list(groups.values())


def _shuffled(groups: Sequence[list[int]], seed: int) -> list[list[int]]:
    return [groups[at] for at in np.random.default_rng(seed).permutation(len(groups)).tolist()]


def _ends(total: int, fractions: Sequence[float], sizes: Sequence[int | None] | None) -> tuple[float, float]:
    """Return after how many rows training ends, and after how many validation."""
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
        raise ConfigError(f"valid_rows: the split has {len(valid):,} validation rows already; leave valid_rows out")
    if valid_rows >= len(train):
        raise ConfigError(f"valid_rows {valid_rows:,} must be fewer than the {len(train):,} training rows")
    groups = _shuffled(_groups(np.array(train, np.int64), smiles), seed)
    valid, train, _ = _fill(groups, (valid_rows, len(train)))
    return [train, valid, test]


def _fill(groups: Sequence[Sequence[int]], ends: tuple[float, float]) -> list[list[int]]:
    """Divide groups in order, each into the first part with enough room; the rest goes into the test."""
    train: list[int] = []
    valid: list[int] = []
    test: list[int] = []
    for group in groups:
        if len(train) + len(group) <= ends[0] + ROUNDING:
            train += group
        elif len(train) + len(valid) + len(group) <= ends[1] + ROUNDING:
            valid += group
        else:
            test += group
    return [train, valid, test]


def _cut(groups: Sequence[Sequence[int]], ends: tuple[float, float]) -> list[list[int]]:
    """Cut ordered groups into three parts with sizes as near to those wanted as whole groups allow, none empty."""
    last = len(groups) - 1
    if last < 2:
        return [[row for group in groups for row in group], [], []]
    rows = np.cumsum([len(group) for group in groups])
    first, second = (int(np.abs(rows - end).argmin()) + 1 for end in ends)
    first = min(max(first, 1), last - 1)
    second = min(max(second, first + 1), last)
    return [
        [row for group in part for row in group] for part in (groups[:first], groups[first:second], groups[second:])
    ]


def bulk_similarity(scaffolds: Sequence[str], sizes: Sequence[int]) -> Float64:
    """Return how similar each scaffold is to the scaffolds of all molecules.

    The Tanimoto similarity of its Morgan fingerprint (radius 2, 2,048 bits) to those of the M molecules that have a
    scaffold, as a ratio of sums, Σ|s ∩ m| / Σ|s ∪ m|, which needs each bit's count over the set and no pair of
    scaffolds: after iSIM (López-Pérez et al. 2024, doi:10.1039/D4DD00041B). Time and memory grow with the number of
    scaffolds, not with its square.

    Args:
        scaffolds: [S] SMILES, all different; "" for no scaffold.
        sizes: [S] molecules of each.

    Returns:
        float64 [S] in [0, 1]; infinite for "".
    """
    generator: Any = rdFingerprintGenerator.GetMorganGenerator(radius=MORGAN_RADIUS, fpSize=MORGAN_BITS)  # type: ignore[no-untyped-call]
    bits_S = [np.array(generator.GetFingerprint(_parsed(scaffold)).GetOnBits(), np.int64) for scaffold in scaffolds]
    weights_S = np.array([size if scaffold else 0 for scaffold, size in zip(scaffolds, sizes, strict=True)], np.int64)
    counts = np.zeros(MORGAN_BITS, np.int64)
    for bits, weight in zip(bits_S, weights_S.tolist(), strict=True):
        counts[bits] += weight
    shared_S = np.array([counts[bits].sum() for bits in bits_S], np.float64)
    total = float(weights_S.sum())
    united_S = total * np.array([len(bits) for bits in bits_S]) + float(counts.sum()) - shared_S
    similarity = np.full(len(scaffolds), np.inf)
    has_scaffold = weights_S > 0
    similarity[has_scaffold] = shared_S[has_scaffold] / united_S[has_scaffold]
    return similarity


def _parsed(scaffold: str) -> Chem.Mol:
    """Return a scaffold as it is written: aromatic where it says so, since it need not have a Kekulé structure."""
    molecule = Chem.MolFromSmiles(scaffold, sanitize=False)
    assert molecule is not None, f"RDKit has written the scaffold {scaffold!r} and cannot read it"
    molecule.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(molecule)
    return molecule


def keep_fraction(rows: Int64, fraction: float, seed: int) -> Int64:
    """Return a random part of the rows, in their order; with the same seed, a smaller part is a subset of a larger one.

    Args:
        rows: int64 [R]; at least one is kept.
        fraction: share of the rows that is kept.
        seed: of the choice.

    Raises:
        ConfigError: the fraction is not above 0 and at most 1.
    """
    if not 0.0 < fraction <= 1.0:
        raise ConfigError(f"label_fraction must be above 0 and at most 1, got {fraction}")
    kept = max(1, round(fraction * len(rows)))
    return rows[np.sort(np.random.default_rng(seed).permutation(len(rows))[:kept])]
