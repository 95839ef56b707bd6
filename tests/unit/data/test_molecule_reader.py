import dataclasses

import numpy as np
import pytest
from rdkit import Chem

from conformer_gen.chemistry.canonical import without_hydrogens
from conformer_gen.chemistry.graph import molecule_graph
from tests.helpers.store_samples import random_record, write_store
from tests.helpers.random_keys import keys
from unimol_scale.data.hydrogens import drop_hydrogens, heavy_counts
from unimol_scale.data.molecule_reader import MoleculeReader
from unimol_scale.errors import ConfigError
from unimol_scale.store.schema import MoleculeColumns
from unimol_scale.store.shards import open_store, write_manifest

# With salts, a bare proton, hydrogen itself, a lone atom, a bridge and a hydride.
SMILES = ["CCO", "c1ccccc1C(=O)N", "[H+].[Cl-]", "[H][H]", "[Na+].[O-]C=O", "C[C@H](F)O", "[Xe]", "F[H-]F"]
SMILES += ["[Mg+2](<-[H-])<-[H-]"]
GRAPH_FIELDS = ("num_atoms", "num_bonds", "atomic_number", "atom_features", "bond_index", "bond_features")


def columns_of(molecules):
    graphs = [molecule_graph(molecule) for molecule in molecules]
    total = sum(len(graph.atomic_number) for graph in graphs)
    points = np.random.default_rng(0).normal(size=(total, 3)).astype(np.float32)
    return MoleculeColumns(
        num_atoms=np.array([len(graph.atomic_number) for graph in graphs], np.int32),
        num_bonds=np.array([len(graph.bond_index) for graph in graphs], np.int32),
        atomic_number=np.concatenate([graph.atomic_number for graph in graphs]),
        atom_features=np.concatenate([graph.atom_features for graph in graphs]),
        bond_index=np.concatenate([graph.bond_index for graph in graphs]).astype(np.int32),
        bond_features=np.concatenate([graph.bond_features for graph in graphs]),
        coordinates=points,
        planar_coordinates=points,
        conformer_origin=np.zeros(len(graphs), np.uint8),
        labels=np.empty((len(graphs), 0)),
    )


def without_sanitising(smiles):
    parameters = Chem.SmilesParserParams()
    parameters.removeHs = False
    return Chem.MolFromSmiles(smiles, parameters)


def test_dropped_hydrogens_leave_the_graph_that_the_builder_leaves():
    full = [Chem.AddHs(without_sanitising(smiles)) for smiles in SMILES]
    dropped = drop_hydrogens(columns_of(full))
    expected = columns_of([without_hydrogens(molecule) for molecule in full])
    for name in GRAPH_FIELDS:
        np.testing.assert_array_equal(getattr(dropped, name), getattr(expected, name), err_msg=name)
    np.testing.assert_array_equal(heavy_counts(columns_of(full)), expected.num_atoms)
    ends = np.cumsum(dropped.num_atoms)
    for begin, end in zip(ends - dropped.num_atoms, ends, strict=True):
        np.testing.assert_allclose(dropped.coordinates[begin:end].mean(0), 0, atol=1e-6)


@pytest.fixture
def store(tmp_path):
    records = [random_record(i, max_conformers=4, num_labels=2) for i in range(10)]
    return write_store(tmp_path, records, records[:2], labels={"gap": "eV", "mass": "u"})


def coordinates_of(reader, epoch, number):
    return reader.read(keys([number], epoch)).coordinates_BA3[0]


def test_conformers_come_in_turn_each_once_before_any_comes_again(store):
    reader = MoleculeReader(store, "train", conformers="in_turn")
    for number, count in enumerate(store.split("train").num_conformers):
        seen = {coordinates_of(reader, epoch, number).tobytes() for epoch in range(count)}
        assert len(seen) == count
        assert coordinates_of(reader, count, number).tobytes() == coordinates_of(reader, 0, number).tobytes()


def test_a_random_conformer_is_another_one_in_some_epoch_and_the_first_is_always_the_first(store):
    many = int(store.split("train").num_conformers.argmax())
    drawn = MoleculeReader(store, "train")
    assert len({coordinates_of(drawn, epoch, many).tobytes() for epoch in range(20)}) > 1
    first = MoleculeReader(store, "train", conformers="first")
    wanted = store.split("train").gather(np.array([many])).coordinates
    for epoch in range(3):
        np.testing.assert_array_equal(coordinates_of(first, epoch, many), wanted)


def test_labels_asked_for_are_in_the_batch_in_that_order(store):
    reader = MoleculeReader(store, "train", labels=("mass", "gap"))
    expected = [random_record(i, max_conformers=4, num_labels=2).labels[::-1] for i in (3, 1)]
    np.testing.assert_array_equal(reader.read(keys([3, 1])).labels_BL, expected)
    assert MoleculeReader(store, "train").read(keys([3, 1])).labels_BL.shape == (2, 0)


def test_an_unknown_label_is_told_with_the_nearest(store):
    with pytest.raises(ConfigError, match=r"no label 'gab'; did you mean 'gap'\?"):
        MoleculeReader(store, "train", labels=("gab",))


def test_hydrogens_can_not_be_kept_where_there_are_none(store):
    with pytest.raises(ConfigError, match=r"has no hydrogens as atoms.*--hydrogens"):
        MoleculeReader(store, "train", hydrogens="keep")


def test_sizes_are_those_of_what_is_read(store):
    write_manifest(store.path, dataclasses.replace(store.manifest, hydrogens=True))
    for hydrogens in ("as_stored", "keep", "drop"):
        reader = MoleculeReader(open_store(store.path), "train", hydrogens=hydrogens)
        everyone = np.arange(len(reader))
        assert reader.num_atoms(everyone).tolist() == reader.read(keys(everyone)).num_atoms_B.tolist()
        assert reader.num_atoms(everyone).max() <= reader.largest
