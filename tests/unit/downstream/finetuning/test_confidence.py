"""How sure the predictions of a fine-tuning are: what its folder keeps, what its report and predict say of it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import unimol_scale as us
from tests.helpers.tiny_finetuning import AROMATIC, CARBON, MOLECULES, TINY, fitting
from unimol_scale.checkpoints.weights import save_pretrained
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.finetuning.confidence.calibration_file import (
    Calibration,
    calibrate_out_of_fold,
    conformal_rows,
    read_calibration,
)
from unimol_scale.downstream.finetuning.confidence.headline import headline, short_headline
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.downstream.finetuning.model.saved_model import read_config
from unimol_scale.downstream.finetuning.results import read
from unimol_scale.downstream.labels.outputs import Outputs
from unimol_scale.errors import CheckpointError, ConfigError
from unimol_scale.model.accounting import DENOISE_HEADS
from unimol_scale.model.model_with_heads import HeadedModel

WIDE = (0.4, 0.35, 0.25)  # with ten rows for validation


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A table of a number and a class, and a pretrained model."""
    folder = tmp_path_factory.mktemp("confidence")
    lines = [f"{s},{c},{int(a)}" for s, c, a in zip(MOLECULES, CARBON, AROMATIC, strict=True)]
    (folder / "set.csv").write_text("\n".join(["smiles,size,ring", *lines]) + "\n")
    torch.manual_seed(1)
    save_pretrained(HeadedModel(TINY, DENOISE_HEADS), folder / "pretrained")
    return folder


def settings(place, name, **changes):
    given = {
        "data": place / "set.csv", "pretrained": str(place / "pretrained"), "targets": ("size",), "split": "random",
        "seeds": 2, "inputs": "2d", "fractions": WIDE, "output": place / name, "cache": place / "cache",
        "conformer_workers": 1, "device": "cpu", "train": fitting(epochs=2), "baselines": False,
    }  # fmt: skip
    return FinetuneConfig(**{**given, **changes})


@pytest.fixture(scope="module")
def model(place):
    finetune(settings(place, "plain"))
    return place / "plain"


def predictions(folder):
    return us.FinetunedModel(folder=folder, result=read(folder))


def test_an_interval_is_the_prediction_and_the_quantile_of_the_validation_rows(model):
    valid = predictions(model).predictions("valid")
    residuals = np.sort(np.abs(valid["size"] - valid["predicted size"]))
    assert len(residuals) == 10
    found = us.predict(model, ["CCO", "no molecule", "CCCl"], device="cpu")
    half = residuals[9]  # ⌈(10 + 1) · 0.9⌉ = 10
    usable = [0, 2]
    np.testing.assert_allclose(found.low[usable, 0], found.values[usable, 0] - half)
    np.testing.assert_allclose(found.high[usable, 0], found.values[usable, 0] + half)
    assert np.isnan(found.low[1]).all()
    assert found.class_sets is None
    narrower = us.predict(model, ["CCO"], coverage=0.5, device="cpu")
    np.testing.assert_allclose(narrower.high[0, 0] - narrower.values[0, 0], residuals[5])
    assert {"size low", "size high", "in_domain"} <= set(found.to_dict())


def test_the_report_leads_with_four_lines_and_the_command_ends_with_them(model):
    report = (model / "report.md").read_text().splitlines()
    assert report[2:6] == headline(read(model))
    assert [line.split("**")[1] for line in report[2:6]] == [
        "How good:",
        "Against what:",
        "How sure:",
        "Where not to use it:",
    ]
    test = predictions(model).predictions("test")
    valid = predictions(model).predictions("valid")
    half = np.abs(valid["size"] - valid["predicted size"]).max()
    held = np.mean(np.abs(test["size"] - test["predicted size"]) <= half)
    assert f"contain {held:.0%} of {len(test['size'])} test labels (95 % interval " in report[4]
    assert f"mean width {2 * half:.3g}" in report[4]
    assert "the validation rows, which also chose the epochs" in report[4]
    sure, where = short_headline(read(model))
    assert sure.startswith("how sure: the 90 % intervals of `predict` contain")
    assert where.startswith("where not to use it: ")


def test_a_training_molecule_is_its_own_neighbour_and_another_world_is_outside(model):
    train = predictions(model).predictions("train")
    found = us.predict(model, [*train["smiles"].tolist(), "F[P-](F)(F)(F)(F)F"], coverage=0.5, device="cpu")
    domain = found.domain
    assert domain["nearest_training_smiles"][:-1].tolist() == train["smiles"].tolist()
    np.testing.assert_array_equal(domain["nearest_training_label"][:-1], train["size"])
    np.testing.assert_array_equal(domain["similarity"][:-1], 1.0)
    np.testing.assert_allclose(domain["vector_similarity"][:-1], 1.0, atol=1e-3)
    assert domain["in_domain"][:-1].all()
    assert domain["in_domain"].dtype == bool
    rule = read_config(model).domain
    assert bool(domain["in_domain"][-1]) == (
        domain["similarity"][-1] >= rule.fingerprint and domain["vector_similarity"][-1] >= rule.vector
    )
    assert us.predict(model, ["CCO"], domain=False, device="cpu").domain == {}


def test_a_coverage_for_which_there_are_too_few_rows_is_refused(model):
    with pytest.raises(ConfigError, match=r"coverage: no intervals for \w+: a coverage of 0\.99 needs 99 .* has 10;"):
        us.predict(model, ["CCO"], coverage=0.99, device="cpu")
    with pytest.raises(ConfigError, match="coverage must be at least"):
        us.predict(model, ["CCO"], coverage=90, device="cpu")


def test_a_damaged_file_is_told(model, tmp_path):
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    (copy / "calibration.parquet").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"calibration\.parquet is damaged"):
        us.predict(copy, ["CCO"], device="cpu")


def test_a_folder_of_an_earlier_version_predicts_as_before_with_a_line(model, tmp_path):
    expected = us.predict(model, ["CCO", "CCN"], domain=False, device="cpu")
    left_out = shutil.ignore_patterns("calibration.parquet", "domain.parquet")
    old = Path(shutil.copytree(model, tmp_path / "old", ignore=left_out))
    lacking = us.predict(old, ["CCO", "CCN"], device="cpu")  # a model whose training molecules were not passed on
    assert [note.rsplit(" ", 1)[-1] for note in lacking.notes] == ["calibration.parquet", "domain.parquet"]
    np.testing.assert_array_equal(lacking.values, expected.values)
    tree = json.loads((old / "finetuned.json").read_text())
    del tree["conformal"], tree["domain"]
    (old / "finetuned.json").write_text(json.dumps(tree))
    found = us.predict(old, ["CCO", "CCN"], device="cpu")
    np.testing.assert_array_equal(found.values, expected.values)
    assert set(found.to_dict()) == {"smiles", "size", "size seed_std", "reason", "smiles_used", "changes"}
    assert len(found.notes) == 1
    assert "fine-tune again" in found.notes[0]
    with pytest.raises(ConfigError, match=r"coverage 0\.8: no intervals and no nearest training molecules"):
        us.predict(old, ["CCO"], coverage=0.8, device="cpu")
    results = json.loads((old / "results.json").read_text())
    del results["confidence"]
    (old / "results.json").write_text(json.dumps(results))
    assert headline(read(old)) == []
    assert short_headline(read(old)) == []


def test_another_coverage_is_assessed_anew_without_training(place, model):
    before = read(model)
    after = finetune(settings(place, "plain", coverage=0.6, domain=False))
    assert after.seeds == before.seeds
    assert after.confidence.conformal.coverage == 0.6
    assert after.confidence.domain is None
    assert read_config(model).domain is None
    again = finetune(settings(place, "plain"))
    assert again.confidence == before.confidence


def test_rows_that_are_set_aside_train_nothing_and_calibrate(place):
    outcome = finetune(settings(place, "aside", calibration_fraction=0.4, coverage=0.5, seeds=1))
    parts = {name: predictions(place / "aside").predictions(name) for name in ("train", "calibration", "valid")}
    whole = predictions(place / "plain").predictions("train")
    sizes = {name: len(part["row"]) for name, part in parts.items()}
    assert (sizes["calibration"], sizes["train"]) == (4, 8)
    assert sorted([*parts["train"]["row"], *parts["calibration"]["row"]]) == sorted(whole["row"])
    splits = pq.read_table(place / "aside" / "splits.parquet").to_pydict()
    assert splits["part"].count("calibration") == 4
    assert outcome.split_sizes["calibration"] == 4
    config = read_config(place / "aside")
    assert config.conformal.rows == "calibration"
    kept = read_calibration(place / "aside", config.outputs, config.conformal)
    assert sorted(kept.row_N) == sorted(parts["calibration"]["row"])
    assert "reserved for calibration" in (place / "aside" / "report.md").read_text()
    assert outcome.confidence.spread == ""  # of one seed


def test_normalised_intervals_follow_the_spread_of_the_seeds(place, model):
    finetune(settings(place, "normalised", conformal="normalised"))
    found = us.predict(place / "normalised", list(MOLECULES[:5]), device="cpu")
    width = found.high[:, 0] - found.low[:, 0]
    (floor,) = read_config(place / "normalised").conformal.floor_L
    np.testing.assert_allclose(width / (found.seed_std[:, 0] + floor), width[0] / (found.seed_std[0, 0] + floor))
    for wrong in ({"seeds": 1}, {"split": "random-kfold"}):
        with pytest.raises(ConfigError, match="conformal=normalised needs"):
            settings(place, "wrong", conformal="normalised", **wrong)


def test_classes_get_sets(place):
    finetune(settings(place, "classes", targets=("ring",), coverage=0.5))
    found = us.predict(place / "classes", list(MOLECULES[:4]), device="cpu")
    assert found.low is None
    assert set(found.class_sets[:, 0]) <= {"{}", "{0}", "{1}", "{0, 1}"}
    valid = predictions(place / "classes").predictions("valid")
    one = valid["ring"] == 1
    cut = np.sort(1.0 - valid["predicted ring"][one])[int(np.ceil((one.sum() + 1) * 0.5)) - 1]
    has_one = np.array(["1" in text for text in found.class_sets[:, 0]])
    np.testing.assert_array_equal(has_one, 1.0 - found.values[:, 0] <= cut)
    assert "with a single class" in (place / "classes" / "report.md").read_text()


def test_every_row_of_a_cross_validation_calibrates_with_the_models_that_had_not_seen_it(place):
    outcome = finetune(settings(place, "folds", split="random-kfold", seeds=None, folds=3, repeats=2))
    folder = place / "folds"
    kept = calibrate_out_of_fold(folder, outcome.seeds, outcome.outputs)
    assert len(kept.row_N) == len(MOLECULES)
    assert all(len(models) == 2 for models in kept.models)
    tables = [pq.read_table(folder / f"predictions-seed-{seed.seed}.parquet").to_pydict() for seed in outcome.seeds]
    for at, row in enumerate(kept.row_N.tolist()):
        models = kept.models[kept.group_N[at]]
        assert [tables[model]["split"][row - 1] for model in models] == ["test", "test"]
        mean = np.mean([tables[model]["predicted size"][row - 1] for model in models])
        assert kept.prediction_NW[at, 0] == pytest.approx(mean)
    config = read_config(folder)
    read_back = read_calibration(folder, config.outputs, config.conformal)
    found = us.predict(folder, ["CCO", "CCCCN"], device="cpu")
    assert (found.low <= found.high).all()
    assert sorted(read_back.models) == sorted(kept.models)
    assert outcome.confidence.conformal.targets[0].found.rows == len(MOLECULES)
    assert outcome.confidence.domain.inside + outcome.confidence.domain.outside == len(MOLECULES)
    with pytest.raises(ConfigError, match="calibration_fraction applies to single splits"):
        settings(place, "wrong", split="random-kfold", seeds=None, calibration_fraction=0.1)


def test_a_group_of_rows_is_judged_by_the_models_that_had_not_seen_it():
    """Two models, each of which had not seen half of the rows: interval ends are votes of all rows (CV+)."""
    group_N = np.arange(20) % 2
    calibration = Calibration(
        row_N=np.arange(20), models=((0,), (1,)), group_N=group_N, labels_NL=np.zeros((20, 1)),
        prediction_NW=np.full((20, 1), 1.0), spread_NW=np.full((20, 1), np.nan),
    )  # fmt: skip
    found = conformal_rows(
        calibration, np.array([[[10.0]], [[30.0]]]), Outputs(task="regression", targets=("size",)), 0.9
    )
    assert (found.low_RL.item(), found.high_RL.item()) == (9.0, 31.0)


def test_settings_of_the_intervals_are_checked(place):
    for changes, said in (({"coverage": 1.0}, "coverage must be"), ({"calibration_fraction": 1.0}, "must be in")):
        with pytest.raises(ConfigError, match=said):
            settings(place, "wrong", **changes)
    with pytest.raises(ConfigError, match="conformal=normalised applies to regression"):
        finetune(settings(place, "wrong", targets=("ring",), conformal="normalised"))
