"""Ligands of PDB files: residues of HETATM records, with the bonds of CONECT records or those that are perceived.

A ligand has at least two atoms that are no hydrogens, so that water and ions are none; residues that CONECT records
join are one. Where a pair of atoms is named twice in one direction, as RDKit and Open Babel write double bonds, all
bonds are those of the CONECT records. Else they are perceived, for which all hydrogens must be there, and the copies of
a ligand in the models of a file are its conformers. The text is held from one END to the next.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from conformer_gen.sources.frame_files.frames import ATOMIC_NUMBERS, Frame, bad_frame, group_frames
from conformer_gen.sources.frame_settings import FrameFormat, FramesConfig
from conformer_gen.sources.inputs.text_streams import TextStream
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.source import Source, SourceSettings
from unimol_scale.store.schema import ConformerOrigin, Float64

WATER = {"HOH", "WAT", "DOD", "H2O", "TIP", "TIP3", "SOL"}
FEWEST_HEAVY_ATOMS = 2
MOST_HELD = 200_000  # atoms and CONECT records of one structure, some 100 MB
MOST_IN_BLOCK = 999  # atoms and bonds of an MDL mol block
HIGHEST_ORDER = 3
NO_HYDROGENS = (
    "it has carbon and no hydrogens, so bond orders cannot be told; add hydrogens, or take the SDF of the ligand and "
    "--source sdf"
)
BOUND = "CONECT records bind it to an atom that is of no ligand: it is a part of a larger molecule"

Bonds = dict[tuple[str, str], int]  # pair of serials, as CONECT records name it → how often


@dataclasses.dataclass(frozen=True, slots=True)
class _Atom:
    """One HETATM record.

    Attributes:
        serial: the text of its number, by which CONECT records name it.
        residue: name, chain and number.
        symbol: element, "" if it is none that is known.
        place: the text of x, y and z.
        charge: the text of its charge.
    """

    serial: str
    residue: str
    symbol: str
    place: tuple[str, str, str]
    charge: str


@dataclasses.dataclass(slots=True)
class _Model:
    """The atoms of a model, and the bonds that stand with them."""

    atoms: list[_Atom] = dataclasses.field(default_factory=list)
    bonds: Bonds = dataclasses.field(default_factory=dict)


class _Structure:
    """What stands between two END records.

    Attributes:
        records: how many HETATM and CONECT records it has.
    """

    def __init__(self) -> None:
        self.records = 0
        self._models = [_Model()]
        self._kept: dict[str, str] = {}  # residue → the alternate location that is taken

    def add(self, line: str) -> None:
        """Take in a record; of alternate locations the first of each residue."""
        model = self._models[-1]
        if line.startswith("CONECT"):
            first, *others = (line[at : at + 5].strip() for at in range(6, 31, 5))
            self.records += 1
            for pair in ((first, other) for other in others if other):
                model.bonds[pair] = model.bonds.get(pair, 0) + 1
        elif line.startswith("HETATM") and line[17:21].strip() not in WATER:
            residue = f"{line[17:21].strip() or 'UNL'}:{line[21:27].replace(' ', '')}"
            location = line[16:17].strip()
            if location and self._kept.setdefault(residue, location) != location:
                return
            self.records += 1
            place = line[30:38], line[38:46], line[46:54]
            model.atoms.append(_Atom(line[6:11].strip(), residue, _element(line), place, line[78:80].strip()))

    def end_model(self) -> None:
        """Begin the next model."""
        self._models.append(_Model())

    def models(self) -> list[_Model]:
        """Return the models; bonds that stand behind the last one are those of all that have none of their own."""
        behind = self._models[-1].bonds
        return [_Model(model.atoms, model.bonds or behind) for model in self._models if model.atoms]


def read_pdb_ligands(stream: TextStream, config: SourceSettings) -> Iterator[SourceMolecule]:
    """Yield one row for each ligand, with its models as conformers, and one for each that cannot be read."""
    settings = PDB_FORMAT.resolved(config.frames)
    return group_frames(_frames(stream, settings), settings)


def _frames(stream: TextStream, settings: FramesConfig) -> Iterator[Frame | SourceMolecule]:
    structure, begun, number = _Structure(), False, 1
    for line in itertools.chain(stream.text, ["END"]):
        if line[:6].rstrip() != "END":
            begun = begun or bool(line.strip())
            if line.startswith("ENDMDL"):
                structure.end_model()
            elif structure.records < MOST_HELD:
                structure.add(line)
        elif begun:
            yield from _ligands(stream.stem if number == 1 else f"{stream.stem}:{number}", structure)
            structure, begun, number = _Structure(), False, number + 1


def _ligands(name: str, structure: _Structure) -> Iterator[Frame | SourceMolecule]:
    """Yield the ligands of a structure, the models of each one after another."""
    if structure.records >= MOST_HELD:
        yield bad_frame(name, "too_many_atoms", f"it has {MOST_HELD:,} HETATM and CONECT records or more")
        return
    found: dict[str, list[Frame | SourceMolecule]] = {}
    models = structure.models()
    for at, model in enumerate(models, start=1):
        for atoms, bonds in _joined(model.atoms, model.bonds):
            if sum(atom.symbol != "H" for atom in atoms) >= FEWEST_HEAVY_ATOMS:
                title = f"{name}:{atoms[0].residue}"
                frame = title if len(models) == 1 else f"{title}:{at}"
                found.setdefault(title, []).append(_ligand(title, frame, atoms, bonds))
    if not found:
        few = f"it has no HETATM records of a molecule of {FEWEST_HEAVY_ATOMS} or more heavy atoms beside water"
        yield bad_frame(name, "no_ligand", few)
    yield from itertools.chain.from_iterable(found.values())


def _joined(atoms: list[_Atom], bonds: Bonds) -> Iterator[tuple[list[_Atom], Bonds]]:
    """Yield the atoms of each residue, or of those together that have bonds to each other, and the bonds of these."""
    residue_of = {atom.serial: atom.residue for atom in atoms}
    leader = {atom.residue: atom.residue for atom in atoms}

    def find(residue: str) -> str:
        while leader[residue] != residue:
            leader[residue] = residue = leader[leader[residue]]
        return residue

    for first, second in bonds:
        if first in residue_of and second in residue_of:
            leader[find(residue_of[second])] = find(residue_of[first])
    together: dict[str, tuple[list[_Atom], Bonds]] = {find(one): ([], {}) for one in leader}
    for atom in atoms:
        together[find(atom.residue)][0].append(atom)
    for (first, second), times in bonds.items():
        own = residue_of.get(first) or residue_of.get(second)
        if own is not None:
            together[find(own)][1][first, second] = times
    yield from together.values()


def _ligand(title: str, frame: str, atoms: list[_Atom], bonds: Bonds) -> Frame | SourceMolecule:
    at = {atom.serial: number for number, atom in enumerate(atoms)}
    orders: dict[tuple[int, int], int] = {}
    for (first, second), times in bonds.items():
        if first not in at or second not in at:
            return bad_frame(frame, "bound_to_polymer", BOUND)
        pair = min(at[first], at[second]), max(at[first], at[second])
        orders[pair] = max(orders.get(pair, 0), times)
    symbols = [atom.symbol for atom in atoms]
    try:
        charges = [_charge(atom.charge) for atom in atoms]
        positions = np.array([[float(value) for value in atom.place] for atom in atoms])
        sound = len(at) == len(atoms) and all(symbols) and bool(np.isfinite(positions).all())
        if sound and max(orders.values(), default=0) > 1:
            block = _mol_block(title, symbols, positions, orders, charges)
            return SourceMolecule(id=title, block=block, origin=ConformerOrigin.FILE)
        if "H" not in symbols and "C" in symbols:
            return bad_frame(frame, "hydrogens_missing", NO_HYDROGENS)
        return Frame(
            id=frame,
            numbers=np.array([ATOMIC_NUMBERS.get(symbol, 0) for symbol in symbols]),
            positions=positions,
            name=title,
            charge=sum(charges) if any(atom.charge for atom in atoms) else None,
        )
    except ValueError as error:
        return bad_frame(frame, "unreadable_row", f"its atoms cannot be read: {error}")


def _mol_block(
    title: str, symbols: list[str], positions: Float64, orders: dict[tuple[int, int], int], charges: list[int]
) -> str:
    """Return an MDL mol block.

    Raises:
        ValueError: it has no room for the atoms or bonds, or a bond has no such order.
    """
    if max(len(symbols), len(orders)) > MOST_IN_BLOCK:
        raise ValueError(f"{len(symbols)} atoms and {len(orders)} bonds, at most {MOST_IN_BLOCK} are read")
    if max(orders.values()) > HIGHEST_ORDER:
        raise ValueError(f"CONECT records name a bond {max(orders.values())} times in one direction")
    lines = [title, "  unimol-scale      3D", "", f"{len(symbols):3}{len(orders):3}  0  0  0  0  0  0  0  0999 V2000"]
    for symbol, (x, y, z) in zip(symbols, positions.tolist(), strict=True):
        lines.append(f"{x:10.4f}{y:10.4f}{z:10.4f} {symbol:3} 0  0  0  0  0  0  0  0  0  0  0  0")
    lines += [f"{first + 1:3}{second + 1:3}{order:3}  0" for (first, second), order in sorted(orders.items())]
    lines += [f"M  CHG  1 {at:3} {charge:3}" for at, charge in enumerate(charges, start=1) if charge]
    return "\n".join([*lines, "M  END", ""])


def _element(line: str) -> str:
    """Return the element of columns 77 and 78, or, in files without these, the one that begins the atom's name."""
    symbol = line[76:78].strip().capitalize()
    if not symbol:
        name = line[12:16].upper().lstrip("0123456789")
        two = name[:2].capitalize()
        symbol = two if two in ATOMIC_NUMBERS and not two.startswith("H") else name.strip()[:1]
    return {"D": "H", "T": "H"}.get(symbol, symbol if symbol in ATOMIC_NUMBERS else "")


def _charge(text: str) -> int:
    """Read a charge such as ``2-``; some programs write ``-2``."""
    if not text:
        return 0
    sign, digits = (text[-1], text[:-1]) if text[-1] in "+-" else (text[0], text[1:])
    if sign not in "+-" or not (digits or "1").isdecimal():
        raise ValueError(f"the charge of an atom is {text!r}")
    return int(f"{sign}{digits or 1}")


PDB_FORMAT = FrameFormat(units={"positions": "Å"})
PDB_LIGANDS = Source(
    name="pdb-ligands",
    suffixes=(".pdb", ".ent"),
    read_stream=read_pdb_ligands,
    geometry="all",
    frames=PDB_FORMAT,
)
