"""Whole fine-tunings with the settings of the papers: heads, dropouts, schedule, mean of the weights, noisy nodes."""

import dataclasses
import json
from typing import get_args

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors import safe_open

from tests.helpers.tiny_finetuning import MOLECULES, TINY, fitting
from unimol_scale.checkpoints.weights import save_pretrained
from unimol_scale.downstream.config import FinetuneTrainConfig, HeadName
from unimol_scale.downstream.finetuning import one_seed as module
from unimol_scale.downstream.finetuning import results
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.downstream.finetuning.model.saved_model import load_member, read_config
from unimol_scale.downstream.finetuning.predict import predict_molecules
from unimol_scale.errors import CheckpointError, ConfigError
from unimol_scale.model.accounting import DENOISE_HEADS, Heads
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.model.presets import DROPOUTS


def predicted(folder, cache):
    options = {"smiles_column": None, "skip_bad": False, "cache": cache, "max_pairs": None, "device_name": "cpu"}
    return predict_molecules(list(MOLECULES), folder, **options).value_SRL[0, :, 0]


@pytest.mark.parametrize("head", get_args(HeadName))
def test_a_model_with_any_head_is_saved_and_predicts_what_its_table_says(settings, place, head):
    config = settings(head=head, seeds=1, inputs="2d", pooling="virtual_node", train=fitting(epochs=2, dropout=0.2))
    done = finetune(config)
    assert np.isfinite(done.mean)
    saved = read_config(config.output)
    assert saved.head == head
    table = pq.read_table(config.output / "predictions-seed-0.parquet").column("predicted size").to_numpy()
    np.testing.assert_allclose(predicted(config.output, place / "cache"), table, rtol=1e-5)
    names = {name.partition(".")[0] for name in load_member(config.output, saved, saved.members[0]).state_dict()}
    assert names == {"backbone", "norm", "out"} | (set() if head == "linear" else {"dense"})


def test_a_folder_that_names_no_head_has_the_one_there_was(settings, place):
    config = settings(seeds=1, inputs="2d")
    finetune(config)
    expected, path = predicted(config.output, place / "cache"), config.output / "finetuned.json"
    tree = json.loads(path.read_text())
    assert tree.pop("head") == "mlp"
    for name in ("activation_dropout", "drop_path"):
        assert tree["model"].pop(name) == 0.0
    path.write_text(json.dumps(tree))
    assert np.array_equal(predicted(config.output, place / "cache"), expected)
    path.write_text(json.dumps({**tree, "head": "linear"}))
    with pytest.raises(CheckpointError, match=r"does not hold the model of finetuned\.json"):
        predicted(config.output, place / "cache")
    path.write_text(json.dumps({**tree, "head": "cubic"}))
    with pytest.raises(CheckpointError, match="head: unknown value 'cubic'"):
        predicted(config.output, place / "cache")


def test_dropouts_are_the_model_s_own_unless_the_training_has_others(settings, monkeypatch):
    trained = []
    fit = module.fit

    def watched(model, *args, **options):
        trained.append(model.backbone.config)
        return fit(model, *args, **options)

    monkeypatch.setattr(module, "fit", watched)
    own = {"backbone_dropout": 0.11, "attention_dropout": 0.12, "triangle_dropout": 0.13, "activation_dropout": 0.14}
    train = fitting(epochs=1, drop_path=0.15, dropout=0.3, **own)
    finetune(settings(seeds=1, inputs="2d", train=train))
    finetune(settings(seeds=1, inputs="2d", output=settings().output / "other", train=fitting(epochs=1, dropout=0.3)))
    assert trained == [
        dataclasses.replace(TINY, **dict(zip(DROPOUTS, (0.11, 0.12, 0.13, 0.14, 0.15), strict=True))),
        TINY,
    ]
    assert FinetuneTrainConfig(drop_path=0.0).with_dropouts(dataclasses.replace(TINY, drop_path=0.2)) == TINY


@pytest.mark.parametrize(
    ("width", "given", "rate", "epochs"),
    [
        (64, {}, 5e-4, 30),
        (256, {}, 5e-4, 30),
        (768, {}, 1e-4, 60),
        (64, {"probe": "mlp"}, 1e-4, 60),
        (64, {"learning_rate": 3e-5}, 3e-5, 30),
        (768, {"epochs": 7}, 1e-4, 7),
    ],
)
def test_rate_and_epochs_suit_the_width_of_the_model_unless_they_are_given(width, given, rate, epochs):
    train = FinetuneTrainConfig(**given).settled(width)
    assert (train.learning_rate, train.epochs) == (train.peak_rate, train.most_epochs) == (rate, epochs)


def test_a_final_rate_above_the_default_peak_is_an_error_for_that_model():
    train = FinetuneTrainConfig(end_learning_rate=2e-4)
    assert train.settled(64).end_learning_rate == 2e-4
    with pytest.raises(ConfigError, match=r"end_learning_rate must be between 0 and train\.learning_rate 0\.0001"):
        train.settled(768)


def test_models_that_are_begun_keep_their_rate_and_epochs_when_none_are_given(settings):
    """As a fine-tuning does that a version with other defaults began."""
    finetune(settings(seeds=1, inputs="2d", train=fitting(epochs=2, learning_rate=3e-3)))
    left_open = fitting(epochs=None, learning_rate=None)
    done = finetune(settings(seeds=2, inputs="2d", train=left_open))
    assert [len(seed.losses) for seed in done.seeds] == [2, 2]
    recorded = yaml.safe_load((settings().output / "config.yaml").read_text())["train"]
    assert (recorded["learning_rate"], recorded["epochs"]) == (3e-3, 2)
    with pytest.raises(ConfigError, match=r"train.epochs: 2 → 3"):
        finetune(settings(seeds=2, inputs="2d", train=fitting(epochs=3, learning_rate=None)))


def test_noise_is_predicted_by_the_pretrained_head(settings, place, tmp_path):
    """A head that moves no atom and one that does begin with other losses of the noise, and the same of the labels."""
    found = []
    for force in (0.0, 3.0):
        torch.manual_seed(7)
        pretrained = HeadedModel(TINY, DENOISE_HEADS)
        torch.nn.init.constant_(pretrained.coordinate_head.force, force)
        save_pretrained(pretrained, tmp_path / f"force-{force}")
        train = fitting(epochs=1, batch_size=32, noise_std=0.05)
        found.append(
            finetune(
                settings(
                    pretrained=str(tmp_path / f"force-{force}"), seeds=1, output=tmp_path / str(force), train=train
                )
            )
        )
    (still,), (moving,) = (done.seeds for done in found)
    assert still.noise_losses == pytest.approx([1.0], abs=0.25)
    assert moving.noise_losses[0] > 2 * still.noise_losses[0]
    assert moving.losses == pytest.approx(still.losses, rel=1e-5)
    assert results.read(tmp_path / "3.0") == found[1]
    with safe_open(tmp_path / "3.0" / "seed-0.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "coordinate" in name]  # noqa: SIM118
    assert np.isfinite(predicted(tmp_path / "3.0", place / "cache")).all()


@pytest.mark.parametrize("reinitialise", [False, True])
def test_a_model_without_a_coordinate_head_gets_a_new_one(settings, tmp_path, reinitialise):
    torch.manual_seed(7)
    save_pretrained(HeadedModel(TINY, DENOISE_HEADS if reinitialise else Heads()), tmp_path / "pretrained")
    train = fitting(epochs=1, batch_size=32, noise_std=0.05)
    done = finetune(settings(pretrained=str(tmp_path / "pretrained"), reinitialise=reinitialise, seeds=1, train=train))
    assert done.seeds[0].noise_losses == pytest.approx([1.0], abs=0.25)


def test_without_noise_none_is_reported(finished):
    config, done = finished
    assert all(seed.noise_losses == () for seed in done.seeds)
    tree = json.loads((config.output / "results.json").read_text())
    assert tree["seeds"][0].pop("noise_losses") == []
    (config.output / "results.json").write_text(json.dumps(tree))
    assert results.read(config.output) == done, "a file of an earlier version"


def test_graphs_have_no_coordinates_to_noise(settings, place):
    torch.manual_seed(0)
    save_pretrained(HeadedModel(dataclasses.replace(TINY, geometry=False), Heads()), place / "graphs")
    noisy = fitting(epochs=1, noise_std=0.05)
    for change in ({"inputs": "2d"}, {"pretrained": str(place / "graphs")}):
        with pytest.raises(ConfigError, match=r"train\.noise_std is noise on coordinates, but the model .* sees none"):
            finetune(settings(train=noisy, **change))
        assert not settings().output.exists() or not any(settings().output.iterdir())
