"""Which column of a table is what, and the numbers in columns of labels. Imports nothing that reads."""

import math
import re
from collections.abc import Mapping, Sequence

from unimol_scale.errors import SourceError, nearest

SMILES_NAMES = ("smiles", "canonical_smiles", "isomeric_smiles", "smi", "structure", "mol")
ID_NAMES = ("id", "zinc_id", "molecule_id", "mol_id", "compound_id", "chembl_id", "idx", "name", "title")
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)
MISSING = ("", "nan", "na", "n/a", "null", "none")


def find_column(where: str, names: Sequence[str], wanted: str | None, usual: Sequence[str]) -> int | None:
    """Return the place of the column asked for, else of the first usual name present, else None.

    Raises:
        SourceError: the column asked for is not there, or its name is there twice.
    """
    if wanted is not None:
        if wanted not in names:  # as a name with a line break is typed on one line
            wanted = next((name for name in names if name.split() == wanted.split()), wanted)
        if wanted not in names:
            raise SourceError(f"{where} has no column {wanted!r}; {nearest(wanted, names)}")
        if names.count(wanted) > 1:
            raise SourceError(f"{where} has {names.count(wanted)} columns {wanted!r}; rename all but one")
        return names.index(wanted)
    lower = [name.lower().strip() for name in names]
    return next((lower.index(name) for name in usual if name in lower), None)


def find_smiles(where: str, names: Sequence[str], wanted: str | None) -> int:
    """Return the place of the SMILES column: the one asked for, else the only one with a usual name.

    Raises:
        SourceError: there is none, or several could be meant: they need not hold the same molecules.
    """
    place = find_column(where, names, wanted, ())
    if place is not None:
        return place
    usual = [name for name in names if name.lower().strip() in SMILES_NAMES]
    if len(usual) == 1:
        return names.index(usual[0])
    remedy = "say which with --smiles-column (of a build: source.smiles_column=)"
    if usual:
        raise SourceError(f"{where}: the columns {', '.join(usual)} may all be SMILES; {remedy}, or rename all but one")
    raise SourceError(
        f"{where}: none of the columns {', '.join(names)[:500]} is named as SMILES; {remedy}, or give a header in the "
        "first line"
    )


def find_labels(where: str, names: Sequence[str], labels: Mapping[str, str]) -> list[int]:
    """Return the places of the label columns, in the order of ``labels``.

    Raises:
        SourceError: one is not there.
    """
    places = [find_column(where, names, label, ()) for label in labels]
    return [place for place in places if place is not None]


def number(value: object, where: str) -> float:
    """Return a label; NaN where it is missing (empty, NA, NaN, null or none).

    Raises:
        SourceError: it is something else than a finite number; the message begins with ``where``.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in MISSING):
        return math.nan
    try:
        if isinstance(value, str) and "_" in value:  # Python reads 1_000 as a number; nobody writes one so in a table
            raise ValueError(value)
        result = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        result = math.inf
    if math.isinf(result):
        remedy = "mend it, or leave it empty where it is missing"
        if has_decimal_comma(value):
            remedy = "write decimals with a point, not with a comma"
        raise SourceError(f"{where} is {value!r}, which is not a number; {remedy}")
    return result


def has_decimal_comma(value: object) -> bool:
    """Return whether a value is a number in which a comma stands where a point should."""
    return isinstance(value, str) and DECIMAL_COMMA.fullmatch(value.strip()) is not None
