"""Coordinates that come with a row belong to the right atoms of the canonical SMILES, or the row is rejected."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDepictor, rdDistGeom

from conformer_gen.chemistry.config import CurateConfig
from conformer_gen.chemistry.curate import Curated, Rejected, curate_molecule
from conformer_gen.sources.molecule import Geometry, SourceMolecule
from unimol_scale.store.schema import ConformerOrigin, Float32

MOLECULES = [
    "OC(=O)c1ccccc1N",
    "C[C@H](O)[C@@H](F)Cl",
    "C/C=C(/F)Cl",
    "C/C=C/C/C=C\\C",  # halves alike but for their stereo
    "C[C@H](O)C[C@@H](C)O",
    "C[C@H](O)CC[C@@H](C)O",
    "C1=CC=CC=CC=C1",  # alternating bonds: matched to the short ones
    "C1C2CC1C2",  # carbons across the cage lie within a long bond
    "[NH3+]CC([O-])=O",
    "O=[N+]([O-])c1ccco1",
]


def placed(smiles: str, seed: int = 7) -> Chem.Mol:
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(molecule, randomSeed=seed) == 0
    return molecule


def shuffled(molecule: Chem.Mol, seed: int = 0) -> Chem.Mol:
    return Chem.RenumberAtoms(molecule, np.random.default_rng(seed).permutation(molecule.GetNumAtoms()).tolist())


def geometry_of(*molecules: Chem.Mol, origin: ConformerOrigin = ConformerOrigin.DFT) -> Geometry:
    symbols = tuple(atom.GetSymbol() for atom in molecules[0].GetAtoms())
    positions = np.stack([molecule.GetConformer().GetPositions() for molecule in molecules]).astype(np.float32)
    return Geometry(symbols=symbols, positions=positions, origins=(origin,) * len(molecules))


def curate(**keys: object) -> Curated | Rejected:
    return curate_molecule(SourceMolecule(id="x", **keys), CurateConfig())


def lengths(smiles: str, positions: Float32) -> list[float]:
    """Bond lengths in the order of AddHs(MolFromSmiles)."""
    full = Chem.AddHs(Chem.MolFromSmiles(smiles))
    return [
        float(np.linalg.norm(positions[bond.GetBeginAtomIdx()] - positions[bond.GetEndAtomIdx()]))
        for bond in full.GetBonds()
    ]


def has_the_stereo_of(smiles: str, positions: Float32) -> bool:
    """Whether the coordinates have, atom by atom and bond by bond, the stereo that the SMILES gives."""
    given = Chem.AddHs(Chem.MolFromSmiles(smiles))
    placed = Chem.Mol(given)
    conformer = Chem.Conformer(placed.GetNumAtoms())
    conformer.SetPositions(positions.astype(float))
    placed.AddConformer(conformer)
    Chem.AssignStereochemistryFrom3D(placed)
    centres = [atom.GetIdx() for atom in given.GetAtoms() if str(atom.GetChiralTag()) != "CHI_UNSPECIFIED"]
    bonds = [bond.GetIdx() for bond in given.GetBonds() if str(bond.GetStereo()) != "STEREONONE"]
    return all(
        placed.GetAtomWithIdx(at).GetChiralTag() == given.GetAtomWithIdx(at).GetChiralTag() for at in centres
    ) and all(placed.GetBondWithIdx(at).GetStereo() == given.GetBondWithIdx(at).GetStereo() for at in bonds)


@pytest.mark.parametrize("smiles", MOLECULES)
@pytest.mark.parametrize("given", ["block", "extension", "geometry"])
def test_every_atom_keeps_its_place_in_space(smiles: str, given: str) -> None:
    original = placed(smiles)
    mixed = shuffled(original)
    keys: dict[str, object] = {"origin": ConformerOrigin.DFT}
    if given == "block":
        keys["block"] = Chem.MolToMolBlock(mixed, kekulize=True)
    elif given == "extension":
        keys["smiles"] = Chem.MolToCXSmiles(mixed)
    else:
        keys = {"smiles": smiles, "geometry": geometry_of(mixed)}
    result = curate(**keys)
    assert isinstance(result, Curated), result
    assert result.smiles == Chem.CanonSmiles(smiles)
    assert result.origins == (ConformerOrigin.DFT,)
    assert result.conformers is not None
    # Sorted lengths by bond kind say that bonds are bonds; a permuted atom would make one of them a wild length.
    expected = lengths(smiles, original.GetConformer().GetPositions())
    np.testing.assert_allclose(sorted(lengths(result.smiles, result.conformers[0])), sorted(expected), atol=2e-4)
    assert has_the_stereo_of(result.smiles, result.conformers[0])


@pytest.mark.parametrize("seed", range(5))
def test_double_bonds_are_laid_where_the_geometry_is_short(seed: int) -> None:
    smiles = "C1=CC=CC=CC=C1"
    original = placed(smiles)
    rolled = Chem.RenumberAtoms(original, [*range(1, 8), 0, *range(9, 16), 8])  # in order, but shifted by one bond
    result = curate(smiles=smiles, geometry=geometry_of(shuffled(rolled, seed)))
    assert isinstance(result, Curated)
    assert result.conformers is not None
    bonds = Chem.AddHs(Chem.MolFromSmiles(result.smiles)).GetBonds()
    measured = zip(bonds, lengths(result.smiles, result.conformers[0]), strict=True)
    double = [length for bond, length in measured if bond.GetBondType() == Chem.BondType.DOUBLE]
    assert len(double) == 4
    assert max(double) < 1.40


def test_all_conformers_of_a_geometry_are_kept_in_one_order() -> None:
    smiles = "OC(=O)c1ccccc1N"
    pair = [shuffled(placed(smiles, seed)) for seed in (1, 2)]
    result = curate(smiles=smiles, geometry=geometry_of(*pair))
    assert isinstance(result, Curated)
    assert result.conformers is not None
    assert result.conformers.shape == (2, 17, 3)
    for seed, positions in zip((1, 2), result.conformers, strict=True):
        alone = curate(smiles=smiles, geometry=geometry_of(shuffled(placed(smiles, seed))))
        assert isinstance(alone, Curated)
        np.testing.assert_allclose(alone.conformers[0][:10], positions[:10], atol=1e-5)


def test_a_geometry_that_is_not_of_its_smiles_is_rejected() -> None:
    ethanol, ether = placed("CCO"), placed("COC")
    for geometry in (geometry_of(ether), geometry_of(placed("CCN")), geometry_of(shuffled(ether))):
        result = curate(smiles="CCO", geometry=geometry)
        assert isinstance(result, Rejected)
        assert result.reason == "geometry_mismatch"
    torn = geometry_of(ethanol)
    torn.positions[0, 0] += 5
    assert isinstance(curate(smiles="CCO", geometry=torn), Rejected)
    beside = curate(smiles="CCN", block=Chem.MolToMolBlock(ethanol), origin=ConformerOrigin.DFT)
    assert isinstance(beside, Rejected)
    assert beside.reason == "geometry_mismatch"
    assert "C2H7N" in beside.detail
    assert "C2H6O" in beside.detail


def test_depictions_are_taken_in_the_order_of_the_smiles_and_only_so() -> None:
    flat = Chem.AddHs(Chem.MolFromSmiles("OCC"))
    rdDepictor.Compute2DCoords(flat)
    result = curate(smiles="OCC", geometry=geometry_of(flat, origin=ConformerOrigin.FLAT))
    assert isinstance(result, Curated)
    assert result.origins == (ConformerOrigin.FLAT,)
    mixed = geometry_of(shuffled(flat), origin=ConformerOrigin.FLAT)
    assert isinstance(curate(smiles="OCC", geometry=mixed), Rejected)


def test_only_the_coordinates_of_the_fragment_that_is_kept_stay() -> None:
    kept = placed("OCC(N)=O")
    salt = Chem.CombineMols(placed("Cl"), kept)
    result = curate(block=Chem.MolToMolBlock(salt), origin=ConformerOrigin.FILE)
    assert isinstance(result, Curated)
    assert result.smiles == "NC(=O)CO"
    assert result.conformers is not None
    assert result.conformers.shape == (1, 10, 3)
    expected = lengths("OCC(N)=O", kept.GetConformer().GetPositions())
    np.testing.assert_allclose(sorted(lengths(result.smiles, result.conformers[0])), sorted(expected), atol=2e-4)


def test_a_record_without_hydrogens_keeps_its_heavy_atoms() -> None:
    block = Chem.MolToMolBlock(Chem.RemoveHs(placed("OCC")))
    result = curate(block=block, origin=ConformerOrigin.FILE)
    assert isinstance(result, Curated)
    assert result.conformers is not None
    assert result.conformers.shape == (1, 3, 3)


def test_a_calculation_has_no_hydrogens_but_those_in_its_record() -> None:
    molecule = Chem.RWMol(placed("Oc1cc[nH]c1"))
    Chem.Kekulize(molecule, clearAromaticFlags=True)
    molecule.RemoveAtom(int(molecule.GetAtomWithIdx(4).GetNeighbors()[-1].GetIdx()))
    block = Chem.MolToMolBlock(molecule)
    result = curate(block=block, origin=ConformerOrigin.DFT)
    if isinstance(result, Curated):
        assert Chem.AddHs(Chem.MolFromSmiles(result.smiles)).GetNumAtoms() == molecule.GetNumAtoms()
    else:
        assert result.reason == "radical"
    filled = curate(block=block, origin=ConformerOrigin.FILE)  # elsewhere, hydrogens may be left out
    assert isinstance(filled, Curated)
    assert filled.smiles == "Oc1cc[nH]c1"


def test_a_record_without_a_third_dimension_is_not_taken_for_geometry() -> None:
    block = Chem.MolToMolBlock(Chem.MolFromSmiles("CCO"))
    collapsed = placed("CCO")
    collapsed.GetConformer().SetPositions(np.full((9, 3), 1.0))
    for record in (block, Chem.MolToMolBlock(collapsed)):
        result = curate(block=record, origin=ConformerOrigin.FILE)
        assert isinstance(result, Rejected)
        assert result.reason == "no_geometry"


def test_a_row_whose_reading_found_a_problem_is_rejected_with_it() -> None:
    result = curate(smiles="CCO", problem="tranche.smi.gz ends early")
    assert result == Rejected(reason="unreadable_row", detail="tranche.smi.gz ends early")


def test_each_conformer_of_a_row_is_judged_by_itself() -> None:
    good = placed("OC(=O)c1ccccc1N")
    flat = Chem.Mol(good)
    rdDepictor.Compute2DCoords(flat)
    geometry = geometry_of(good, good, good, good, flat)
    positions = geometry.positions.copy()
    positions[0] = 0  # as Uni-Mol fills in where it could make no conformer
    positions[1] = 2.5
    positions[2] = positions[2, ::-1]
    origins = (ConformerOrigin.FLAT, *[ConformerOrigin.FILE] * 3, ConformerOrigin.FLAT)
    result = curate(
        smiles="OC(=O)c1ccccc1N", geometry=Geometry(symbols=geometry.symbols, positions=positions, origins=origins)
    )
    assert isinstance(result, Curated)
    assert result.origins == (ConformerOrigin.FILE, ConformerOrigin.FLAT)
    assert result.left_out == 3
    assert result.conformers is not None
    expected = lengths("OC(=O)c1ccccc1N", positions[3])
    np.testing.assert_allclose(sorted(lengths(result.smiles, result.conformers[0])), sorted(expected), atol=2e-4)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda positions: 0 * positions,
        lambda positions: 0 * positions + 3,
        lambda positions: positions[::-1],
        lambda positions: np.where(np.arange(len(positions))[:, None] == 4, np.nan, positions),
        lambda positions: 3 * positions,
        lambda positions: positions * [1, 1, 0],
    ],
)
@pytest.mark.parametrize("given", ["block", "extension", "geometry"])
def test_coordinates_that_cannot_be_the_molecule_are_no_conformer(
    spoil: Callable[[Float32], Float32], given: str
) -> None:
    smiles = "CC(C)(O)c1ccco1"
    molecule = placed(smiles)
    positions = spoil(molecule.GetConformer().GetPositions())
    flat = not np.abs(positions[:, 2]).max() > 0
    if given == "geometry":
        geometry = geometry_of(molecule, origin=ConformerOrigin.FLAT if flat else ConformerOrigin.FILE)
        row = {"smiles": smiles, "geometry": replace(geometry, positions=positions[None].astype(np.float32))}
    elif np.isnan(positions).any():
        return  # neither form can write it
    else:
        molecule.GetConformer().SetPositions(np.ascontiguousarray(positions, dtype=float))
        block = Chem.MolToMolBlock(molecule)
        row = {"block": block} if given == "block" else {"smiles": Chem.MolToCXSmiles(molecule)}
        row |= {"origin": ConformerOrigin.DFT}
    result = curate(**row)
    assert isinstance(result, Rejected), result
    assert result.reason in ("geometry_mismatch", "no_geometry")
    assert result.detail


@pytest.mark.parametrize("smiles", ["c1ccccc1", "C=C", "O=C1C=CC(=O)C=C1", "FC(F)=C(F)F"])
def test_a_flat_molecule_is_no_depiction(smiles: str) -> None:
    molecule = placed(smiles)
    positions = molecule.GetConformer().GetPositions()
    axes = np.linalg.svd(positions - positions.mean(axis=0))[2]
    level = (positions - positions.mean(axis=0)) @ axes.T * [1, 1, 0]
    drawn = Chem.Mol(molecule)
    rdDepictor.Compute2DCoords(drawn)
    for shuffle in (False, True):
        geometry = geometry_of(molecule, drawn, origin=ConformerOrigin.FLAT)
        geometry.positions[0] = level
        if shuffle:
            order = np.random.default_rng(3).permutation(len(positions))
            symbols = tuple(geometry.symbols[at] for at in order)
            geometry = Geometry(symbols=symbols, positions=geometry.positions[:, order], origins=geometry.origins)
        result = curate(smiles=smiles, geometry=geometry)
        assert isinstance(result, Curated), result
        assert result.origins == (ConformerOrigin.FILE, ConformerOrigin.FLAT)


def test_a_depiction_that_claims_to_be_solid_is_rejected() -> None:
    drawn = Chem.MolFromSmiles("OC(=O)c1ccccc1N")
    rdDepictor.Compute2DCoords(drawn)
    drawn.GetConformer().Set3D(True)
    result = curate(block=Chem.MolToMolBlock(drawn), origin=ConformerOrigin.FILE)
    assert isinstance(result, Rejected)
    assert result.reason == "no_geometry"


ISOMERS = [
    ("CCCO", "CC(C)O"),
    ("CC(C)O", "COCC"),
    ("CC=CCO", "C=CCCO"),  # the same skeleton, hydrogens elsewhere
    ("C[C@H](F)Cl", "C[C@@H](F)Cl"),
    ("C/C=C/CO", "C/C=C\\CO"),
    ("C[C@H](O)[C@H](F)Cl", "C[C@H](O)[C@@H](F)Cl"),
]


@pytest.mark.parametrize(("smiles", "record"), [*ISOMERS, *(pair[::-1] for pair in ISOMERS)])
def test_the_record_of_an_isomer_is_not_taken_for_the_molecule(smiles: str, record: str) -> None:
    block = Chem.MolToMolBlock(shuffled(placed(record)))
    result = curate(smiles=smiles, block=block, origin=ConformerOrigin.DFT)
    assert isinstance(result, Rejected), result
    assert result.reason == "geometry_mismatch"


@pytest.mark.parametrize(
    ("smiles", "record"),
    [
        ("CC(F)Cl", "C[C@H](F)Cl"),  # open in the SMILES
        ("CC=CCO", "C/C=C\\CO"),
        ("C[C@H](F)Cl", "C[C@H](F)Cl"),
        ("O[C@@H]1CC[C@H](O)CC1", "O[C@@H]1CC[C@H](O)CC1"),
        ("C[C@H](O)C[C@@H](C)O", "C[C@@H](O)C[C@H](C)O"),  # meso: one molecule
        ("O=[N+]([O-])c1ccco1", "O=[N+]([O-])c1ccco1"),
        ("[O-][n+]1ccccc1C", "Cc1cccc[n+]1[O-]"),
        ("CC(=O)NCC1CC1", "CC(=O)NCC1CC1"),
        ("[2H]C(F)Cl", "[2H]C(F)Cl"),
    ],
)
def test_the_record_of_the_molecule_is_taken_whatever_its_atom_order(smiles: str, record: str) -> None:
    for seed in range(3):
        block = Chem.MolToMolBlock(shuffled(placed(record), seed))
        result = curate(smiles=smiles, block=block, origin=ConformerOrigin.DFT)
        assert isinstance(result, Curated), result


def test_a_record_with_too_few_double_bonds_is_that_of_its_molecule() -> None:
    wrong = Chem.RWMol(shuffled(placed("Cc1ccoc1")))
    Chem.Kekulize(wrong, clearAromaticFlags=True)
    for bond in wrong.GetBonds():  # as in one in ten records of PCQM4Mv2
        bond.SetBondType(Chem.BondType.SINGLE)
    for atom in wrong.GetAtoms():
        atom.SetNoImplicit(True)
    result = curate(smiles="Cc1ccoc1", block=Chem.MolToMolBlock(wrong), origin=ConformerOrigin.DFT)
    assert isinstance(result, Curated), result
