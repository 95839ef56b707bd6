"""Which conformers a record keeps, in which order, and what it says of their stereo."""

import itertools

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdMolAlign

from conformer_gen.chemistry import rdkit_engine
from conformer_gen.chemistry.config import ConformerConfig
from conformer_gen.chemistry.conformers import ConformerFailure, CuratedMolecule, generate_conformers
from conformer_gen.chemistry.identity import stable_hash
from unimol_scale.errors import ConfigError
from unimol_scale.store.schema import ConformerOrigin, ConformerStereo, MoleculeRecord

FLEXIBLE = "CCCCCCO"
CHIRAL = "C[C@H](N)C(=O)O"


def result_of(smiles: str, given: np.ndarray | None = None, origin: ConformerOrigin = ConformerOrigin.FILE, **keys):
    origins = () if given is None else (origin,) * len(given)
    molecule = CuratedMolecule(
        id="x", smiles=smiles, key=stable_hash(smiles), scaffold=1, conformers=given, origins=origins
    )
    return generate_conformers(molecule, ConformerConfig(**keys), 0)


def record_of(smiles: str, **keys) -> MoleculeRecord:
    result = result_of(smiles, **keys)
    assert isinstance(result, MoleculeRecord), result
    return result


def best_rmsds(smiles: str, coordinates: np.ndarray) -> list[float]:
    """Return the deviation of every pair of conformers, Å, over all symmetries."""
    molecule = Chem.MolFromSmiles(smiles)
    for positions in coordinates:
        conformer = Chem.Conformer(molecule.GetNumAtoms())
        conformer.SetPositions(positions.astype(np.float64))
        molecule.AddConformer(conformer, assignId=True)
    pairs = itertools.combinations(range(len(coordinates)), 2)
    return [rdMolAlign.GetBestRMS(Chem.Mol(molecule), molecule, a, b) for a, b in pairs]


def test_conformers_come_in_order_of_energy_each_with_its_own_geometry() -> None:
    one = record_of(FLEXIBLE, count=6)
    assert (np.diff(one.energy) > 0).all()
    # The lowest alone, made by a window that only it is in, is the first of all.
    gap = float(one.energy[1] - one.energy[0])
    lowest = record_of(FLEXIBLE, count=6, energy_window=gap / 2)
    np.testing.assert_array_equal(lowest.coordinates, one.coordinates[:1])
    np.testing.assert_array_equal(lowest.energy, one.energy[:1])


def test_the_energy_window_leaves_out_what_lies_above_it() -> None:
    everything = record_of(FLEXIBLE, count=8)
    window = float(np.median(everything.energy - everything.energy[0]))
    kept = record_of(FLEXIBLE, count=8, energy_window=window)
    np.testing.assert_array_equal(kept.energy, everything.energy[everything.energy <= everything.energy[0] + window])
    assert 1 <= len(kept.coordinates) < 8


def test_without_energies_the_window_leaves_out_nothing() -> None:
    made = record_of("O=[As]O", count=2, energy_window=0.1)
    assert np.isnan(made.energy).all()
    assert len(made.coordinates) == 2


def test_pruned_conformers_are_further_apart_than_the_threshold() -> None:
    everything, kept = (record_of(FLEXIBLE, count=12, rmsd_prune=threshold) for threshold in (None, 0.7))
    assert 1 < len(kept.coordinates) < 12
    assert min(best_rmsds(FLEXIBLE, kept.coordinates)) > 0.7
    assert kept.energy[0] == everything.energy[0]
    # Whatever is gone was near to a kept one.
    for gone in set(range(12)) - set(np.flatnonzero(np.isin(everything.energy, kept.energy))):
        pairs = [best_rmsds(FLEXIBLE, np.stack([everything.coordinates[gone], other]))[0] for other in kept.coordinates]
        assert min(pairs) <= 0.7


def test_pruning_sees_through_symmetry() -> None:
    # Rigid; conformers differ by turns of the methyl and the rings alone, hydrogens and equivalent atoms aside.
    assert len(record_of("CC(c1ccccc1)(c1ccccc1)c1ccccc1", count=6, rmsd_prune=0.3).coordinates) == 1


def test_one_conformer_is_never_pruned() -> None:
    assert len(record_of(FLEXIBLE, rmsd_prune=5.0, energy_window=0.001).coordinates) == 1


@pytest.mark.parametrize(
    ("smiles", "stereo"), [(CHIRAL, ConformerStereo.AS_GIVEN), ("CC(N)C(=O)O", ConformerStereo.OPEN)]
)
def test_every_conformer_says_how_its_stereo_compares(smiles: str, stereo: ConformerStereo) -> None:
    assert record_of(smiles, count=2).conformer_stereo.tolist() == [stereo] * 2


def turning_over(monkeypatch: pytest.MonkeyPatch, which: slice) -> None:
    """Have the minimiser turn conformers into their mirror images, as a force field could."""
    minimise = rdkit_engine.minimise

    def minimise_and_turn(full: Chem.Mol, max_iterations: int):
        found = minimise(full, max_iterations)
        for conformer in list(full.GetConformers())[which]:
            conformer.SetPositions(-conformer.GetPositions())
        return found

    monkeypatch.setattr(rdkit_engine, "minimise", minimise_and_turn)


@pytest.mark.parametrize("turned", [0, 1, 2])
def test_conformers_whose_stereo_changed_are_dropped_or_flagged(turned: int, monkeypatch: pytest.MonkeyPatch) -> None:
    turning_over(monkeypatch, slice(turned, turned + 1))
    flagged = record_of(CHIRAL, count=3, stereo="keep")
    assert sorted(flagged.conformer_stereo.tolist()) == [0, 0, ConformerStereo.CHANGED]
    dropped = record_of(CHIRAL, count=3)
    intact = flagged.conformer_stereo == ConformerStereo.AS_GIVEN
    assert dropped.conformer_stereo.tolist() == [0, 0]
    np.testing.assert_array_equal(dropped.energy, flagged.energy[intact])
    np.testing.assert_array_equal(dropped.coordinates, flagged.coordinates[intact])


def test_a_molecule_all_of_whose_conformers_changed_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    turning_over(monkeypatch, slice(None))
    result = result_of(CHIRAL, count=2)
    assert isinstance(result, ConformerFailure)
    assert result.reason == "stereo_changed"


def test_geometry_of_a_file_is_flagged_and_never_dropped() -> None:
    made = record_of(CHIRAL, count=2, stereo="keep").coordinates
    given = np.stack([made[0], -made[1]])
    result = result_of(CHIRAL, given)
    assert isinstance(result, MoleculeRecord)
    assert result.conformer_stereo.tolist() == [ConformerStereo.AS_GIVEN, ConformerStereo.CHANGED]
    flat = result_of(CHIRAL, made[:1] * np.float32([1, 1, 0]), ConformerOrigin.FLAT)
    assert isinstance(flat, MoleculeRecord)
    assert flat.conformer_stereo.tolist() == [ConformerStereo.OPEN]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rmsd_prune": 0.0}, "rmsd_prune must be greater than 0"),
        ({"energy_window": -1.0}, "energy_window must be greater than 0"),
        ({"energy_window": float("nan")}, "energy_window must be greater than 0"),
        ({"gpus": ()}, "gpus must be"),
        ({"gpus": (0, 0)}, "gpus must be"),
    ],
)
def test_impossible_choices_are_refused(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ConformerConfig(**keys)
