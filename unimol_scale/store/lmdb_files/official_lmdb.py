"""Reads the LMDB files of Uni-Mol and Uni-Mol2, whose records are pickles, without running any code in them.

Each data set is a single LMDB file, not a directory. Keys are ASCII decimals (Uni-Mol, Zhou et al. 2023) or 4-byte
big-endian integers (Uni-Mol2, Ji et al. 2024). A value is the pickle of a dict with ``atoms``, ``coordinates``, ``smi``
and, in the fine-tuning sets, ``target``. Imports NumPy and the project's readers of LMDB pages and of pickles.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unimol_scale.errors import StoreError
from unimol_scale.store import safe_pickle
from unimol_scale.store.lmdb_files.lmdb_pages import LmdbPages, Place
from unimol_scale.store.schema import Float32

MAX_ATOMS = 10_000
MAX_CONFORMERS = 1_000
MAX_TARGETS = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfficialRecord:
    """One molecule as Uni-Mol wrote it.

    Attributes:
        key: key of the record in the file, as decimal text.
        smiles: as written in the file.
        atoms: symbols of the n atoms, with whatever hydrogens the file has.
        coordinates: float32 [k, n, 3] Å; NaN where a number is not finite.
        targets: the numbers of ``target``, NaN where it is None; empty where the file has no target.
    """

    key: str
    smiles: str
    atoms: tuple[str, ...]
    coordinates: Float32
    targets: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class DamagedRecord:
    """A record that cannot be used: its key, and what is wrong with it."""

    key: str
    problem: str


def read_official(path: Path, first: int = 0, last: int | None = None) -> Iterator[OfficialRecord | DamagedRecord]:
    """Yield records ``first`` to ``last`` - 1 of a file, or all, one at a time, in the byte order of the keys.

    Raises:
        StoreError: the file is not an LMDB file, is damaged, or has been cut off.
    """
    with LmdbPages(path) as pages:
        for key, place in itertools.islice(pages.places(), first, last):
            yield _record(key, pages, place)


def count_official(path: Path) -> int:
    """Return the number of records of a file, which it states.

    Raises:
        StoreError: as ``read_official``.
    """
    with LmdbPages(path) as pages:
        return pages.num_entries


def key_text(key: bytes) -> str:
    """Return a key as decimal text.

    Raises:
        StoreError: the key has neither of the two formats.
    """
    if key.isdigit():
        return key.decode("ascii")
    if len(key) == 4:
        return str(int.from_bytes(key, "big"))
    raise StoreError("its key is neither a decimal number nor four bytes")


def _record(key: bytes, pages: LmdbPages, place: Place) -> OfficialRecord | DamagedRecord:
    name = repr(key[:50])
    try:
        name = key_text(key)
        fields = safe_pickle.loads(pages.value(place, safe_pickle.MAX_BYTES))
        if not isinstance(fields, dict):
            raise StoreError("it is not a dict")
        return _checked(name, fields)
    except (StoreError, ValueError) as error:
        return DamagedRecord(key=name, problem=f"record {name}: {error}")


def _checked(key: str, fields: Mapping[str, Any]) -> OfficialRecord:
    missing = [name for name in ("atoms", "coordinates", "smi") if name not in fields]
    if missing:
        raise StoreError(f"it lacks {', '.join(missing)}")
    if not isinstance(fields["smi"], str):
        raise StoreError("its smi is not a string")
    atoms = fields["atoms"]
    atoms = atoms.tolist() if isinstance(atoms, np.ndarray) else atoms
    if not isinstance(atoms, list | tuple) or not all(isinstance(symbol, str) for symbol in atoms):
        raise StoreError("its atoms are not a list of symbols")
    if not 1 <= len(atoms) <= MAX_ATOMS:
        raise StoreError(f"it has {len(atoms):,} atoms; 1 to {MAX_ATOMS:,} are allowed")
    return OfficialRecord(
        key=key,
        smiles=fields["smi"],
        atoms=tuple(atoms),
        coordinates=_coordinates(fields["coordinates"], len(atoms)),
        targets=_targets(fields.get("target")),
    )


def _coordinates(value: object, num_atoms: int) -> Float32:
    """Return [k, n, 3] from a list of arrays [n, 3], one bare array [n, 3], or an array [k, n, 3]."""
    single = isinstance(value, np.ndarray) and value.ndim == 2
    conformers: Any = [value] if single else value
    if not isinstance(conformers, list | tuple | np.ndarray) or not 1 <= len(conformers) <= MAX_CONFORMERS:
        raise StoreError(f"its coordinates are not 1 to {MAX_CONFORMERS:,} arrays")
    for conformer in conformers:
        numeric = isinstance(conformer, np.ndarray) and conformer.dtype.kind in "fiu"
        if not numeric or conformer.shape != (num_atoms, 3):
            found = f"an array {list(conformer.shape)}" if numeric else f"a {type(conformer).__name__}"
            raise StoreError(
                f"a conformer of its {num_atoms} atoms is {found}, not an array of numbers [{num_atoms}, 3]"
            )
    with np.errstate(over="ignore"):
        coordinates: Float32 = np.stack(list(conformers)).astype(np.float32)
    coordinates[~np.isfinite(coordinates)] = np.nan  # callers check each conformer
    return coordinates


def _targets(value: object) -> tuple[float, ...]:
    """Return the numbers of a target: a single number, or a flat list, tuple or array; () if it is text or missing."""
    if isinstance(value, np.ndarray):
        value = value.reshape(-1).tolist() if value.dtype.kind in "fiub" else None
    values: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
    if len(values) > MAX_TARGETS:
        raise StoreError(f"it has {len(values):,} targets, at most {MAX_TARGETS:,} are allowed")
    if all(number is None for number in values) or not all(
        number is None or isinstance(number, int | float) for number in values
    ):
        return ()
    try:
        return tuple(float("nan") if number is None else float(number) for number in values)
    except OverflowError as error:
        raise StoreError("a target is too large for a float") from error
