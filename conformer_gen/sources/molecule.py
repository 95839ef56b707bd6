"""The row that every source yields, and why a row is not a molecule. Imports NumPy only."""

import dataclasses
from collections.abc import Mapping

from unimol_scale.store.schema import Float32

MOL2_RECORD = "@<TRIPOS>MOLECULE"  # the beginning of a MOL2 record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Geometry:
    """Coordinates that come with a row and are kept rather than made.

    Attributes:
        symbols: element of each of n atoms, with whatever hydrogens the source has.
        positions: [k, n, 3] Å.
        origins: [k] codes of ``ConformerOrigin``.
        energies: [k] kcal/mol, NaN where the source has none; empty if it has none at all.
        charge: net charge, for the perception of bonds if there is no SMILES; None: unknown.
        atom_labels: name → [k, n, w], atom labels in the store's units (``schema.ATOM_LABELS``).
    """

    symbols: tuple[str, ...]
    positions: Float32
    origins: tuple[int, ...]
    energies: tuple[float, ...] = ()
    charge: int | None = None
    atom_labels: Mapping[str, Float32] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceMolecule:
    """One row of a source; whatever it lacks is empty.

    Attributes:
        id: name from the source, or made from file and row.
        smiles: SMILES of the molecule; if ``origin`` is set, with coordinates in ChemAxon's extension.
        block: MDL mol block or record of a MOL2 file. Its graph is kept, and with ``origin`` also its coordinates.
        geometry: coordinates that belong to ``smiles``; without a SMILES, bonds are perceived.
        origin: code of ``ConformerOrigin`` for the coordinates in ``smiles`` or ``block``. FLAT in ``geometry`` means
            that a conformer lies in a plane, as depictions and flat molecules do. None: conformers are made, or taken
            from ``geometry``.
        labels: one number per label of the source, NaN where missing.
        problem: why this row is not a molecule, if that is known from reading it; otherwise "".
        reason: keyword of the problem, for counting.
        ends_early: this is not a row of the source but reports that its data ends too early.
    """

    id: str
    smiles: str = ""
    block: str = ""
    geometry: Geometry | None = None
    origin: int | None = None
    labels: tuple[float, ...] = ()
    problem: str = ""
    reason: str = "unreadable_row"
    ends_early: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rejected:
    """A row that is not a molecule of the store: a short reason for counting, and the details of this case."""

    reason: str
    detail: str
