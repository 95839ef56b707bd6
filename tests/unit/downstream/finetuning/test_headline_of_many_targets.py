"""The line on how sure predictions are names the targets without enough calibration rows together."""

import numpy as np

import unimol_scale as us
from tests.helpers.tiny_finetuning import AROMATIC, CARBON, MOLECULES
from unimol_scale.downstream.finetuning.confidence.headline import short_headline


def test_rare_classes_of_many_targets_are_named_in_one_sentence(place, tmp_path):
    targets = {f"assay {at}": ((CARBON + at) % 2).astype(int) for at in range(4)}
    table = {"smiles": list(MOLECULES), **targets, "aromatic": AROMATIC.astype(int)}
    fitted = us.finetune(
        place / "pretrained", table, target=list(targets), split="random", seeds=1, inputs="2d", baselines=False,
        output=tmp_path / "many", cache=place / "cache", device="cpu", settings={"train.epochs": 1},
    )  # fmt: skip
    rows = [one.calibration_rows for one in fitted.result.confidence.conformal.targets]
    assert np.all(np.array(rows) < 9)
    line = short_headline(fitted.result)[0]
    assert line.count("this coverage takes 9") == 1
    assert "none for assay 0, assay 1, assay 2 and 1 more, which have " in line
    report = fitted.report.read_text()
    assert line.removeprefix("how sure: ") in report
    assert "They are calibrated on" not in report
