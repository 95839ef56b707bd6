"""What makes two molecules two: hydrogens that nothing implies, isotopes, racemates and the turn of an axis."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolTransforms
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from conformer_gen.chemistry.atropisomers import axes_of
from conformer_gen.chemistry.config import ConformerConfig, CurateConfig
from conformer_gen.chemistry.conformers import CuratedMolecule, generate_conformers
from conformer_gen.chemistry.curate import Curated, Rejected, curate_molecule
from conformer_gen.chemistry.geometry import parse_smiles
from conformer_gen.chemistry.identity import stable_hash
from conformer_gen.sources.molecule import SourceMolecule
from unimol_scale.store.schema import ConformerOrigin, ConformerStereo, MoleculeRecord

BINOL = "Oc1ccc2ccccc2c1-c1c(O)ccc2ccccc12"
AXES = [
    f"{BINOL} |wU:10.10|",
    f"{BINOL} |wD:10.10|",
    "Cc1cccc(F)c1-c1c(Br)cccc1C(=O)O |wU:7.7|",
    "Cc1cccc(I)c1N1C(=O)C=CC1=S |wU:7.7|",
    "Cc1cccc(F)c1-c1cc(C)c(-c2c(C)cccc2F)cc1C |wU:7.7,wU:12.12|",
    "Cc1cccc(F)c1-c1cc(C)c(-c2c(C)cccc2F)cc1C |wU:7.7,wD:12.12|",
]


def curate(smiles: str = "", block: str = "", **keys: object) -> Curated | Rejected:
    origin = ConformerOrigin.FILE if block else None
    return curate_molecule(SourceMolecule(id="x", smiles=smiles, block=block, origin=origin), CurateConfig(**keys))


def curated(smiles: str = "", block: str = "", **keys: object) -> Curated:
    result = curate(smiles, block, **keys)
    assert isinstance(result, Curated), result
    return result


def record(molecule: Curated, **keys: object) -> MoleculeRecord:
    result = generate_conformers(
        CuratedMolecule(
            id="x",
            smiles=molecule.smiles,
            key=stable_hash(molecule.smiles),
            scaffold=1,
            conformers=molecule.conformers,
            origins=molecule.origins,
        ),
        ConformerConfig(**keys),
        0,
    )
    assert isinstance(result, MoleculeRecord), result
    return result


def block_of(smiles: str, seed: int = 1, shuffle: int | None = None) -> str:
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(molecule, randomSeed=seed) == 0
    if shuffle is not None:
        order = np.random.default_rng(shuffle).permutation(molecule.GetNumAtoms()).tolist()
        molecule = Chem.RenumberAtoms(molecule, order)
    return str(Chem.MolToV3KMolBlock(molecule))


@pytest.mark.parametrize(
    ("smiles", "hydrogens"),
    [
        ("F[H-]F", 1),
        ("[BH2-]1[H+][BH2-][H+]1", 2),
        ("[Fe+2]<-[H-]", 1),
        ("[H-]->[Mg+2]<-[H-]", 2),
        ("[Na+]", 0),
        ("[H]O[H]", 0),
        ("[H][Fe]", 0),
        ("[H]/N=C/F", 0),
        ("[H:1]C([F:2])Cl", 0),
    ],
)
@pytest.mark.parametrize("as_block", [False, True])
def test_removing_hydrogens_leaves_the_molecule_what_it_is(smiles: str, hydrogens: int, as_block: bool) -> None:
    molecule = Chem.MolFromSmiles(smiles)
    result = curated(block=block_of(smiles)) if as_block else curated(smiles)
    stored = Chem.MolFromSmiles(result.smiles)
    assert CalcMolFormula(stored) == CalcMolFormula(molecule)  # charge included
    assert len(Chem.GetMolFrags(stored)) == 1
    made = record(result)
    assert np.count_nonzero(made.atomic_number == 1) == hydrogens
    assert len(made.atomic_number) == stored.GetNumAtoms()
    assert len(made.bond_index) == stored.GetNumBonds()
    if as_block:
        assert made.conformer_origin.tolist() == [ConformerOrigin.FILE]


@pytest.mark.parametrize("smiles", ["[H]C([H])([H])[H-]", "[H]C([H])([H])[H+]", "[H]C([H])([H])[2H-]"])
def test_beside_a_charged_hydrogen_all_hydrogens_stay_when_a_smiles_is_read(smiles: str) -> None:
    read = parse_smiles(smiles)
    assert isinstance(read, Chem.Mol)
    assert read.GetNumAtoms() == smiles.count("H") + 1
    without = parse_smiles(smiles.replace("-]", "]").replace("+]", "]"))
    assert isinstance(without, Chem.Mol)
    assert without.GetNumAtoms() < read.GetNumAtoms()


@pytest.mark.parametrize("smiles", ["C[H+]", "[O-][H+]"])
def test_a_proton_that_would_vanish_with_its_charge_is_a_reason_to_reject(smiles: str) -> None:
    result = curate(smiles)
    assert isinstance(result, Rejected)
    assert result.reason == "hydrogens_matter"
    assert "becomes" in result.detail


def test_a_labelled_compound_is_another_molecule_unless_labels_are_to_go() -> None:
    labelled, plain, carbon = "[2H]C([2H])([2H])Oc1ccccc1", "COc1ccccc1", "CO[13c]1ccccc1"
    kept = [curated(smiles) for smiles in (labelled, plain, carbon)]
    assert len({one.smiles for one in kept}) == 3
    assert {one.scaffold_smiles for one in kept} == {"c1ccccc1"}  # of one scaffold, so on one side of a split
    made = record(kept[0])
    assert made.atomic_number.tolist().count(1) == 3
    assert made.smiles == labelled
    removed = [curated(smiles, isotopes="remove").smiles for smiles in (labelled, plain, carbon)]
    assert set(removed) == {plain}
    assert curated("[H][C@]([2H])(F)Br").smiles == "[2H][C@@H](F)Br"
    assert curated("[H][C@]([2H])(F)Br", isotopes="remove").smiles == "FCBr"


def test_the_coordinates_of_a_labelled_compound_belong_to_its_atoms() -> None:
    smiles = "[2H]C([2H])([2H])[C@H](F)Cl"
    for seed in range(3):
        result = curated(block=block_of(smiles, shuffle=seed))
        assert result.smiles == Chem.CanonSmiles(smiles)
        made, full = record(result), record(result, hydrogens=True)
        assert made.conformer_stereo.tolist() == [ConformerStereo.AS_GIVEN]
        ends = made.coordinates[0][made.bond_index.astype(int)]
        lengths = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
        assert lengths.max() < 1.9
        np.testing.assert_array_equal(full.atomic_number[: len(made.atomic_number)], made.atomic_number)
        assert len(full.atomic_number) == 8


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        ("C[C@H](O)CC |&1:1|", "CC[C@H](C)O |&1:2|"),
        ("C[C@@H](O)CC |&7:1,r|", "CC[C@H](C)O |&1:2|"),
        ("C[C@H](O)CC |o1:1|", "CC[C@H](C)O |o1:2|"),
        ("C[C@H](O)CC |a:1|", "CC[C@H](C)O"),
        ("C[C@H](O)[C@@H](F)Cl |&1:1,3|", "C[C@H](O)[C@@H](F)Cl |&1:1,3|"),
        ("F[C@@H](Cl)[C@H](C)[OH:4].Cl |&3:1,3|", "C[C@H](O)[C@@H](F)Cl |&1:1,3|"),
    ],
)
def test_a_racemate_is_told_from_its_enantiomers_and_its_stereo_is_open(smiles: str, expected: str) -> None:
    result = curated(smiles)
    assert result.smiles == expected
    assert curated(result.smiles).smiles == expected
    open_ = "&" in expected or "o" in expected.partition("|")[2]
    stereo = ConformerStereo.OPEN if open_ else ConformerStereo.AS_GIVEN
    assert record(result, count=2).conformer_stereo.tolist() == [stereo] * 2


@pytest.mark.parametrize("smiles", ["C[C@H](O)CC |&1:1|", "C[C@H](O)[C@@H](F)Cl |o1:1,3|"])
def test_a_racemate_in_an_sdf_is_the_same_molecule_whichever_enantiomer_is_drawn(smiles: str) -> None:
    results = [curated(block=block_of(one)) for one in (smiles, Chem.MolToCXSmiles(mirrored(smiles)))]
    assert {result.smiles for result in results} == {curated(smiles).smiles}
    assert [record(result).conformer_stereo.tolist() for result in results] == [[ConformerStereo.OPEN]] * 2


def mirrored(smiles: str) -> Chem.Mol:
    molecule = Chem.MolFromSmiles(smiles)
    for atom in molecule.GetAtoms():
        atom.InvertChirality()
    return molecule


@pytest.mark.parametrize("smiles", AXES)
def test_an_axis_has_one_text_whatever_the_atom_order_and_is_turned_as_it_says(smiles: str) -> None:
    result = curated(smiles)
    assert curated(result.smiles).smiles == result.smiles
    for seed in range(4):
        from_block = curated(block=block_of(smiles, shuffle=seed))
        assert from_block.smiles == result.smiles
        assert record(from_block).conformer_stereo.tolist() == [ConformerStereo.AS_GIVEN]
    made = record(result, count=3)
    assert made.conformer_stereo.tolist() == [ConformerStereo.AS_GIVEN] * 3
    molecule = Chem.MolFromSmiles(made.smiles)
    axes = axes_of(molecule)
    assert len(axes) == len(axes_of(Chem.MolFromSmiles(smiles))) > 0
    for positions in made.coordinates:
        conformer = Chem.Conformer(molecule.GetNumAtoms())
        conformer.SetPositions(positions.astype(float))
        for axis in axes:
            angle = rdMolTransforms.GetDihedralDeg(conformer, *axis[:4])
            assert np.sign(angle) == axis.turn
            assert 40 < abs(angle) < 140


def test_atropisomers_are_as_many_molecules_as_there_are() -> None:
    assert len({curated(smiles).smiles for smiles in [*AXES, BINOL]}) == len(AXES) + 1
    other_way = record(curated(AXES[0]), count=1)
    flipped = CuratedMolecule(
        id="x",
        smiles=curated(AXES[1]).smiles,
        key=1,
        scaffold=1,
        conformers=other_way.coordinates,
        origins=(ConformerOrigin.FILE,),
    )
    result = generate_conformers(flipped, ConformerConfig(), 0)
    assert isinstance(result, MoleculeRecord)
    assert result.conformer_stereo.tolist() == [ConformerStereo.CHANGED]


def test_what_of_stereo_cannot_be_kept_is_rejected() -> None:
    result = curate(f"{BINOL} |wU:10.10,&1:10,11|")
    assert isinstance(result, Rejected)
    assert result.reason == "relative_axis"
    unread = curate("CCO |foo|")
    assert isinstance(unread, Rejected)
    assert "extension" in unread.detail
