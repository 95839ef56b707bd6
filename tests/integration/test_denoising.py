"""The published denoising recipe, configs/pretrain/denoising.yaml: noise and nothing else, of DFT geometries with H."""

import dataclasses
import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from conformer_gen.config import BuildConfig
from conformer_gen.run import driver
from tests.helpers.molecules import random_columns
from tests.helpers.plain_training import pretraining
from tests.helpers.random_keys import keys
from tests.helpers.ranks import losses
from unimol_scale import config as strict
from unimol_scale import from_pretrained
from unimol_scale.cli.verbs.pretrain import EXIT_USER_ERROR
from unimol_scale.data.batch import collate
from unimol_scale.model.presets import preset
from unimol_scale.objectives.config import ObjectiveConfig, build_objective
from unimol_scale.store.shards import open_store

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "pretrain" / "denoising.yaml"
SMILES = [f"{'C' * n}{end}" for n in range(1, 7) for end in ("O", "N", "Cl", "C#N", "=O", "c1ccccc1")]
FAST = ["train.steps=20", "train.warmup_steps=2", "train.global_batch_size=8", "train.learning_rate=4e-4"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of 36 molecules built from files in the format of PCQM4Mv2, hydrogens kept."""
    folder = tmp_path_factory.mktemp("pcqm")
    (folder / "raw").mkdir()
    rows = "\n".join(f"{at},{smiles},{5 + at}" for at, smiles in enumerate(SMILES))
    (folder / "raw" / "data.csv.gz").write_bytes(gzip.compress(f"idx,smiles,homolumogap\n{rows}\n".encode()))
    text = ""
    for smiles in SMILES:
        molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
        assert rdDistGeom.EmbedMolecule(molecule, randomSeed=1) == 0
        text += Chem.MolToMolBlock(molecule) + "$$$$\n"
    with tarfile.open(folder / "pcqm4m-v2-train.sdf.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("pcqm4m-v2-train.sdf")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text.encode()))
    tree = {
        "source": {"name": "pcqm4mv2", "input": [str(folder)]}, "conformers": {"hydrogens": True},
        "curate": {"valid_fraction": 0.2, "split": "random"}, "output": str(folder / "store"), "workers": 1,
    }  # fmt: skip
    return driver.build(strict.build(BuildConfig, tree, strict.Origin(name="test"))).store.path


def recipe():
    tree, origin = strict.read_yaml(CONFIG)
    return tree, strict.build(ObjectiveConfig, tree["objective"], origin, "objective")


def test_it_learns_on_dft_geometries_with_hydrogens_and_its_model_is_shown_what_it_has_seen(
    monkeypatch, capsys, store, tmp_path
):
    split = open_store(store).split("train")
    origins = {name for shard in split.entry.shards for name in shard.origins}
    assert origins == {"DFT"}
    assert 1 in split.gather(np.arange(len(split))).atomic_number
    pretrain = pretraining(monkeypatch, capsys, store)
    status, said = pretrain("--config", CONFIG, "--output", tmp_path / "run", *FAST)
    assert status == 0, said
    found = losses(tmp_path / "run", "loss")
    assert list(found) == list(range(1, 21))
    assert np.isfinite(list(found.values())).all()
    # Whoever says that there is no noise, as the head does before the first step, has an error of one.
    assert losses(tmp_path / "run", "valid/loss")[0] == pytest.approx(1.0, abs=0.2)
    final = json.loads((tmp_path / "run" / "summary.json").read_text())["final"]
    assert set(final) == {"valid/loss", "valid/loss/coordinate"}
    model = from_pretrained(tmp_path / "run")
    assert model.seen.inputs == ("3d",)


def test_both_steps_of_denoise_and_distill_run_on_frames_with_perceived_bonds(monkeypatch, capsys, tmp_path):
    frames = ""
    for smiles in SMILES:
        molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
        assert rdDistGeom.EmbedMolecule(molecule, randomSeed=1) == 0
        count, _, *atoms = Chem.MolToXYZBlock(molecule).splitlines()
        frames += "\n".join([count, "Properties=species:S:1:pos:R:3 energy=-40.5", *atoms, ""])
    (tmp_path / "frames.xyz").write_text(frames)
    tree = {
        "source": {"name": "xyz", "input": [str(tmp_path / "frames.xyz")], "frames": {"origin": "dft"}},
        "curate": {"valid_fraction": 0.2, "split": "random"}, "output": str(tmp_path / "store"), "workers": 1,
    }  # fmt: skip
    built = driver.build(strict.build(BuildConfig, tree, strict.Origin(name="test"))).store
    assert built.manifest.counts.stored == len(SMILES)
    pretrain = pretraining(monkeypatch, capsys, built.path)
    status, said = pretrain("--config", CONFIG, "--output", tmp_path / "teacher", *FAST, "data.hydrogens=drop")
    assert status == 0, said
    assert np.isfinite(list(losses(tmp_path / "teacher", "loss").values())).all()
    student = ["--config", CONFIG.with_name("distill.yaml"), "--output", tmp_path / "student", *FAST]
    status, said = pretrain(*student, f"objective.distill.teacher={tmp_path / 'teacher'}")
    assert status == 0, said
    found = list(losses(tmp_path / "student", "loss").values())
    assert len(found) == 20
    assert np.isfinite(found).all()
    assert from_pretrained(tmp_path / "student").seen.inputs != ("3d",)


def test_a_store_without_hydrogens_is_refused(monkeypatch, capsys, sample_store, tmp_path):
    status, said = pretraining(monkeypatch, capsys, sample_store)("--config", CONFIG, "--output", tmp_path / "run")
    assert status == EXIT_USER_ERROR
    assert "data.hydrogens is keep" in said
    assert "unimol-scale build --hydrogens" in said


def test_elements_and_coordinates_go_in_and_the_noise_comes_out():
    tree, config = recipe()
    assert tree["objective"]["denoise"].keys() == strict.to_tree(config.denoise).keys(), "the file says all there is"
    model_config = preset("0.03M")
    objective = build_objective(config, model_config)
    batch = collate(random_columns([6, 9, 4]))
    sample = objective.corrupt(batch, keys(range(3)))
    # r̃ = r + σε, as it is.
    epsilon = (sample.input.coordinates_BA3.numpy() - batch.coordinates_BA3)[batch.valid_BA] / 0.04
    assert np.abs(epsilon).max() < 5.0
    assert 0.7 < epsilon.std() < 1.3
    assert np.array_equal(sample.input.token_BA.numpy(), batch.atomic_number_BA)
    assert set(sample.counts) == set(objective.weights) == {"coordinate"}
    assert (objective.heads.token, objective.heads.coordinate, objective.heads.relations) == (False, True, ())
    torch.manual_seed(0)
    backbone = objective.build_model(model_config).backbone.eval()

    def atoms(**changes):
        corrupted = objective.corrupt(dataclasses.replace(batch, **changes), keys(range(3)))
        return backbone(corrupted.input).atom_BND

    others = collate(random_columns([6, 9, 4], seed=1))
    graph = ("atom_features_BA8", "degree_BA", "bond_features_BAA3", "path_BAA", "planar_BA3")
    assert torch.equal(atoms(**{name: getattr(others, name) for name in graph}), atoms())
    for name in ("atomic_number_BA", "coordinates_BA3"):
        assert not torch.equal(atoms(**{name: getattr(others, name)}), atoms())
