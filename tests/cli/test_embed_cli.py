"""``unimol-scale embed`` as a user calls it."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rdkit import Chem

import unimol_scale
from conformer_gen.chemistry.config import ConformerConfig
from conformer_gen.chemistry.identity import stable_hash
from conformer_gen.config import BuildConfig
from conformer_gen.run import driver
from conformer_gen.sources.config import SourceConfig
from tests.helpers.conformer_stores import conformer_store
from unimol_scale.checkpoints.weights import identify, save_pretrained
from unimol_scale.cli.main import main
from unimol_scale.downstream.embedding import row_chunks
from unimol_scale.model.accounting import Heads
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.model.presets import preset
from unimol_scale.store.shards import open_store

SMILES = ["CCO", "Oc1ccccc1", "CC(=O)Nc1ccc(O)cc1", "OCC", "CN"]
NO_CONFORMER = "N#[C][Co]([C]#N)([C]#N)([C]#N)([C]#N)[C]#N"


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    save_pretrained(HeadedModel(preset("0.03M"), Heads()), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def embed(model, tmp_path, capsys):
    """Write a table of SMILES and embed it; return status, what was printed and the table written."""

    def run(smiles, *flags, name="mine.csv", source=None):
        file = tmp_path / name
        file.write_text("name,smiles\n" + "".join(f"molecule,{text}\n" for text in smiles))
        output = tmp_path / "out" / "found.parquet"
        status = main(
            [
                "embed", str(source or file), "--from", str(model), "--output", str(output),
                "--cache", str(tmp_path / "cache"), *flags,
            ]
        )  # fmt: skip
        printed = capsys.readouterr()
        return status, printed.out + printed.err, pq.read_table(output) if output.exists() else None

    return run


def matrix(column):
    return np.array(column.to_pylist(), np.float32)


def test_every_row_of_a_table_gets_the_vector_that_python_gives(embed, model, tmp_path):
    status, printed, table = embed(SMILES)
    assert status == 0
    assert "5 of 5 rows embedded" in printed
    assert table["row"].to_pylist() == [1, 2, 3, 4, 5]
    assert table["smiles"].to_pylist() == ["CCO", "Oc1ccccc1", "CC(=O)Nc1ccc(O)cc1", "CCO", "CN"]
    assert table["key"].to_pylist() == [stable_hash(text) for text in table["smiles"].to_pylist()]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 16)
    expected = unimol_scale.from_pretrained(model).embed(SMILES, cache=tmp_path / "cache")
    np.testing.assert_allclose(matrix(table["embedding"]), expected, atol=1e-6)
    said = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert said["weights_sha256"] == identify(model)[1]
    assert (said["representation"], said["inputs"], said["pooling"]) == ("molecule", "2d+3d", "mean")


def test_vectors_are_written_as_csv_and_npz_too(embed, model, tmp_path, capsys):
    table = embed(SMILES, "--inputs", "2d")[2]
    common = ["embed", str(tmp_path / "mine.csv"), "--from", str(model), "--inputs", "2d"]
    assert main([*common, "--output", str(tmp_path / "found.csv")]) == 0
    with (tmp_path / "found.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:5] == ["row", "smiles", "key", "changes", "v0"]
    vectors = np.array([[float(row[f"v{number}"]) for number in range(16)] for row in rows], np.float32)
    np.testing.assert_allclose(vectors, matrix(table["embedding"]), atol=1e-6)
    assert [row["smiles"] for row in rows] == table["smiles"].to_pylist()
    assert main([*common, "--output", str(tmp_path / "found.npz")]) == 0
    with np.load(tmp_path / "found.npz") as arrays:  # without allow_pickle
        np.testing.assert_allclose(arrays["embedding"], matrix(table["embedding"]), atol=1e-6)
        assert arrays["smiles"].tolist() == table["smiles"].to_pylist()
        assert arrays["row"].tolist() == [1, 2, 3, 4, 5]
    capsys.readouterr()
    assert main([*common, "--output", str(tmp_path / "found.csv"), "--representation", "atom"]) == 2
    assert "can hold only vectors of molecules" in capsys.readouterr().err
    (tmp_path / "none.csv").write_text("name,smiles\n")
    assert main([*common[:1], str(tmp_path / "none.csv"), *common[2:], "--output", str(tmp_path / "none.npz")]) == 2
    assert not (tmp_path / "none.npz").exists()


@pytest.mark.parametrize("inputs", ["2d", "3d"])
def test_what_the_model_sees_is_the_users_choice(embed, inputs):
    everything = matrix(embed(SMILES)[2]["embedding"])
    table = embed(SMILES, "--inputs", inputs)[2]
    assert table.schema.metadata[b"inputs"].decode() == inputs
    assert np.abs(matrix(table["embedding"]) - everything).max() > 1e-3


def test_what_stands_for_a_molecule_is_the_users_choice(embed, model, tmp_path):
    table = embed(SMILES, "--pooling", "virtual_node")[2]
    assert table.schema.metadata[b"pooling"].decode() == "virtual_node"
    loaded, cache = unimol_scale.from_pretrained(model), tmp_path / "cache"
    expected = loaded.embed(SMILES, pool="virtual_node", cache=cache)
    np.testing.assert_allclose(matrix(table["embedding"]), expected, atol=1e-6)
    assert np.abs(expected - loaded.embed(SMILES, cache=cache)).max() > 1e-3


def test_atoms_pairs_and_attention_are_written_with_their_shapes(embed, model, tmp_path):
    loaded, cache = unimol_scale.from_pretrained(model), tmp_path / "cache"
    table = embed(SMILES, "--representation", "atom")[2]
    for found, expected in zip(table["atoms"].to_pylist(), loaded.embed(SMILES, kind="atom", cache=cache), strict=True):
        np.testing.assert_allclose(np.array(found), expected, atol=1e-6)
    table = embed(SMILES, "--representation", "pair")[2]
    expected = loaded.embed(SMILES, kind="pair", cache=cache)
    for n, found, pairs in zip(table["num_atoms"].to_pylist(), table["pairs"].to_pylist(), expected, strict=True):
        np.testing.assert_allclose(np.array(found).reshape(n, n, -1), pairs, atol=1e-6)
    table = embed(SMILES, "--representation", "attention")[2]
    layers, heads = (int(table.schema.metadata[key]) for key in (b"layers", b"heads"))
    assert (layers, heads) == (preset("0.03M").layers, preset("0.03M").heads)
    assert table.schema.field("attention").type == pa.list_(pa.list_(pa.float32(), layers * heads))
    expected = loaded.embed(SMILES, kind="attention", cache=cache)
    for n, found, scores in zip(table["num_atoms"].to_pylist(), table["attention"].to_pylist(), expected, strict=True):
        np.testing.assert_allclose(np.array(found).reshape(n, n, -1), scores, atol=1e-5)


def test_a_file_in_pieces_is_the_same_file(embed, tmp_path, monkeypatch):
    bad = [*SMILES[:2], "none", *SMILES[2:], "neither"]
    whole = embed(bad, "--skip-bad")[2]
    monkeypatch.setattr(row_chunks, "ROWS_TOGETHER", 2)
    status, printed, pieces = embed(bad, "--skip-bad")
    assert status == 0
    assert "5 of 7 rows" in printed
    assert pieces["row"].to_pylist() == whole["row"].to_pylist() == [1, 2, 4, 5, 6]
    np.testing.assert_allclose(matrix(pieces["embedding"]), matrix(whole["embedding"]), atol=1e-5)
    with (tmp_path / "out" / "found.skipped.csv").open() as file:
        assert [(row["row"], row["smiles"]) for row in csv.DictReader(file)] == [("3", "none"), ("7", "neither")]


def test_unusable_rows_stop_it_before_anything_is_made(embed, tmp_path):
    status, printed, table = embed(["CCO", "nothing", "", "C1CC"])
    assert status == 2
    assert "3 of 4 rows have no usable molecule: row 2 'nothing': not_parsed" in printed
    assert "--skip-bad" in printed
    assert table is None
    assert not (tmp_path / "cache").exists()


def test_a_molecule_without_conformer_stops_it_too(embed):
    status, printed, table = embed(["CCO", NO_CONFORMER])
    assert (status, table) == (2, None)
    assert "row 2 'N#[C][Co]" in printed
    assert "no_conformer" in printed


def test_skipped_rows_are_listed_beside_the_output_and_not_left_there(embed, tmp_path):
    status, printed, table = embed(["nothing", "CCO", NO_CONFORMER], "--skip-bad")
    assert status == 0
    assert "1 of 3 rows embedded" in printed
    assert table["row"].to_pylist() == [2]
    listed = tmp_path / "out" / "found.skipped.csv"
    with listed.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["row"], row["smiles"], row["reason"]) for row in rows] == [
        ("1", "nothing", "not_parsed"),
        ("3", NO_CONFORMER, "no_conformer"),
    ]
    assert all(row["detail"] for row in rows)
    assert embed(SMILES)[0] == 0
    assert not listed.exists()


def test_a_file_of_nothing_usable_is_an_error(embed):
    status, printed, table = embed(["nothing", "C1CC"], "--skip-bad")
    assert (status, table) == (2, None)
    assert "2 of 2 rows" in printed


def test_molecules_of_a_store_are_what_their_smiles_are(embed, sample_store, model, tmp_path):
    status, _, table = embed([], source=sample_store)
    assert status == 0
    store = open_store(sample_store)
    smiles = [text for name in ("train", "valid") for text in store.split(name).column("smiles").to_pylist()]
    assert table["smiles"].to_pylist() == smiles
    some = smiles[:6]
    expected = unimol_scale.from_pretrained(model).embed(some, cache=tmp_path / "cache")
    np.testing.assert_allclose(matrix(table["embedding"])[:6], expected, atol=1e-5)


def test_hydrogens_of_a_store_change_nothing(embed, tmp_path):
    molecules = tmp_path / "some.smi"
    molecules.write_text("\n".join(SMILES[:3]))
    found = []
    for hydrogens in (False, True):
        config = BuildConfig(
            source=SourceConfig(name="smiles", input=(str(molecules),)),
            output=tmp_path / f"store-{hydrogens}",
            workers=1,
            conformers=ConformerConfig(hydrogens=hydrogens),
        )
        store = driver.build(config).store
        assert store.manifest.hydrogens is hydrogens
        found.append(embed([], "--representation", "atom", source=store.path)[2]["atoms"].to_pylist())
    without, with_them = found
    assert sorted(map(len, with_them)) == [3, 7, 11]
    for mine, theirs in zip(with_them, without, strict=True):
        # A store rounds coordinates, and these were centred with and without hydrogens.
        np.testing.assert_allclose(np.array(mine), np.array(theirs), atol=5e-3)


def test_hydrogens_and_several_conformers_are_the_users_choice(embed, model, tmp_path):
    table = embed(SMILES[:2], "--hydrogens", "--conformers", "3", "--representation", "atom")[2]
    assert [len(atoms) for atoms in table["atoms"].to_pylist()] == [9, 13]
    said = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert (said["hydrogens"], said["conformers"]) == ("true", "3")
    loaded, cache = unimol_scale.from_pretrained(model), tmp_path / "cache"
    expected = loaded.embed(SMILES[:2], kind="atom", hydrogens=True, conformers=3, cache=cache)
    for found, atoms in zip(table["atoms"].to_pylist(), expected, strict=True):
        np.testing.assert_allclose(np.array(found), atoms, atol=1e-6)
    said = embed(SMILES[:2])[2].schema.metadata
    assert (said[b"hydrogens"], said[b"conformers"]) == (b"false", b"1")
    status, printed, _ = embed(SMILES, "--conformers", "2", "--inputs", "2d")
    assert status == 2
    assert "conformers 2: the model sees only the 2D graph" in printed


def test_a_store_shows_its_hydrogens_to_a_model_that_was_pretrained_with_them(embed, model, tmp_path):
    tree = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**tree, "hydrogens": True}))
    stores = {hydrogens: conformer_store(tmp_path / str(hydrogens), hydrogens=hydrogens) for hydrogens in (True, False)}
    table = embed([], "--representation", "atom", source=stores[True])[2]
    assert table["smiles"].to_pylist()[0] == "CCO"
    assert len(table["atoms"].to_pylist()[0]) == 9
    assert len(embed([], "--no-hydrogens", "--representation", "atom", source=stores[True])[2]["atoms"][0]) == 3
    status, printed, _ = embed([], source=stores[False])
    assert status == 2
    assert "the model sees hydrogens as atoms, but the store at" in printed
    assert embed([], "--no-hydrogens", source=stores[False])[0] == 0


def test_half_precision_is_near_and_not_equal(embed):
    full, half = (matrix(embed(SMILES, "--precision", precision)[2]["embedding"]) for precision in ("fp32", "bf16"))
    error = np.abs(full - half).max() / np.abs(full).max()
    assert 0 < error < 0.05


@pytest.mark.parametrize(
    ("source", "message"),
    [("lost.csv", "does not exist"), ("model", "not a finished conformer store"), ("mine.xyz", "must end in .smi")],
)
def test_a_source_of_another_kind_is_refused(embed, tmp_path, source, message):
    (tmp_path / "mine.xyz").write_text("")
    status, printed, _ = embed(SMILES, source=tmp_path / source)
    assert status == 2
    assert message in printed


@pytest.mark.parametrize("name", ["mine.parquet", "mine.skipped.csv"])
def test_what_is_read_is_not_written_over(model, tmp_path, capsys, name):
    file = tmp_path / name
    file.write_text("smiles\nCCO\n")
    assert main(["embed", str(file), "--from", str(model), "--output", str(tmp_path / "mine.parquet")]) == 2
    assert "would overwrite the input" in capsys.readouterr().err
    assert file.read_text() == "smiles\nCCO\n"


def test_the_output_must_be_of_a_known_format(model, capsys):
    assert main(["embed", "mine.csv", "--from", str(model), "--output", "found.h5"]) == 2
    assert ".parquet" in capsys.readouterr().err


def test_rows_reduced_to_a_fragment_are_told_and_can_be_refused(embed):
    status, printed, table = embed(["CCO", "CCN.Cl", "OCC"])
    assert status == 0
    assert "1 of 3 rows have several fragments and were reduced to the largest (row 2 without Cl)" in printed
    assert table["changes"].to_pylist() == ["", "largest fragment kept: CCN; left out: Cl", ""]
    status, printed, _ = embed(["CCO", "CCN.Cl"], "--fragments", "reject")
    assert status == 2
    assert "row 2 'CCN.Cl': several_fragments" in printed


def test_an_sdf_file_is_embedded_as_its_smiles_are(embed, tmp_path):
    records = "".join(f"{Chem.MolToMolBlock(Chem.MolFromSmiles(text))}$$$$\n" for text in SMILES)
    (tmp_path / "mine.sdf").write_text(records)
    status, _, table = embed(SMILES, "--inputs", "2d", source=tmp_path / "mine.sdf")
    assert status == 0
    expected = embed(SMILES, "--inputs", "2d")[2]
    assert table["smiles"].equals(expected["smiles"])
    np.testing.assert_allclose(matrix(table["embedding"]), matrix(expected["embedding"]), atol=1e-6)
