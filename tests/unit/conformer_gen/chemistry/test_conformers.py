"""One molecule in, one record or one typed failure out."""

import numpy as np
import pytest
from rdkit import Chem

from conformer_gen.chemistry import rdkit_engine
from conformer_gen.chemistry.config import ConformerConfig
from conformer_gen.chemistry.conformers import ConformerFailure, CuratedMolecule, generate_conformers
from conformer_gen.chemistry.identity import stable_hash
from unimol_scale.errors import ConfigError
from unimol_scale.store.schema import ConformerOrigin, Float32, Layout, MoleculeRecord, UInt8, encode

CONFIG = ConformerConfig()
DRUG = "CC(=O)Nc1ccc(O)cc1"


def molecule(smiles: str, **keys: object) -> CuratedMolecule:
    return CuratedMolecule(id="x", smiles=smiles, key=stable_hash(smiles), scaffold=1, **keys)


def record(smiles: str, config: ConformerConfig = CONFIG, seed: int = 0) -> MoleculeRecord:
    result = generate_conformers(molecule(smiles), config, seed)
    assert isinstance(result, MoleculeRecord), result
    return result


def test_a_record_has_the_geometry_of_its_molecule() -> None:
    made = record(DRUG)
    basis = Chem.MolFromSmiles(DRUG)
    assert made.atomic_number.tolist() == [atom.GetAtomicNum() for atom in basis.GetAtoms()]
    assert made.conformer_origin.tolist() == [ConformerOrigin.MMFF]
    assert np.isfinite(made.energy).all()
    np.testing.assert_allclose(made.coordinates.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(made.planar_coordinates.mean(axis=0), 0, atol=1e-5)
    ends = made.coordinates[0][made.bond_index.astype(int)]
    lengths = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
    assert ((lengths > 1.15) & (lengths < 1.6)).all()  # Å, bonds between C, N and O


def test_the_seed_and_the_molecule_decide_and_nothing_else() -> None:
    first, again, other = record(DRUG), record(DRUG), record(DRUG, seed=1)
    np.testing.assert_array_equal(first.coordinates, again.coordinates)
    assert not np.array_equal(first.coordinates, other.coordinates)


def test_several_conformers_differ() -> None:
    made = record("CCCCCCO", ConformerConfig(count=3))
    assert made.coordinates.shape == (3, 7, 3)
    assert len(np.unique(made.energy)) == 3


def test_hydrogens_come_after_the_heavy_atoms_if_asked_for() -> None:
    made = record("CO", ConformerConfig(hydrogens=True))
    assert made.atomic_number.tolist() == [6, 8, 1, 1, 1, 1]
    assert made.coordinates.shape == (1, 6, 3)


@pytest.mark.parametrize(
    ("smiles", "origin"),
    [("C[Se]C", ConformerOrigin.UFF), ("CCO", ConformerOrigin.MMFF)],
)
def test_the_origin_says_which_force_field_had_parameters(smiles: str, origin: ConformerOrigin) -> None:
    assert record(smiles).conformer_origin.tolist() == [origin]


def test_without_any_force_field_the_geometry_of_etkdg_stays_and_has_no_energy() -> None:
    made = record("O=[As]O")
    assert made.conformer_origin.tolist() == [ConformerOrigin.ETKDG]
    assert np.isnan(made.energy).all()


def test_stopping_early_is_recorded_as_not_converged() -> None:
    made = record("CCCCCCCCCC(=O)NCCCCCCO", ConformerConfig(max_iterations=2))
    assert made.conformer_origin.tolist() == [ConformerOrigin.MMFF_UNCONVERGED]


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("N#[C][Co]([C]#N)([C]#N)([C]#N)([C]#N)[C]#N", "no_conformer"),
        ("C1=[N+]2CC[N+]3=Cc4ccccc4[O][Zn]23[O]c2ccccc21", "no_conformer"),
        ("this is no SMILES", "not_reparsed"),
    ],
)
def test_what_gets_no_conformer_is_a_failure_with_a_reason(smiles: str, reason: str) -> None:
    result = generate_conformers(molecule(smiles), CONFIG, 0)
    assert isinstance(result, ConformerFailure)
    assert result.reason == reason
    assert result.detail


def test_geometry_from_the_file_is_kept_and_centred() -> None:
    given = np.array([[0, 0, 0], [1.5, 0, 0], [2.0, 1.4, 0]], np.float32)
    result = generate_conformers(molecule("CCO", conformers=given[None], origins=(ConformerOrigin.FILE,)), CONFIG, 0)
    assert isinstance(result, MoleculeRecord)
    np.testing.assert_allclose(result.coordinates[0], given - given.mean(axis=0), atol=1e-6)
    assert result.conformer_origin.tolist() == [ConformerOrigin.FILE]
    assert np.isnan(result.energy).all()


def test_a_depiction_stands_in_for_the_conformer_and_says_so() -> None:
    made = record(DRUG, ConformerConfig(engine="depiction"))
    assert made.conformer_origin.tolist() == [ConformerOrigin.FLAT]
    assert np.isnan(made.energy).all()
    np.testing.assert_array_equal(made.coordinates[0, :, 2], 0)
    np.testing.assert_array_equal(made.coordinates[0, :, :2], made.planar_coordinates)
    np.testing.assert_array_equal(made.planar_coordinates, record(DRUG).planar_coordinates)
    assert made.atomic_number.tolist() == record(DRUG).atomic_number.tolist()


def test_a_depiction_needs_no_conformer_to_exist() -> None:
    impossible = "C1=C2CC1=C2"  # no distance geometry satisfies it
    assert isinstance(generate_conformers(molecule(impossible), CONFIG, 0), ConformerFailure)
    assert record(impossible, ConformerConfig(engine="depiction")).coordinates.shape == (1, 5, 3)


def test_a_long_chain_is_drawn_at_full_length() -> None:
    config = ConformerConfig(engine="depiction")
    made = record("C" * 100, config)
    assert np.abs(made.coordinates).max() > 50
    batch = encode([made], Layout(config.coordinate_scale))
    stored = np.array(batch["coordinates"].to_pylist()[0]) * config.coordinate_scale
    np.testing.assert_allclose(stored, made.coordinates[0], atol=config.coordinate_scale)


@pytest.mark.parametrize(("wrong", "reason"), [(np.nan, "not_finite"), (100.0, "out_of_range")])
def test_coordinates_that_can_not_be_stored_are_a_failure(wrong: float, reason: str) -> None:
    given = np.array([[0, 0, 0], [1.5, 0, 0], [2.0, wrong, 0]], np.float32)
    result = generate_conformers(molecule("CCO", conformers=given[None], origins=(ConformerOrigin.FILE,)), CONFIG, 0)
    assert isinstance(result, ConformerFailure)
    assert result.reason == reason


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="1 to 255"):
        ConformerConfig(count=0)
    with pytest.raises(ConfigError, match="at least 1"):
        ConformerConfig(timeout_s=0)
    with pytest.raises(ConfigError, match="one conformer"):
        ConformerConfig(engine="depiction", count=2)


@pytest.mark.parametrize(
    "smiles",
    [
        "F[P-](F)(F)(F)(F)F",
        "FS(F)(F)(F)(F)c1ccccc1",
        "FS(F)(F)(F)(F)F",
        "FP(F)(F)(F)F",
        "F[Te](F)(F)(F)(F)F",
        "[F][Al-3]([F])([F])([F])([F])[F]",
    ],
)
def test_neighbours_of_a_crowded_atom_keep_apart(smiles: str) -> None:
    made = record(smiles, ConformerConfig(count=2))
    fluorine = np.flatnonzero(made.atomic_number == 9)
    for positions in made.coordinates:
        between = np.linalg.norm(positions[fluorine][:, None] - positions[fluorine][None], axis=-1)
        assert between[np.triu_indices(len(fluorine), 1)].min() > 1.5  # Å; 2.2 and more in these molecules
    has_energy = made.conformer_origin != ConformerOrigin.ETKDG
    assert (np.abs(made.energy[has_energy]) < 1e4).all()
    assert np.isnan(made.energy[~has_energy]).all()


def test_a_molecule_whose_conformers_all_clash_fails_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(full: Chem.Mol, max_iterations: int) -> tuple[UInt8, Float32]:
        for conformer in full.GetConformers():
            conformer.SetPositions(0.5 * conformer.GetPositions())
        return np.full(full.GetNumConformers(), ConformerOrigin.UFF, np.uint8), np.full(
            full.GetNumConformers(), 1e9, np.float32
        )

    starts = []
    place = rdkit_engine.place

    def placed(full: Chem.Mol, **keys: object) -> str:
        starts.append(keys.get("starts"))
        problem = place(full, **keys)
        for conformer in full.GetConformers():
            conformer.SetPositions(0.5 * conformer.GetPositions())
        return problem

    monkeypatch.setattr(rdkit_engine, "minimise", pressed)
    made = record(DRUG)  # the force field spoils it: that of ETKDG stays
    assert made.conformer_origin.tolist() == [ConformerOrigin.ETKDG]
    assert np.isnan(made.energy).all()
    monkeypatch.setattr(rdkit_engine, "place", placed)
    result = generate_conformers(molecule(DRUG), CONFIG, 0)
    assert isinstance(result, ConformerFailure)
    assert result.reason == "clash"
    assert "are bonded but lie only 0." in result.detail
    assert len(starts) > 3


@pytest.mark.parametrize("energy", [np.nan, np.inf, 1e9])
def test_an_energy_that_is_none_is_not_stored(energy: float, monkeypatch: pytest.MonkeyPatch) -> None:
    minimise = rdkit_engine.minimise

    def spoilt(full: Chem.Mol, max_iterations: int) -> tuple[UInt8, Float32]:
        origin, energies = minimise(full, max_iterations)
        energies[0] = energy
        return origin, energies

    monkeypatch.setattr(rdkit_engine, "minimise", spoilt)
    made = record("CCCCCCO", ConformerConfig(count=3))
    assert made.coordinates.shape[0] == 2
    assert np.isfinite(made.energy).all()
