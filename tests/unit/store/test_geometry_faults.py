"""Coordinates that cannot be a molecule's are found, and those of real molecules pass."""

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rdkit import Chem
from rdkit.Chem import rdDepictor, rdDistGeom

from conformer_gen.chemistry.bonds.atom_matching import add_conformer, match_atoms
from conformer_gen.sources.molecule import Geometry
from unimol_scale.store.geometry_faults import COVALENT_RADII, Conformers, Fault, find_faults, is_drawn

DATA = Path(__file__).parents[4] / "shared" / "data"
shared = pytest.mark.skipif(not DATA.is_dir(), reason="needs the folder shared/ beside the checkout")


def embedded(smiles: str) -> Chem.Mol:
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(molecule, randomSeed=1) == 0
    return molecule


def conformers_of(molecule: Chem.Mol, *positions: np.ndarray) -> Conformers:
    bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()]
    return Conformers.of_one_molecule(
        np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()], np.uint8),
        np.array(bonds, np.int64).reshape(-1, 2),
        np.stack(positions or (molecule.GetConformer().GetPositions(),)),
    )


def joined(*several: Conformers) -> Conformers:
    atoms = np.cumsum([0, *(len(one.atomic_number) for one in several)])
    return Conformers(
        num_atoms=np.concatenate([one.num_atoms for one in several]),
        atomic_number=np.concatenate([one.atomic_number for one in several]),
        bonds=np.concatenate([one.bonds + first for one, first in zip(several, atoms, strict=False)]),
        coordinates=np.concatenate([one.coordinates for one in several]),
    )


def test_the_radii_are_those_of_rdkit() -> None:
    table = Chem.GetPeriodicTable()
    assert [float(radius) for radius in COVALENT_RADII.split()] == [
        table.GetRcovalent(number) for number in range(1, 119)
    ]


def test_each_conformer_is_judged_for_itself() -> None:
    molecule = embedded("CCO")
    good = molecule.GetConformer().GetPositions()
    not_finite, torn, bent = good.copy(), good.copy(), good.copy()
    not_finite[3, 1] = np.nan
    torn[0] += 5
    # The oxygen 1.4 Å from its carbon, but nearly upon the other one; its hydrogen goes with it.
    bent[[2, 8]] += bent[1] + 1.4 * (good[0] - good[1]) / np.linalg.norm(good[0] - good[1]) - good[2]
    pair = Chem.MolFromSmiles("CC")
    near = conformers_of(pair, np.array([[0, 0, 0], [0.6, 0, 0]]), np.array([[0, 0, 0], [1.54, 0, 0]]))
    everything = joined(near, conformers_of(molecule, good, not_finite, 0 * good, torn, bent), near)
    faults = find_faults(everything)
    names = [Fault(code).name for code in faults.code]
    assert names == [
        *("SHORT_BOND", "NONE"),
        *("NONE", "NOT_FINITE", "COINCIDENT", "LONG_BOND", "CLOSE"),
        *("SHORT_BOND", "NONE"),
    ]
    assert faults.describe(0) == "atoms 0 and 1 are bonded but lie only 0.60 Å apart"
    assert faults.atoms[6].tolist() == [0, 2]


def test_fluorines_upon_each_other_are_found_where_bonds_are_right() -> None:
    molecule = Chem.MolFromSmiles("F[P-](F)(F)(F)(F)F")
    octahedron = 1.6 * np.array([[1, 0, 0], [0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
    pressed = octahedron.astype(float)
    pressed[3] = 1.6 * np.array([np.cos(np.radians(40)), np.sin(np.radians(40)), 0])  # 1.09 Å from the first
    wide = pressed.copy()
    wide[3] = 1.6 * np.array([np.cos(np.radians(52)), np.sin(np.radians(52)), 0])  # 1.40 Å
    faults = find_faults(conformers_of(molecule, octahedron, pressed, wide))
    assert faults.code.tolist() == [Fault.NONE, Fault.CLOSE, Fault.SMALL_ANGLE]
    assert "1.09" in faults.describe(1)


@pytest.mark.parametrize("smiles", ["F[H-]F", "[BH2-]1[H+][BH2-][H+]1"])
def test_atoms_that_share_a_hydrogen_may_be_near(smiles: str) -> None:
    molecule = Chem.MolFromSmiles(smiles)
    if molecule.GetNumAtoms() == 3:
        positions = np.array([[-1.14, 0, 0], [0, 0, 0], [1.14, 0, 0]])
    else:
        positions = np.array([[-0.885, 0, 0], [0, 0.97, 0], [0.885, 0, 0], [0, -0.97, 0]])
    assert find_faults(conformers_of(molecule, positions)).code.tolist() == [Fault.NONE]


@pytest.mark.parametrize("smiles", ["c1ccccc1", "CCO", "C1CC2CCC1C2", "F[P-](F)(F)(F)(F)F", "OC(=O)c1ccccc1N"])
def test_a_depiction_is_drawn_and_a_flat_molecule_is_not(smiles: str) -> None:
    flat = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDepictor.Compute2DCoords(flat)
    positions = flat.GetConformer().GetPositions()
    turned = positions[::-1].copy()
    assert is_drawn(conformers_of(flat, positions, 0 * positions)).tolist() == [True, False]
    if smiles != "F[P-](F)(F)(F)(F)F":
        assert not is_drawn(conformers_of(flat, turned))[0]
        pressed = embedded(smiles).GetConformer().GetPositions()
        pressed[:, 2] = 0
        assert not is_drawn(conformers_of(flat, pressed))[0]


def platinum() -> Iterator[Chem.Mol]:
    with gzip.open(DATA / "conformers" / "platinum_diverse_dataset_2017_01.sdf.gz") as file:
        for number, molecule in enumerate(Chem.ForwardSDMolSupplier(file, removeHs=False)):
            if number % 8 == 0:
                yield molecule


def pcqm4mv2() -> Iterator[Chem.Mol]:
    parameters = Chem.SmilesParserParams()
    parameters.removeHs = False
    with (DATA / "pcqm4mv2" / "pcqm4mv2-2k.csv").open() as file:
        for row in list(csv.DictReader(file))[::4]:
            yield Chem.MolFromSmiles(row["smiles"], parameters)


def qm9() -> Iterator[Chem.Mol]:
    table = pq.read_table(DATA / "qm9" / "qm9_14k_labels_geometry.parquet", columns=["smiles", "atoms", "coords"])
    for row in table.slice(0, 14_000).to_pylist()[::20]:
        molecule = Chem.AddHs(Chem.MolFromSmiles(row["smiles"]))
        positions = np.array(row["coords"], np.float32).reshape(1, -1, 3)
        geometry = Geometry(symbols=tuple(row["atoms"]), positions=positions, origins=(1,))
        if (order := match_atoms(molecule, geometry)) is not None:
            add_conformer(molecule, positions[0][order])
            yield molecule


@shared
@pytest.mark.parametrize("source", [platinum, pcqm4mv2, qm9])
def test_no_measured_or_calculated_geometry_is_refused(source: object) -> None:
    molecules = [molecule for molecule in source() if molecule is not None]
    assert len(molecules) > 300
    faults = find_faults(joined(*(conformers_of(molecule) for molecule in molecules)))
    assert [faults.describe(at) for at in np.flatnonzero(faults.code)] == []
