"""Hydrogens as atoms: as the model was pretrained unless told otherwise; what is compared are heavy atoms."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
import yaml

from tests.helpers.conformer_stores import conformer_store
from tests.helpers.tiny_finetuning import TINY, fitting
from unimol_scale.checkpoints.weights import save_pretrained
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.downstream.finetuning.labelled_rows import load_rows
from unimol_scale.downstream.finetuning.model.saved_model import read_config
from unimol_scale.downstream.finetuning.predict import predict_molecules
from unimol_scale.errors import ConfigError
from unimol_scale.model.accounting import DENOISE_HEADS
from unimol_scale.model.model_with_heads import HeadedModel

FEW = ("CCO", "CCN", "CC(C)O", "ClCCl", "FC(F)F", "CC#N", "CCSCC", "BrCCBr", "NCC(=O)O", "OCC(O)CO", "CS(C)=O", "C")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Stores with and without hydrogens, a table, and models that were pretrained with, without, or unknown."""
    folder = tmp_path_factory.mktemp("hydrogens")
    conformer_store(folder / "heavy")
    conformer_store(folder / "all-atoms", hydrogens=True)
    lines = [f"{text},{len(text)}" for text in FEW]
    (folder / "few.csv").write_text("\n".join(["smiles,size", *lines]) + "\n")
    for name, hydrogens in (("with", True), ("without", False), ("unknown", None)):
        torch.manual_seed(7)
        model = HeadedModel(TINY, DENOISE_HEADS)
        model.hydrogens = hydrogens
        save_pretrained(model, folder / name)
    return folder


@pytest.fixture
def settings(place, tmp_path):
    def made(pretrained="with", data="few.csv", **changes):
        common = {
            "data": place / data, "pretrained": str(place / pretrained), "targets": ("size",), "split": "random",
            "fractions": (0.6, 0.2, 0.2), "seeds": 1, "output": tmp_path / "ft", "cache": place / "cache",
            "conformer_workers": 1, "device": "cpu", "train": fitting(epochs=1), "baselines": False,
        }  # fmt: skip
        return FinetuneConfig(**{**common, **changes})

    return made


def of_smiles(place, folder, **options):
    found = predict_molecules(
        ["CCO"], folder, smiles_column=None, skip_bad=False, cache=place / "cache", max_pairs=None, device_name="cpu",
        **options,
    )  # fmt: skip
    return int(found.molecules.split.sizes(found.molecules.position_M)[0][0])


@pytest.mark.parametrize(
    ("pretrained", "asked", "sees"),
    [("with", None, True), ("with", False, False), ("without", None, False), ("without", True, True),
     ("unknown", None, False), ("unknown", True, True)],
)  # fmt: skip
def test_a_model_sees_what_it_has_seen_in_pretraining_unless_told_otherwise(place, settings, pretrained, asked, sees):
    finetune(settings(pretrained, hydrogens=asked))
    folder = settings().output
    assert read_config(folder).hydrogens is sees
    assert yaml.safe_load((folder / "config.yaml").read_text())["hydrogens"] is sees
    assert of_smiles(place, folder) == (9 if sees else 3)


def test_hydrogens_change_what_is_learnt_and_random_weights_have_none(settings, tmp_path):
    losses = [
        finetune(settings(hydrogens=asked, output=tmp_path / str(asked))).seeds[0].losses for asked in (True, False)
    ]
    assert losses[0] != losses[1]
    finetune(dataclasses.replace(settings(), pretrained=None, size="0.03M", output=tmp_path / "scratch"))
    assert read_config(tmp_path / "scratch").hydrogens is False


def test_a_store_keeps_its_hydrogens_or_loses_them_and_one_without_is_refused(place, settings, tmp_path):
    shown = {}
    for asked in (True, False):
        rows = load_rows(settings(data="all-atoms", hydrogens=asked), geometry=True)
        assert rows.leaves_out_hydrogens is not asked
        shown[asked] = finetune(settings(data="all-atoms", hydrogens=asked, output=tmp_path / str(asked)))
    assert shown[True].seeds != shown[False].seeds
    assert shown[True].split_sizes == shown[False].split_sizes
    with pytest.raises(ConfigError, match=r"the store at .*heavy has none. Build it with hydrogens.*hydrogens=false"):
        finetune(settings(data="heavy", output=tmp_path / "refused"))
    finetune(settings(data="heavy", hydrogens=False, output=tmp_path / "told"))
    options = {
        "smiles_column": None, "skip_bad": False, "cache": place / "cache", "max_pairs": None, "device_name": "cpu"
    }  # fmt: skip
    with pytest.raises(ConfigError, match="the model sees hydrogens as atoms, but the store at"):
        predict_molecules(place / "heavy", tmp_path / "True", **options)
    heavy, all_atoms = (
        predict_molecules(place / store, tmp_path / "False", **options) for store in ("heavy", "all-atoms")
    )
    assert heavy.value_SRL.shape == all_atoms.value_SRL.shape


def test_scaffolds_keys_and_limits_count_heavy_atoms_either_way(place, settings):
    both = [
        load_rows(settings(hydrogens=asked, max_atoms=6, conformers=2), geometry=True).molecules
        for asked in (True, False)
    ]
    for name in ("smiles", "scaffold_smiles", "changes"):
        assert getattr(both[0], name) == getattr(both[1], name)
    assert np.array_equal(both[0].key_M, both[1].key_M)
    sizes = [molecules.split.sizes(molecules.position_M)[0] for molecules in both]
    assert (sizes[0][0], sizes[1][0]) == (9, 3)
    assert sizes[0].max() > 6 >= sizes[1].max()
    assert set(both[0].split.sizes(both[0].position_M)[1].tolist()) == {2}
    of_stores = [load_rows(settings(data=d, hydrogens=False), geometry=True).molecules for d in ("all-atoms", "heavy")]
    assert np.array_equal(of_stores[0].key_M, of_stores[1].key_M)


def test_sizes_are_compared_with_a_store_as_it_counts_them(place, settings, tmp_path):
    store = conformer_store(tmp_path / "small", hydrogens=True)
    done = finetune(settings(pretraining_store=store))
    assert not [note for note in done.notes if "larger than" in note]
    manifest = json.loads((store / "manifest.json").read_text())
    for split in manifest["splits"].values():
        split["size_histogram"] = {"8": sum(shard["rows"] for shard in split["shards"])}
    (store / "manifest.json").write_text(json.dumps(manifest))
    done = finetune(settings(pretraining_store=store, output=tmp_path / "larger"))
    (note,) = [note for note in done.notes if "larger than" in note]
    assert "(8 atoms including hydrogens): pretraining saw few molecules of that size" in note
    done = finetune(settings(pretraining_store=store, hydrogens=False, output=tmp_path / "not"))
    assert [note for note in done.notes if "because its sizes include hydrogens" in note]


def test_models_of_an_earlier_version_go_on_without_hydrogens(settings):
    """Whatever the model was pretrained on: its seeds would else see different molecules."""
    first = finetune(settings(hydrogens=False))
    folder = settings().output
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    earlier = {key: value for key, value in tree.items() if key not in ("hydrogens", "conformers")}
    (folder / "config.yaml").write_text(yaml.safe_dump(earlier))
    assert finetune(settings()) == first
    more = finetune(settings(seeds=2))
    assert more.seeds[0] == first.seeds[0]
    assert read_config(folder).hydrogens is False
    with pytest.raises(ConfigError, match="hydrogens: False → True"):
        finetune(settings(seeds=2, hydrogens=True))


def test_what_was_decided_stays_when_the_pretrained_model_says_no_more(place, settings, tmp_path):
    shutil.copytree(place / "with", tmp_path / "model")
    first = finetune(settings(pretrained=str(tmp_path / "model")))
    tree = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**tree, "hydrogens": None}))
    more = finetune(settings(pretrained=str(tmp_path / "model"), seeds=2))
    assert more.seeds[0] == first.seeds[0]
    assert read_config(settings().output).hydrogens is True
