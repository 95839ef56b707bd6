"""Fine-tuning, prediction and embedding show molecules as pretraining has shown them, and say so where it has not."""

import dataclasses
import json
import logging
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import unimol_scale as us
from tests.helpers.tiny_finetuning import MOLECULES, SEEDS, TINY
from unimol_scale.checkpoints.weights import identify, save_pretrained
from unimol_scale.data.input_views import STANDARD_VIEWS, InputView
from unimol_scale.downstream.data import batches
from unimol_scale.downstream.embedding.embed_file import embed_file
from unimol_scale.downstream.embedding.representations import RepresentationConfig
from unimol_scale.downstream.embedding.row_chunks import EmbedFileConfig
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.downstream.finetuning.model.saved_model import read_config
from unimol_scale.downstream.finetuning.predict import predict_file
from unimol_scale.model.accounting import DENOISE_HEADS
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.objectives.blend import BlendConfig, BlendObjective
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseObjective

FLAT = InputView(geometry="planar")
NOISE_ONLY = DenoiseConfig(predict="noise", mask_fraction=0.0, hide_features=1.0, flat_geometry=0.0)
SEEN = {
    "uni-mol2": DenoiseObjective(DenoiseConfig()).seen(TINY),
    "noise-only": DenoiseObjective(NOISE_ONLY).seen(TINY),
    "blend": BlendObjective(BlendConfig(atom_features="own", show_degree=False)).seen(TINY),
    "unknown": None,
}
NEVER_2D = "inputs 2d: this model was not pretrained on such input, only 3d"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The same weights, whose files say that different things were shown to them."""
    folder = tmp_path_factory.mktemp("models")
    for name, seen in SEEN.items():
        torch.manual_seed(7)
        save_pretrained(HeadedModel(TINY, DENOISE_HEADS, seen), folder / name)
    return folder


@pytest.fixture
def views(monkeypatch):
    """How molecules are shown, in the order of the micro-batches."""
    shown, plain = [], batches.clean_input

    def spy(batch, view, model):
        shown.append(view)
        return plain(batch, view, model)

    monkeypatch.setattr(batches, "clean_input", spy)
    return shown


@pytest.fixture
def predicted(place, tmp_path):
    """Predict the molecules with a folder; return the values and the lines that are printed."""

    def run(folder):
        (tmp_path / "asked.csv").write_text("\n".join(["smiles", *MOLECULES]) + "\n")
        said = predict_file(
            tmp_path / "asked.csv", folder, tmp_path / "p.parquet", smiles_column=None, skip_bad=False,
            cache=place / "cache", max_pairs=10_000, device_name="cpu",
        )  # fmt: skip
        return np.array(pq.read_table(tmp_path / "p.parquet")["size"]), said

    return run


@pytest.mark.parametrize(
    ("name", "inputs", "view"),
    [
        ("uni-mol2", "2d", FLAT),
        ("blend", "2d", InputView(atom_features="own", degree=False, pairs=("path", "edge"), geometry="none")),
        ("blend", "3d", InputView(atom_features="own", degree=False, pairs=("distance",))),
        ("noise-only", None, STANDARD_VIEWS["3d"]),
        ("unknown", "2d", STANDARD_VIEWS["2d"]),
    ],
)
def test_a_model_is_fine_tuned_and_predicts_on_what_pretraining_has_shown(
    models, settings, predicted, views, name, inputs, view
):
    config = settings(pretrained=str(models / name), inputs=inputs, seeds=1)
    notes = finetune(config).notes
    assert not [note for note in notes if "pretraining has never" in note]
    assert set(views) == {view}
    views.clear()
    said = predicted(config.folder)[1]
    assert set(views) == {view}
    assert "pretraining has never" not in said
    assert read_config(config.folder).inputs == (inputs or "3d")


def test_what_pretraining_has_not_shown_is_warned_of_wherever_it_is_used(
    models, settings, predicted, place, caplog, tmp_path
):
    config = settings(pretrained=str(models / "noise-only"), inputs="2d", seeds=1)
    with caplog.at_level(logging.WARNING, logger="unimol_scale"):
        notes = finetune(config).notes
    assert any(NEVER_2D in record.getMessage() for record in caplog.records)
    assert any(NEVER_2D in note for note in notes)
    assert NEVER_2D in (config.folder / "report.md").read_text()
    assert NEVER_2D in predicted(config.folder)[1]
    with pytest.warns(UserWarning, match=NEVER_2D):
        us.predict(config.folder, ["CCO"], cache=place / "cache", device="cpu")
    with pytest.warns(UserWarning, match=NEVER_2D):
        us.from_pretrained(models / "noise-only").embed(["CCO"], inputs="2d", cache=place / "cache")
    lines = embed_file(
        EmbedFileConfig(
            source=tmp_path / "asked.csv", pretrained=str(models / "noise-only"), output=tmp_path / "e.parquet",
            representation=RepresentationConfig(inputs="2d"), cache=place / "cache", device="cpu",
        )
    )  # fmt: skip
    assert NEVER_2D in lines


def test_embedding_shows_what_pretraining_has_shown(models, views, place, tmp_path):
    us.from_pretrained(models / "uni-mol2").embed(["CCO"], inputs="2d", cache=place / "cache")
    assert views == [FLAT]
    (tmp_path / "one.smi").write_text("CCO\n")
    views.clear()
    embed_file(
        EmbedFileConfig(
            source=tmp_path / "one.smi", pretrained=str(models / "noise-only"), output=tmp_path / "e.parquet",
            representation=RepresentationConfig(), cache=place / "cache", device="cpu",
        )
    )  # fmt: skip
    assert views == [STANDARD_VIEWS["3d"]]
    assert pq.read_schema(tmp_path / "e.parquet").metadata[b"inputs"] == b"3d"


def test_random_weights_see_what_the_model_sees_that_they_are_compared_with(models, settings, views):
    config = settings(pretrained=str(models / "uni-mol2"), inputs="2d", reinitialise=True, seeds=1)
    finetune(config)
    assert set(views) == {FLAT}
    config = settings(pretrained=str(models / "noise-only"), inputs="2d", reinitialise=True, seeds=1)
    config = dataclasses.replace(config, output=config.folder.with_name("unseen"))
    assert not [note for note in finetune(config).notes if "pretraining" in note], "there was none"
    views.clear()
    fresh = settings(pretrained=None, size="0.03M", inputs="2d", seeds=1)
    finetune(dataclasses.replace(fresh, output=config.folder.with_name("fresh")))
    assert set(views) == {STANDARD_VIEWS["2d"]}


def test_a_fine_tuned_model_from_before_there_was_a_record_predicts_the_same(models, settings, predicted):
    config = settings(pretrained=str(models / "unknown"), inputs="2d", seeds=1)
    finetune(config)
    values, _ = predicted(config.folder)
    file = config.folder / "finetuned.json"
    tree = json.loads(file.read_text())
    del tree["view"], tree["pretrained_inputs"]
    file.write_text(json.dumps(tree))
    again, said = predicted(config.folder)
    np.testing.assert_array_equal(again, values)
    assert "pretraining" not in said


def test_seeds_of_one_folder_are_shown_the_same_whatever_the_model_says_by_then(models, settings, views, tmp_path):
    model = shutil.copytree(models / "unknown", tmp_path / "model")
    config = settings(pretrained=str(model), inputs="2d", seeds=1)
    finetune(config)
    hashes = json.loads((config.folder / "inputs.json").read_text())
    assert hashes.pop("view") is None
    (config.folder / "inputs.json").write_text(json.dumps(hashes))  # as a version without views wrote it
    shutil.copy(models / "uni-mol2" / "config.json", model / "config.json")
    assert identify(model).seen is not None
    assert len(finetune(dataclasses.replace(config, seeds=2)).seeds) == 2
    assert set(views) == {STANDARD_VIEWS["2d"]}
    assert read_config(config.folder).shown == STANDARD_VIEWS["2d"]
    # And the other way round.
    other = dataclasses.replace(config, output=config.folder.with_name("flat"))
    views.clear()
    finetune(other)
    shutil.copy(models / "unknown" / "config.json", model / "config.json")
    finetune(dataclasses.replace(other, seeds=SEEDS))
    assert set(views) == {FLAT}
