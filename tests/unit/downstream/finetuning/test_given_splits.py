"""Rows of a table and molecules of a store go where a column or a split file sends them."""

import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from conformer_gen.chemistry.config import ConformerConfig, CurateConfig
from conformer_gen.chemistry.conformers import CuratedMolecule, generate_conformers
from conformer_gen.chemistry.curate import curate_molecule
from conformer_gen.chemistry.identity import stable_hash
from conformer_gen.sources.molecule import SourceMolecule
from tests.helpers.store_samples import write_store
from tests.helpers.tiny_finetuning import CARBON, MOLECULES, fitting, write_table
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.errors import ConfigError, SourceError

# As in PCQM4Mv2: the first rows are for training, then come those that papers judge by, then some without a label.
INDEX = {"train": np.arange(20), "valid": np.arange(20, 26), "test-dev": np.arange(26, 30)}
PARTS = {"train": "train", "valid": "test", "test-dev": "unused"}
GAP = np.where(np.arange(30) < 26, CARBON, np.nan)


def store_of(folder):
    """Return a store of graphs whose ids are whole numbers; the second half comes first."""
    records = []
    for at in np.roll(np.arange(30), 15).tolist():
        curated = curate_molecule(SourceMolecule(id="", smiles=MOLECULES[at]), CurateConfig())
        keys = {"key": stable_hash(curated.smiles), "scaffold": stable_hash(curated.scaffold_smiles)}
        molecule = CuratedMolecule(id=str(at), smiles=curated.smiles, **keys)
        record = generate_conformers(molecule, ConformerConfig(engine="depiction"), seed=0)
        part = 0.0 if at < 20 else 1.0 if at < 23 else 2.0
        records.append(dataclasses.replace(record, labels=(GAP[at], part)))
    return write_store(folder, records[:25], records[25:], labels={"gap": "eV", "part": ""}).path


def parts_of(config):
    table = pq.read_table(config.folder / "predictions-seed-0.parquet").to_pydict()
    return dict(zip(table["smiles"], table["split"], strict=True))


@pytest.fixture
def made(settings, tmp_path):
    """Return a fine-tuning and what part each molecule has."""

    def run(**changes):
        common = {"targets": ("gap",), "inputs": "2d", "seeds": 1, "train": fitting(epochs=1)}
        config = settings(**{**common, **changes})
        return finetune(config), parts_of(config)

    return run


def official(folder):
    torch.save(INDEX, folder / "split_dict.pt")
    return folder / "split_dict.pt"


@pytest.mark.parametrize("kind", ["store", "table"])
def test_the_official_split_of_a_data_set_sends_each_molecule_by_its_index(made, tmp_path, kind):
    data = store_of(tmp_path / "store")
    if kind == "table":
        order = np.roll(np.arange(30), 7)
        labels = ["" if np.isnan(GAP[at]) else GAP[at] for at in order]
        data = write_table(tmp_path / "t.csv", smiles=[MOLECULES[at] for at in order], idx=order, gap=labels)
    done, parts = made(data=data, split="file", split_file=official(tmp_path), split_parts=PARTS, valid_rows=4)
    assert done.split_sizes == {"train": 16, "valid": 4, "test": 6}
    assert [parts[text] for text in MOLECULES[20:]] == ["test"] * 6 + [None] * 4
    assert {parts[text] for text in MOLECULES[:20]} == {"train", "valid"}


def test_a_store_is_split_by_a_label_of_0_1_and_2(made, tmp_path):
    store = store_of(tmp_path / "store")
    done, parts = made(data=store, split="column", split_column="part", targets=("all",))
    assert done.targets == ("gap",), "the split is not a target"
    assert [parts[text] for text in MOLECULES[:26]] == ["train"] * 20 + ["valid"] * 3 + ["test"] * 3
    with pytest.raises(SourceError, match="no label 'parts'; did you mean 'part'"):
        made(data=store, split="column", split_column="parts", output=tmp_path / "no")


def test_a_label_of_a_store_is_a_time_or_the_number_of_a_fold(made, tmp_path):
    store = store_of(tmp_path / "store")
    _, parts = made(data=store, split="time", split_column="part", targets=("all",))
    assert [parts[text] for text in MOLECULES[:26]] == ["train"] * 20 + ["valid"] * 3 + ["test"] * 3
    folder = tmp_path / "folds"
    done, _ = made(data=store, split="column-kfold", split_column="part", output=folder)
    table = pq.read_table(folder / "out_of_fold.parquet").to_pydict()
    fold = dict(zip(table["smiles"], table["fold"], strict=True))
    assert [fold[text] for text in MOLECULES[:26]] == [1] * 20 + [2] * 3 + [3] * 3
    assert done.targets == ("gap",)


def test_a_store_is_split_by_a_table_of_its_ids(made, tmp_path):
    words = ["train"] * 20 + ["val"] * 3 + ["test"] * 7
    (tmp_path / "s.csv").write_text("\n".join(["id,fold", *(f"{at},{word}" for at, word in enumerate(words))]) + "\n")
    changes = {
        "data": store_of(tmp_path / "store"), "split": "file", "split_file": tmp_path / "s.csv", "split_column": "fold",
        "split_parts": {"train": "train", "val": "valid", "test": "test"},
    }  # fmt: skip
    _, parts = made(**changes)
    assert [parts[text] for text in MOLECULES[:26]] == ["train"] * 20 + ["valid"] * 3 + ["test"] * 3
    (tmp_path / "s.csv").write_text((tmp_path / "s.csv").read_text().replace("val", "train", 1))
    with pytest.raises(ConfigError, match="other content of split_file"):
        made(**changes)


def test_a_split_file_that_is_not_there_or_lacks_a_molecule_is_told(made, tmp_path):
    data = write_table(tmp_path / "t.csv", id=[f"m{at}" for at in range(30)], gap=CARBON)
    with pytest.raises(SourceError, match=r"split file .*none.csv does not exist"):
        made(data=data, split="file", split_file=tmp_path / "none.csv")
    (tmp_path / "s.csv").write_text("id,split\nm0,train\nm1,valid\nm2,test\n")
    with pytest.raises(ConfigError, match="27 usable rows have no part in the split file, the first is row 4"):
        made(data=data, split="file", split_file=tmp_path / "s.csv")


def test_numbers_of_molecules_are_those_of_the_report(made, tmp_path):
    data = write_table(tmp_path / "t.csv", gap=CARBON)
    done, _ = made(data=data, split_sizes=(None, 5, 4))
    assert done.split_sizes == {"train": 21, "valid": 5, "test": 4}
