"""The papers' protocols, laid over the files of their sets, run on small data of the same form for one epoch."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from conformer_gen.chemistry.config import ConformerConfig, CurateConfig
from conformer_gen.chemistry.conformers import CuratedMolecule, generate_conformers
from conformer_gen.chemistry.curate import curate_molecule
from conformer_gen.chemistry.identity import stable_hash
from conformer_gen.sources.molecule import SourceMolecule
from tests.helpers.store_samples import write_store
from tests.helpers.tiny_finetuning import CARBON, MOLECULES, TINY, write_table
from unimol_scale import config as strict
from unimol_scale.checkpoints.weights import save_pretrained
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.model.accounting import DENOISE_HEADS
from unimol_scale.model.model_with_heads import HeadedModel

CONFIGS = Path(__file__).parents[2] / "configs" / "downstream"
CLASSIFIED = ("bace", "bbbp", "clintox", "hiv", "sider", "tox21", "toxcast")
MEASURED = ("esol", "freesolv", "lipo")
# Every combination that the heads of the files name: the set, and what is laid over it.
COMBINATIONS = [
    *(("qm9", "uni-mol2/regression"), ("compas-1d", "uni-mol2/regression")),
    *((name, "moleblend/moleculenet") for name in (*CLASSIFIED, "muv", *MEASURED)),
    *(("qm9", "moleblend/qm9"), ("pcqm4mv2", "moleblend/pcqm4mv2"), ("qm9", "denoising/qm9")),
    *((name, "dnd/moleculenet") for name in CLASSIFIED),
    *((name, "dnd/moleculenet", "dnd/regression") for name in MEASURED),
    *((name, "dnd/label-efficiency") for name in MEASURED),
]
# On which each file is run: a set of each kind of labels.
RUN = [
    (("bbbp", "moleblend/moleculenet"), {}),
    (("tox21", "moleblend/moleculenet"), {}),
    (("esol", "moleblend/moleculenet"), {}),
    (("bbbp", "dnd/moleculenet"), {}),
    (("esol", "dnd/moleculenet", "dnd/regression"), {}),
    (("lipo", "dnd/label-efficiency"), {"label_fraction": 0.5}),
    (("qm9", "uni-mol2/regression"), {"targets": ["homo", "lumo", "gap"]}),
    (("compas-1d", "uni-mol2/regression"), {"targets": ["aEA_eV"], "inputs": "2d+3d"}),
    (("qm9", "moleblend/qm9"), {"targets": ["u0", "gap"], "data": "store", "split_sizes": [None, 4, 4]}),
    (("qm9", "denoising/qm9"), {"targets": ["u0"], "data": "store", "split_sizes": [14, 4, None]}),
    (("pcqm4mv2", "moleblend/pcqm4mv2"), {"data": "store", "valid_rows": 4}),
]
# As the records of a store of QM9 and PCQM4Mv2 have them, with their true units.
LABELS = {"gap": "Ha", "u0": "Ha"}
ORGANIC = [(text, carbons) for text, carbons in zip(MOLECULES, CARBON, strict=True) if not set("SsFBl") & set(text)]


def settings_of(names, **changes):
    """Return the settings that ``--config`` gives for some files, and what they are."""
    tree, origin = strict.read_settings([CONFIGS / f"{name}.yaml" for name in names], {"pretrained": "run", **changes})
    return tree, strict.build(FinetuneConfig, tree, origin)


def test_every_file_of_a_paper_is_in_a_combination():
    files = {path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*/*.yaml")}
    assert {name for names in COMBINATIONS for name in names[1:]} == files
    assert {name for names, _ in RUN for name in names[1:]} == files


@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
def test_a_protocol_fits_the_sets_that_it_is_laid_over(names):
    config = settings_of(names)[1]
    assert config.task in ("regression", "classification", "multilabel")
    if names[-1].startswith("dnd"):
        assert (config.head, config.inputs, config.pooling) == ("linear", "2d", "mean")
        assert config.task != "regression" or (config.loss, config.metric) == ("mae", "mae")
    if names[-1] == "moleblend/moleculenet":
        train = config.train
        assert (train.schedule, train.learning_rate, train.end_learning_rate) == ("cosine", 1e-5, 1e-9)
        assert (train.epochs * train.warm_up, train.attention_dropout, train.gradient_clip) == (8, 0.1, 5)
        assert config.metric == ("rmse" if config.task == "regression" else "roc_auc")


@pytest.mark.parametrize(("names", "steps"), [(("qm9", "moleblend/qm9"), 600_000), (("qm9", "denoising/qm9"), 300_000)])
def test_epochs_are_the_steps_of_the_paper(names, steps):
    train = settings_of(names)[1].train
    steps_an_epoch = -(-110_000 // train.batch_size)
    assert (train.epochs - 1) * steps_an_epoch < steps <= train.epochs * steps_an_epoch
    assert train.warm_up * steps == pytest.approx(60_000 if steps == 600_000 else 10_000, rel=2e-3)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A pretrained model, a store with hydrogens, labels and geometry, and a cache, which the tests share."""
    folder = tmp_path_factory.mktemp("presets")
    torch.manual_seed(7)
    save_pretrained(HeadedModel(TINY, DENOISE_HEADS), folder / "pretrained")
    records = []
    for at, (text, carbons) in enumerate(ORGANIC):
        curated = curate_molecule(SourceMolecule(id="", smiles=text), CurateConfig())
        keys = {"key": stable_hash(curated.smiles), "scaffold": stable_hash(curated.scaffold_smiles)}
        molecule = CuratedMolecule(id=str(at), smiles=curated.smiles, **keys)
        record = generate_conformers(molecule, ConformerConfig(hydrogens=True), seed=0)
        energy = -0.5 * len(record.atomic_number) - 37.0 * carbons + 0.01 * (at % 3)
        records.append(dataclasses.replace(record, labels=(carbons / 27.0, energy)))
    write_store(folder / "store", records[:15], records[15:], labels=LABELS, hydrogens=True)
    parts = {"train": range(15), "valid": range(15, 19), "test-dev": range(19, 20), "test-challenge": range(20, 99)}
    torch.save({part: np.array(rows) for part, rows in parts.items()}, folder / "split_dict.pt")
    return folder


def table_of(tree, folder):
    """Write a table with the columns of a set; its labels are what the task says."""
    smiles = tree["smiles_column"] or "smiles"
    targets = [f"assay {at}" for at in range(4)] if tree["targets"] == ["all"] else tree["targets"]
    regression = tree["task"] == "regression"
    classes = np.arange(len(MOLECULES)) % 2
    columns = {name: CARBON + at if regression else classes for at, name in enumerate(targets)}
    path = write_table(folder / "set.csv", **columns)
    path.write_text(path.read_text().replace("smiles", smiles, 1))
    return path


@pytest.mark.parametrize(("names", "changes"), RUN, ids=["+".join(names) for names, _ in RUN])
def test_a_protocol_runs_on_small_data_of_the_right_form(place, tmp_path, names, changes):
    changes = {
        "pretrained": str(place / "pretrained"), "output": str(tmp_path / "ft"), "cache": str(place / "cache"),
        "conformer_workers": 1, "device": "cpu", "seeds": 1, "train": {"epochs": 1}, "baselines": False,
        **changes,
    }  # fmt: skip
    tree, _ = settings_of(names, **changes)
    if changes.get("data") == "store":
        changes["data"] = str(place / "store")
    else:
        changes["data"] = str(table_of(tree, tmp_path))
    if names[0] == "pcqm4mv2":
        changes["split_file"] = str(place / "split_dict.pt")
    elif tree["split"].startswith("scaffold"):
        changes |= {"split": "random", "fractions": [0.6, 0.2, 0.2]}  # thirty molecules have too few scaffolds
    config = settings_of(names, **changes)[1]
    done = finetune(config)
    assert np.isfinite(done.mean)
    assert len(done.seeds[0].losses) == 1
    assert done.metric == config.metric
    if "u0" in done.targets:
        assert done.units["u0"] == "meV"
        assert any("energies of the elements" in note for note in done.notes)
    if names[0] == "pcqm4mv2":
        assert done.split_sizes == {"train": 11, "valid": 4, "test": 4}
