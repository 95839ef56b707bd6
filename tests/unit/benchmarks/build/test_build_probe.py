"""What the builder's benchmark measures with: rates from samples, look-alike molecules, the record it compares with."""

import pickle

import numpy as np
import pytest
from rdkit import Chem

from benchmarks.build.plain_rdkit import conformers_plainly, curate_plainly, pickled_record
from benchmarks.build.probe import labelled, place_at_random, read_samples, steady_rate
from conformer_gen.chemistry.config import ConformerConfig, CurateConfig
from conformer_gen.chemistry.conformers import CuratedMolecule
from conformer_gen.chemistry.curate import Curated, curate_molecule
from conformer_gen.sources.molecule import SourceMolecule

SMILES = "CC(C)(C)OC(=O)N1C[C@@H]2OCC[C@]2(C(=O)O)C1"


def test_the_rate_is_that_of_the_middle() -> None:
    # Nothing for ten seconds, then 20 a second with idle samples in between, then a slow end.
    middle = [(10.0 + s, 50 * (s * 20 // 50)) for s in range(51)]
    samples = [(0.0, 0), *middle, (100.0, 1010), (200.0, 1020)]
    assert steady_rate(samples) == pytest.approx(20, rel=0.02)
    assert steady_rate([(0.0, 0), (1.0, 500), (2.0, 1000)]) is None


def test_samples_of_stages_are_told_apart_and_a_half_written_line_waits() -> None:
    lines = [
        '{"seconds": 0.5, "stage": "curating", "molecules": 3}',
        '{"seconds": 2, "stage": "generating conformers", "molecules": 1}',
    ]
    text = "\n".join([*lines, '{"seconds": 7, "st'])
    assert read_samples(text) == {"curating": [(0.5, 3)], "generating conformers": [(2, 1)]}


def test_labelled_molecules_are_all_different_to_curation() -> None:
    rows = [SourceMolecule(id=str(n), smiles=labelled(SMILES, 200 + n)) for n in range(5)]
    curated = [curate_molecule(row, CurateConfig()) for row in rows]
    assert len({result.smiles for result in curated if isinstance(result, Curated)}) == 5
    assert labelled("not a molecule", 200) == "not a molecule"


def test_the_plain_loops_do_the_builder_s_work() -> None:
    ours = curate_molecule(SourceMolecule(id="1", smiles=f"{SMILES}.Cl"), CurateConfig())
    plain = curate_plainly(f"{SMILES}.Cl")
    assert plain is not None
    assert isinstance(ours, Curated)
    assert plain[0] == ours.smiles
    assert curate_plainly("nonsense") is None
    embedded = conformers_plainly(SMILES)
    assert embedded.GetNumConformers() == 1
    assert embedded.GetNumAtoms() > embedded.GetNumHeavyAtoms()


def test_the_pickled_record_is_that_of_uni_mol() -> None:
    record = pickle.loads(pickled_record("CCO", 10))
    assert sorted(record) == ["atoms", "coordinates", "smi"]
    assert len(record["atoms"]) == 9
    assert [(array.shape, array.dtype) for array in record["coordinates"]] == [((9, 3), np.dtype("f4"))] * 11


def test_the_cheap_generator_keeps_the_graph() -> None:
    molecule = CuratedMolecule(id="1", smiles=SMILES, key=7, scaffold=8)
    record = place_at_random(molecule, ConformerConfig(), 0)
    assert len(record.atomic_number) == Chem.MolFromSmiles(SMILES).GetNumAtoms()
