"""What every source yields: one row, as the source has it; and why a row is not a molecule. Imports NumPy only."""

import dataclasses
from collections.abc import Mapping

from unimol_scale.store.schema import Float32

MOL2_RECORD = "@<TRIPOS>MOLECULE"  # how the record of a MOL2 file begins


@dataclasses.dataclass(frozen=True, kw_only=True)
class Geometry:
    """Coordinates that come with a row and are kept, not made again.

    Attributes:
        symbols: element of each of n atoms, hydrogens included as the source has them.
        positions: [k, n, 3] Å.
        origins: [k] codes of ``ConformerOrigin``.
        energies: [k] kcal/mol, NaN where the source has none; empty where it has none at all.
        charge: net charge, for the perception of bonds where no SMILES stands beside; None: not known.
        atom_labels: name → [k, n, w], labels of atoms in the store's units (``schema.ATOM_LABELS``).
    """

    symbols: tuple[str, ...]
    positions: Float32
    origins: tuple[int, ...]
    energies: tuple[float, ...] = ()
    charge: int | None = None
    atom_labels: Mapping[str, Float32] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceMolecule:
    """One row of a source; everything it lacks is empty.

    Attributes:
        id: name given by the source, or made from file and row.
        smiles: of the molecule; with coordinates in ChemAxon's extension where ``origin`` is given.
        block: MDL mol block, or record of a MOL2 file, whose graph is kept, and with ``origin`` its coordinates.
        geometry: coordinates beside ``smiles``; without one, bonds are perceived.
        origin: code of ``ConformerOrigin`` of the coordinates in ``smiles`` or ``block``; FLAT in ``geometry`` means
            that a conformer lies in a plane, as depictions and flat molecules do. None: to be made, or those of
            ``geometry``.
        labels: one number for each label of the source, NaN where it is missing.
        problem: why this row is not a molecule, where reading it already tells; empty otherwise.
        reason: of the problem, in a word to count by.
        ends_early: this is not a row of the source, but says that its data ends too early.
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
    """A row that is not a molecule of the store: a short reason to count by, and the detail of this one."""

    reason: str
    detail: str
