"""Finds the columns of a table by their roles, and checks the numbers in label columns. Imports no readers."""

import math
import re
from collections.abc import Mapping, Sequence

from unimol_scale.errors import SourceError, nearest

SMILES_NAMES = ("smiles", "canonical_smiles", "isomeric_smiles", "smi", "structure", "mol")
ID_NAMES = ("id", "zinc_id", "molecule_id", "mol_id", "compound_id", "chembl_id", "idx", "name", "title")
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)
MISSING = ("", "nan", "na", "n/a", "null", "none")


def find_column(where: str, names: Sequence[str], wanted: str | None, usual: Sequence[str]) -> int | None:
    """Return the index of the requested column, or else of the first usual name present, or else None.

    Raises:
        SourceError: the requested column does not exist, or its name occurs twice.
    """
    if wanted is not None:
        if wanted not in names:  # a name with a line break is typed on one line
            wanted = next((name for name in names if name.split() == wanted.split()), wanted)
        if wanted not in names:
            raise SourceError(f"{where} has no column {wanted!r}; {nearest(wanted, names)}")
        if names.count(wanted) > 1:
            raise SourceError(f"{where} has {names.count(wanted)} columns {wanted!r}; rename all but one")
        return names.index(wanted)
    lower = [name.lower().strip() for name in names]
    return next((lower.index(name) for name in usual if name in lower), None)


def find_smiles(where: str, names: Sequence[str], wanted: str | None) -> int:
    """Return the index of the SMILES column: the requested one, or else the only one with a usual name.

    Raises:
        SourceError: there is none, or several could be meant, which need not contain the same molecules.
    """
    place = find_column(where, names, wanted, ())
    if place is not None:
        return place
    usual = [name for name in names if name.lower().strip() in SMILES_NAMES]
    if len(usual) == 1:
        return names.index(usual[0])
    remedy = "choose one with --smiles-column (in a build: source.smiles_column=)"
    if usual:
        raise SourceError(f"{where}: the columns {', '.join(usual)} may all be SMILES; {remedy}, or rename all but one")
    raise SourceError(
        f"{where}: none of the columns {', '.join(names)[:500]} has a usual name for SMILES; {remedy}, or give a "
        "header in the first line"
    )


def find_labels(where: str, names: Sequence[str], labels: Mapping[str, str]) -> list[int]:
    """Return the indices of the label columns, in the order of ``labels``.

    Raises:
        SourceError: a label column does not exist.
    """
    places = [find_column(where, names, label, ()) for label in labels]
    return [place for place in places if place is not None]


def number(value: object, where: str) -> float:
    """Return a label as a number; NaN where it is missing (empty, NA, NaN, null or none).

    Raises:
        SourceError: it is not a finite number; the message begins with ``where``.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in MISSING):
        return math.nan
    try:
        # Python reads 1_000 as a number, but tables do not use that spelling.
        if isinstance(value, str) and "_" in value:
            raise ValueError(value)
        result = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        result = math.inf
    if math.isinf(result):
        remedy = "correct it, or leave it empty if it is missing"
        if has_decimal_comma(value):
            remedy = "write decimals with a point, not a comma"
        raise SourceError(f"{where} is {value!r}, which is not a number; {remedy}")
    return result


def has_decimal_comma(value: object) -> bool:
    """Return whether a value is a number with a decimal comma."""
    return isinstance(value, str) and DECIMAL_COMMA.fullmatch(value.strip()) is not None
