"""Explanations find the rule that a model has learnt, and are written as a table, pictures and a page."""

import csv
import itertools
import re

import numpy as np
import pytest
import torch
from rdkit import Chem

import unimol_scale as us
from tests.helpers.tiny_finetuning import TINY, fitting, write_table
from unimol_scale.checkpoints.weights import save_pretrained
from unimol_scale.cli.main import main
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.explanation.explain import explain_molecules
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.errors import SourceError
from unimol_scale.model.accounting import Heads
from unimol_scale.model.model_with_heads import HeadedModel

ENDS = ("C", "N", "O", "CN", "CCO", "F")
MIDDLES = ("CC", "CNC", "c1ccc(cc1)", "c1cnc(cc1)", "CC(N)C", "CC(O)CC")
OPTIONS = {"smiles_column": None, "skip_bad": False, "max_pairs": None, "device_name": "cpu"}


def make_molecules():
    pairs = [f"{one}{middle}{other}" for one, middle, other in itertools.product(ENDS, MIDDLES, ENDS)]
    return list(dict.fromkeys(Chem.CanonSmiles(text) for text in pairs))


def count_nitrogens(smiles):
    return sum(atom.GetAtomicNum() == 7 for atom in Chem.MolFromSmiles(smiles).GetAtoms())


@pytest.fixture(scope="module")
def counter(place):
    """The shipped model, whose pretraining had the mask, fitted to the number of nitrogen atoms."""
    smiles = make_molecules()
    data = write_table(place / "planted.csv", smiles=smiles, nitrogens=[count_nitrogens(text) for text in smiles])
    config = FinetuneConfig(
        data=data, pretrained="unimol-scale-2m-v2", targets=("nitrogens",), units={"nitrogens": "atoms"},
        split="random", seeds=1, output=place / "counter", cache=place / "cache", conformer_workers=1, device="cpu",
        inputs="2d", train=fitting(epochs=10, learning_rate=5e-4, batch_size=16), baselines=False,
    )  # fmt: skip
    return finetune(config), config.folder


def test_of_a_model_that_counts_nitrogens_they_get_the_highest_values(counter, place):
    result, folder = counter
    assert result.mean < 0.35, "the rule was learnt"
    asked = ["NCCc1ccc(O)cc1", "CC(N)CN", "OCCc1cnccc1", "CCNCCF"]  # none was in the data
    found = explain_molecules(asked, folder, cache=place / "cache", **OPTIONS)
    for one in found.molecules:
        value_A, is_nitrogen_A = one.attribution_AW[:, 0], np.array(one.elements) == "N"
        assert value_A[is_nitrogen_A].min() > np.abs(value_A[~is_nitrogen_A]).max() + 0.2, (one.smiles, value_A)
        assert value_A[is_nitrogen_A].mean() == pytest.approx(1.0, abs=0.5)
    predicted = us.predict(folder, asked, cache=place / "cache").values[:, 0]
    assert [one.prediction_W[0] for one in found.molecules] == pytest.approx(predicted, abs=1e-5)


def test_a_table_a_picture_of_each_and_a_page_are_written(counter, place, tmp_path, capsys):
    _, folder = counter
    (tmp_path / "asked.smi").write_text("CCN\nbroken(\nCCO\n")
    arguments = ["explain", str(folder), str(tmp_path / "asked.smi"), "--output", str(tmp_path / "why")]
    arguments += ["--cache", str(place / "cache"), "--device", "cpu"]
    assert main(arguments) == 2
    assert "row 2 'broken('" in capsys.readouterr().err
    assert main([*arguments, "--skip-bad"]) == 0
    assert f"2 molecules explained: {tmp_path}/why/explanations.html; 1 row skipped" in capsys.readouterr().out
    with (tmp_path / "why" / "attributions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["row"], row["atom"], row["element"]) for row in rows] == [
        (molecule, str(at), element) for molecule, elements in (("1", "CCN"), ("3", "CCO"))
        for at, element in enumerate(elements)
    ]  # fmt: skip
    assert float(rows[2]["nitrogens"]) == max(float(row["nitrogens"]) for row in rows)
    page = (tmp_path / "why" / "explanations.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 2
    assert not re.search(r'src="(?!data:)', page)
    picture = (tmp_path / "why" / "molecules" / "1-1.svg").read_text()
    assert "<svg" in picture


def test_python_explains_the_same_with_one_call(counter, place, tmp_path):
    result, folder = counter
    fitted = us.FinetunedModel(folder=folder, result=result)
    found = fitted.explain("CCN", cache=place / "cache", output=tmp_path / "why")
    assert found.molecules[0].elements == ("C", "C", "N")
    assert (tmp_path / "why" / "explanations.html").is_file()
    with pytest.raises(SourceError, match="nothing to explain"):
        us.explain(folder, ["broken("], cache=place / "cache")


def test_hidden_hydrogens_go_with_their_atom():
    from unimol_scale.data.batch import MoleculeBatch
    from unimol_scale.downstream.explanation.occlusion import NOTHING, HidingSampleMaker

    bonds_BAA3 = np.zeros((3, 4, 4, 3), np.uint8)  # C-O with two hydrogens behind them, one on each
    for one, other in ((0, 1), (0, 2), (1, 3)):
        bonds_BAA3[:, one, other, 0] = bonds_BAA3[:, other, one, 0] = 1
    batch = MoleculeBatch(
        num_atoms_B=np.full(3, 4, np.int32), valid_BA=np.ones((3, 4), bool),
        atomic_number_BA=np.array([[6, 8, 1, 1]] * 3, np.uint8), atom_features_BA8=np.zeros((3, 4, 8), np.uint8),
        degree_BA=np.ones((3, 4), np.uint8), bond_features_BAA3=bonds_BAA3, path_BAA=np.ones((3, 4, 4), np.int16),
        coordinates_BA3=np.zeros((3, 4, 3), np.float32), planar_BA3=np.zeros((3, 4, 3), np.float32),
        labels_BL=np.zeros((3, 1)),
        conformer_origin_B=np.zeros(3, np.uint8),
    )  # fmt: skip
    maker = HidingSampleMaker(
        view=None, model=None, hidden_C=np.array([NOTHING, 0, 1]), heavy_C=np.array([2, 2, 2])
    )  # fmt: skip
    hidden_BA = maker._hidden(batch, np.arange(3))
    assert hidden_BA.tolist() == [[False] * 4, [True, False, True, False], [False, True, False, True]]
    assert torch.from_numpy(hidden_BA).dtype == torch.bool


@pytest.mark.parametrize(("heads", "warns"), [(Heads(relations=("path",)), True), (Heads(token=True), False)])
def test_a_model_that_never_saw_hidden_atoms_is_explained_with_a_caution(place, settings, tmp_path, heads, warns):
    save_pretrained(HeadedModel(TINY, heads), tmp_path / "pretrained")
    finetune(settings(pretrained=str(tmp_path / "pretrained"), seeds=1, train=fitting(epochs=1), inputs="2d"))
    found = us.explain(settings().output, ["CCN"], cache=place / "cache")
    assert any("Pretraining hid no atoms" in note for note in found.notes) == warns


def test_a_model_whose_weights_started_at_random_is_explained_with_a_caution(place, settings, tmp_path):
    finetune(settings(reinitialise=True, seeds=1, train=fitting(epochs=1), inputs="2d"))
    found = us.explain(settings().output, ["CCN"], cache=place / "cache", output=tmp_path / "why")
    assert "have never seen the mask" in found.notes[0]
    assert "have never seen the mask" in (tmp_path / "why" / "explanations.md").read_text()
