"""The line on how sure predictions are names the targets without enough calibration rows together."""

import dataclasses

import unimol_scale as us
from tests.helpers.tiny_finetuning import CARBON, MOLECULES
from unimol_scale.downstream.finetuning.confidence.headline import headline, short_headline


def test_targets_with_too_few_calibration_rows_are_named_in_one_sentence(place, tmp_path):
    targets = {f"assay {at}": (CARBON + at).astype(float) for at in range(4)}
    fitted = us.finetune(
        place / "pretrained", {"smiles": list(MOLECULES), **targets}, target=list(targets), split="random", seeds=1,
        inputs="2d", baselines=False, output=tmp_path / "many", cache=place / "cache", device="cpu",
        settings={"train.epochs": 1},
    )  # fmt: skip
    said = "none for assay 0, assay 1, assay 2 and 1 more, which have 3 calibration rows; this coverage needs 9"
    line = short_headline(fitted.result)[0]
    assert line.endswith(f": {said}")
    report = fitted.report.read_text()
    assert said in report
    assert "They are calibrated on" not in report


def test_a_mean_score_says_of_how_many_targets_it_is(place, tmp_path):
    """A test set of few rows may have one class only of most targets, which then count for nothing in the mean."""
    targets = {f"assay {at}": (at < CARBON).astype(float) for at in (2, 3)}
    fitted = us.finetune(
        place / "pretrained", {"smiles": list(MOLECULES), **targets}, target=list(targets), split="random", seeds=1,
        inputs="2d", baselines=False, output=tmp_path / "two", cache=place / "cache", device="cpu",
        settings={"train.epochs": 1, "metric": "accuracy"},
    )  # fmt: skip
    assert headline(fitted.result)[0].endswith(", mean of 2 targets")
    seeds = tuple(dataclasses.replace(seed, test_by_target=(0.5, None)) for seed in fitted.result.seeds)
    said = ", mean of 1 of 2 targets; the test rows cannot judge the others (see below)"
    assert headline(dataclasses.replace(fitted.result, seeds=seeds))[0].endswith(said)
