"""Rows of a table as micro-batches: the molecules are pretraining's, and every label stays with its row."""

import numpy as np
import pytest
import torch
from tests.helpers.tiny_finetuning import CARBON, MOLECULES, TINY, column, fitting, prepared

from conformer_gen.chemistry.config import CurateConfig
from conformer_gen.chemistry.curate import curate_molecule
from conformer_gen.chemistry.config import ConformerConfig
from conformer_gen.sources.molecule import SourceMolecule
from unimol_scale.data.input_views import STANDARD_VIEWS
from unimol_scale.data.molecule_reader import MoleculeReader
from unimol_scale.data.steps.random_streams import MoleculeKeys
from unimol_scale.downstream.data.batches import SampleMaker, RowReader, each_row_once, training_batches
from unimol_scale.downstream.data.conformer_cache import Given, cached_store
from unimol_scale.downstream.data.molecules import prepare
from unimol_scale.errors import ConfigError
from unimol_scale.store.shards import open_store

CPU = torch.device("cpu")
GRAPH = SampleMaker(view=STANDARD_VIEWS["2d"], model=TINY)


@pytest.fixture(scope="module")
def molecules(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("cache"))


def keys(rows):
    rows = np.array(rows, np.int64)
    return MoleculeKeys(seed=0, epoch_B=np.zeros_like(rows), molecule_B=rows)


def test_a_batch_is_what_pretraining_reads_of_the_same_molecules(tmp_path):
    made = prepare(MOLECULES[:8], cache=tmp_path, geometry=True, max_atoms=None, workers=1)
    (store,) = tmp_path.glob("*/store")
    chosen = np.array([6, 3, 1, 3])
    mine = RowReader(made.split, made.position_M[chosen], column([1, 2, 3, 4])).read(keys([0, 1, 2, 3]))
    theirs = MoleculeReader(open_store(store), "train", conformers="first").read(keys(made.position_M[chosen]))
    for name in ("atomic_number_BA", "atom_features_BA8", "bond_features_BAA3", "path_BAA", "coordinates_BA3"):
        assert np.array_equal(getattr(mine, name), getattr(theirs, name)), name
    assert mine.coordinates_BA3[..., 2].any()
    assert mine.labels_BL[:, 0].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("max_pairs", [200, 400, 40_000])
def test_labels_follow_their_rows_however_they_are_cut(molecules, max_pairs):
    # The label is the molecule's size, so a label that strays is seen in the batch itself.
    order = np.random.default_rng(0).permutation(len(MOLECULES))
    position_R = molecules.position_M[order]
    sizes = molecules.split.sizes(position_R)[0]
    reader = RowReader(molecules.split, position_R, column(sizes))
    seen = []
    for sample in each_row_once(reader, GRAPH, max_pairs, CPU):
        assert sample.input.valid_BA.sum(1).tolist() == sample.label_BL[:, 0].tolist()
        assert sizes[sample.row_B.numpy()].tolist() == sample.label_BL[:, 0].tolist()
        B, A = sample.input.valid_BA.shape
        assert max_pairs >= B * (A + 1) ** 2
        seen += sample.row_B.tolist()
    assert sorted(seen) == list(range(len(MOLECULES)))


def test_rows_of_one_molecule_keep_labels_of_their_own(tmp_path):
    made = prepared(tmp_path, ("CCO", "c1ccccc1", "OCC", "C(C)O"))
    reader = RowReader(made.split, made.position_M, column([1, 2, 3, 4]))
    labels = {}
    for sample in each_row_once(reader, GRAPH, 40_000, CPU):
        for row, label, atoms in zip(sample.row_B.tolist(), sample.label_BL, sample.input.valid_BA.sum(1), strict=True):
            labels[row] = (float(label[0]), int(atoms))
    assert labels == {0: (1, 3), 1: (2, 6), 2: (3, 3), 3: (4, 3)}


def test_an_epoch_sees_every_row_once_in_an_order_of_its_own(molecules):
    reader = RowReader(molecules.split, molecules.position_M, column(CARBON))
    steps = list(training_batches(reader, GRAPH, fitting(batch_size=10), seed=1, device=CPU).steps(0, 6))
    epochs = [
        [row for step in part for sample in step for row in sample.row_B.tolist()] for part in (steps[:3], steps[3:])
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(30))
    first = [{row for sample in step for row in sample.row_B.tolist()} for step in steps]
    assert first[0] != first[3]


def test_more_rows_than_are_cut_together_are_all_read_once(molecules):
    position_R = np.tile(molecules.position_M, 40)
    reader = RowReader(molecules.split, position_R, column(np.arange(len(position_R))))
    samples = list(each_row_once(reader, GRAPH, 40_000, CPU))
    assert sorted(row for sample in samples for row in sample.row_B.tolist()) == list(range(1200))
    assert all(torch.equal(sample.label_BL[:, 0].long(), sample.row_B) for sample in samples)


def test_a_budget_that_holds_no_molecule_says_which_setting_to_raise(molecules):
    reader = RowReader(molecules.split, molecules.position_M, column(CARBON))
    with pytest.raises(ConfigError, match=r"11 atoms needs 144 pairs, more than max_pairs 100; raise max_pairs"):
        list(each_row_once(reader, GRAPH, 100, CPU))


def test_hydrogens_of_a_store_are_left_out_as_smiles_lack_them(tmp_path):
    def built(hydrogens):
        curate = CurateConfig(valid_fraction=0.0)
        given = [
            Given(text=text, curated=curate_molecule(SourceMolecule(id="", smiles=text), curate))
            for text in ("CCO", "Oc1ccccc1", "CC(N)=O")
        ]
        return cached_store(given, tmp_path, curate, ConformerConfig(hydrogens=hydrogens), workers=1)[0]

    with_them, without = built(True), built(False)
    everything = np.arange(3)
    assert with_them.sizes(everything)[0].tolist() == [9, 13, 9]
    labels = column([1, 2, 3])
    one = RowReader(with_them, everything, labels, drop_hydrogens=True)
    other = RowReader(without, everything, labels)
    assert one.num_atoms(everything).tolist() == other.num_atoms(everything).tolist() == [3, 7, 4]
    mine, theirs = one.read(keys(everything)), other.read(keys(everything))
    assert np.array_equal(mine.atomic_number_BA, theirs.atomic_number_BA)
    assert np.array_equal(mine.bond_features_BAA3, theirs.bond_features_BAA3)
    assert mine.coordinates_BA3.any()
    assert mine.labels_BL[:, 0].tolist() == [1, 2, 3]
