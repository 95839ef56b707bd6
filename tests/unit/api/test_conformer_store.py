"""A store as rows of NumPy arrays, and as RDKit molecules: what was built is what is read."""

import logging

import numpy as np
import pytest
from rdkit import Chem

import unimol_scale as us
from tests.helpers.flags import flags_in
from unimol_scale.store.shards import open_store

CHIRAL = ["C[C@H](N)C(=O)O", "C[C@@H](O)CC", "F/C=C/F", "C/C=C\\C(=O)O", "O=C(O)[C@@H]1CCCN1", "CC(=O)Nc1ccc(O)cc1"]
VALUES = [1.5, -0.25, 3.0, "", 0.0, 2.0]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of molecules with stereo and labels, one of which is missing."""
    path = tmp_path_factory.mktemp("table") / "molecules.csv"
    lines = [f"{smiles},{value}" for smiles, value in zip(CHIRAL, VALUES, strict=True)]
    path.write_text("\n".join(["smiles,logS", *lines]) + "\n")
    return path


@pytest.fixture(scope="module", params=[("arrow", False), ("lmdb", True)])
def store(table, tmp_path_factory, request):
    """A store of them with three conformers each, in each format, without hydrogens and with them."""
    backend, hydrogens = request.param
    return us.build_store(
        "csv",
        input=table,
        output=tmp_path_factory.mktemp("stores") / backend,
        conformers=3,
        hydrogens=hydrogens,
        backend=backend,
        settings={"source.labels": {"logS": "mol/L"}, "curate.valid_fraction": 0.3},
    )


def test_rows_are_the_columns_of_the_store(store):
    plain = open_store(store.path)
    at = 0
    for name in ("train", "valid"):
        split = plain.split(name)
        every = np.arange(len(split))
        assert store.splits[name].smiles.tolist() == split.smiles(every)
        assert store.splits[name].ids.tolist() == split.ids(every)
        assert store.splits[name].num_atoms.tolist() == split.num_atoms.tolist()
        assert store.splits[name].num_conformers.tolist() == split.num_conformers.tolist()
        for number in every.tolist():
            row = store[at]
            for conformer in range(len(row.coordinates)):
                columns = split.gather(np.array([number]), np.array([conformer]))
                np.testing.assert_array_equal(row.atomic_numbers, columns.atomic_number)
                np.testing.assert_array_equal(row.bonds, columns.bond_index)
                np.testing.assert_array_equal(row.atom_features, columns.atom_features)
                np.testing.assert_array_equal(row.bond_features, columns.bond_features)
                np.testing.assert_array_equal(row.coordinates[conformer], columns.coordinates)
                np.testing.assert_array_equal(row.planar_coordinates, columns.planar_coordinates[:, :2])
            assert row.split == name
            assert row.energies.tolist() == sorted(row.energies.tolist()), "the lowest comes first"
            at += 1
    assert at == len(store) == len(CHIRAL)


def test_labels_are_those_of_the_table_with_their_unit(store):
    assert store.label_units == {"logS": "mol/L"}
    given = dict(zip(map(Chem.CanonSmiles, CHIRAL), VALUES, strict=True))
    expected = [float("nan") if given[smiles] == "" else given[smiles] for smiles in store.smiles]
    np.testing.assert_array_equal(store.labels["logS"], expected)
    np.testing.assert_array_equal([row.labels["logS"] for row in store], expected)


def test_every_molecule_comes_back_to_rdkit_with_its_stereo_hydrogens_and_conformers(store):
    hydrogens = store.metadata["hydrogens"]
    for row in store:
        molecule = row.to_rdkit()
        assert Chem.MolToSmiles(Chem.RemoveHs(molecule)) == row.smiles
        assert [atom.GetAtomicNum() for atom in molecule.GetAtoms()] == row.atomic_numbers.tolist()
        assert (molecule.GetNumAtoms() > molecule.GetNumHeavyAtoms()) == hydrogens
        assert molecule.GetNumConformers() == len(row.coordinates) == len(row.energies)
        for number, conformer in enumerate(molecule.GetConformers()):
            np.testing.assert_allclose(conformer.GetPositions(), row.coordinates[number], atol=1e-3)
            assert conformer.GetDoubleProp("energy_kcal_mol") == pytest.approx(float(row.energies[number]))
            assert conformer.GetProp("origin") == row.origins[number]
            # The geometry has the stereo of the SMILES only if every atom has its own place.
            seen = Chem.Mol(molecule)
            Chem.AssignStereochemistryFrom3D(seen, conformer.GetId())
            assert Chem.MolToSmiles(Chem.RemoveHs(seen)) == row.smiles
        label = row.labels["logS"]
        assert ("logS" in molecule.GetPropNames()) == (not np.isnan(label))
        if not np.isnan(label):
            assert molecule.GetDoubleProp("logS") == label


def test_a_row_is_found_by_number_slice_list_and_mask(store):
    smiles = store.smiles.tolist()
    assert store[-1].smiles == smiles[-1]
    assert store[np.int64(2)].smiles == smiles[2]
    assert store[1:5:2].smiles.tolist() == smiles[1:5:2]
    assert store[1:][1:][0].smiles == smiles[2]
    assert store[[4, 0, 4]].smiles.tolist() == [smiles[4], smiles[0], smiles[4]]
    assert store[store.num_atoms > 7].smiles.tolist() == [
        s for s, n in zip(smiles, store.num_atoms, strict=True) if n > 7
    ]
    assert [row.smiles for row in store] == smiles
    assert len(store.train) + len(store.valid) == len(store)
    assert store[2:2].smiles.tolist() == []
    assert store[[]].smiles.tolist() == store[store.num_atoms > 99].smiles.tolist() == []
    assert store[np.array(1)].smiles == smiles[1]
    with pytest.raises(IndexError, match="there is no molecule 6: 6 molecules are counted from 0"):
        store[len(store)]
    for wrong in ("smiles", [1.0], [[0, 1]], None):
        with pytest.raises(TypeError, match=r"molecules are chosen by a number.*columns are attributes"):
            store[wrong]


def test_rows_of_equal_content_are_equal_and_a_store_is_searched_for_them(store):
    assert store[1] == store[1] != store[0]
    assert store.index(store[2]) == 2
    assert store[2] in store
    assert len({*store, *store}) == len(store)
    assert store[0] != store[0].smiles


def test_lists_of_arrays_hold_one_array_for_each_molecule(store):
    some = store[:2]
    assert [array.shape for array in some.coordinates] == [(3, n, 3) for n in some.num_atoms]
    assert [array.shape for array in some.atomic_numbers] == [(n,) for n in some.num_atoms]
    assert [array.dtype for array in some.energies] == [np.float32] * 2


def test_a_build_prints_nothing_and_logs_what_it_does(tmp_path, capfd, caplog):
    caplog.set_level(logging.INFO)
    built = us.build_store("sample", output=tmp_path / "store", limit=12)
    assert capfd.readouterr() == ("", "")
    assert "generating conformers: 12 of 12 molecules" in caplog.text
    again = us.build_store("sample", output=tmp_path / "store", limit=12)
    assert again.smiles.tolist() == built.smiles.tolist()
    us.build_store("sample", output=tmp_path / "shown", limit=12, progress=True)
    assert "generating conformers: 12 of 12 molecules" in capfd.readouterr().err


def test_keywords_dotted_keys_groups_and_a_file_are_one_and_the_same(tmp_path):
    (tmp_path / "build.yaml").write_text("source: {name: sample, limit: 9}\nseed: 3\n")
    one = us.build_store("sample", limit=9, seed=3, output=tmp_path / "one")
    two = us.build_store(
        settings={"source.name": "sample", "source.limit": np.int64(9), "seed": 3}, output=tmp_path / "b"
    )
    three = us.build_store(source=None, config=tmp_path / "build.yaml", output=tmp_path / "c")
    assert one.metadata == two.metadata == three.metadata
    assert one[0].coordinates.tolist() == two[0].coordinates.tolist() == three[0].coordinates.tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conformer": 4}, r"arguments of build_store: .*'conformer'; did you mean 'conformers'"),
        ({"conformers": "many"}, r"arguments of build_store: conformers\.count: expected a whole number, got 'many'"),
        ({"curate": {"valid_fractio": 1}}, "did you mean 'valid_fraction'"),
        ({"settings": {"seeed": 1}}, "'seeed'; did you mean 'seed'"),
        ({"config": "nowhere.yaml"}, "nowhere.yaml does not exist"),
        ({"limt": 5}, "'limt'; did you mean 'limit'"),
        ({"progres": True}, "'progres'; did you mean 'progress'"),
        ({"settings": "seed=1"}, "^settings: expected a mapping of dotted keys to values"),
        ({"settings": {1: 2}}, "^settings: expected a mapping of dotted keys to values"),
        ({"input": {"smiles": ["CCO"]}}, "^input: expected files, directories or URLs, got dict"),
        ({"input": {"a.csv", "b.csv"}}, "^input: expected a list, got a set, which has no order"),
        ({"settings": {"source.input": [{"a.csv"}]}}, r"^source\.input: expected a list, got a set"),
    ],
)
def test_a_setting_that_there_is_not_is_named_with_the_nearest(tmp_path, settings, message):
    with pytest.raises(us.ConfigError, match=message) as raised:
        us.build_store("sample", output=tmp_path / "store", **settings)
    assert not flags_in(raised.value)


def test_errors_name_arguments_and_no_flags(tmp_path, table):
    (tmp_path / "file").write_text("in the way")
    for call, message in (
        (
            {"source": "qm9", "input": tmp_path, "conformers": 3},
            "so conformers does not apply; conformers.from_file=K keeps",
        ),
        ({"source": "csv", "input": table, "exclude": tmp_path / "nowhere.csv"}, r"exclude .*nowhere\.csv"),
        ({"source": "sample", "limit": 9, "output": tmp_path / "file"}, "^output: .*file is a file"),
    ):
        with pytest.raises(us.UnimolScaleError, match=message) as raised:
            us.build_store(**{"output": tmp_path / "store", **call})
        assert not flags_in(raised.value)


def test_what_stands_for_a_path_is_one_path(store, tmp_path, table):
    with pytest.raises(us.SourceError, match=f"exclude {store.path} is not a file"):
        us.build_store("csv", input=table, output=tmp_path / "store", exclude=store)


def test_a_store_behind_a_url_reads_like_one_on_disk(store, tmp_path):
    if store.metadata["backend"] != "arrow":
        pytest.skip("one format is enough")
    remote = us.open_store(f"file://{store.path}", cache_dir=tmp_path / "cache")
    assert remote.location == f"file://{store.path}"
    assert remote.smiles.tolist() == store.smiles.tolist()
    np.testing.assert_array_equal(remote[1].coordinates, store[1].coordinates)


def test_a_place_without_a_store_is_told(tmp_path):
    with pytest.raises(us.StoreError, match="no store at") as raised:
        us.open_store(tmp_path / "nowhere")
    assert not flags_in(raised.value)


@pytest.mark.parametrize("path", [None, 3, b"data/sample"])
def test_what_can_be_no_place_of_a_store_is_told(path):
    with pytest.raises(us.ConfigError, match=f"^path: expected a folder or a URL, got {type(path).__name__}$"):
        us.open_store(path)
