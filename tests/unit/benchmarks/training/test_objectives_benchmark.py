"""The proof that objectives learn is as good as its questions: these tests hold that it asks and answers rightly."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.training.objectives.report import all_claims, write_report
from benchmarks.training.objectives.scores import (
    MASKS,
    RELATIONS,
    VIEWS,
    WHOLE,
    blend_config,
    denoised_ratios,
    group_means,
    hidden_relations,
    teacher_baselines,
)
from unimol_scale.checkpoints.weights import save_pretrained
from unimol_scale.data.dataset import DataConfig
from unimol_scale.model.accounting import Heads
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.model.presets import preset

REPOSITORY = Path(__file__).resolve().parents[4]


@pytest.fixture
def data(sample_store: Path) -> DataConfig:
    return DataConfig(path=sample_store, workers=0, validation_molecules=6)


@pytest.fixture
def model() -> HeadedModel:
    torch.manual_seed(0)
    return HeadedModel(preset("0.03M"), Heads(coordinate=True, relations=tuple(RELATIONS))).eval()


def test_a_mask_shows_its_view_as_often_as_blending_does() -> None:
    blended = blend_config("blend").shown
    for place, view in enumerate(MASKS):
        shown = blend_config(view).shown
        assert shown[place] == pytest.approx(blended[place])
        assert sum(shown) == pytest.approx(blended[place])


def test_only_what_is_hidden_is_asked_for(model: HeadedModel, data: DataConfig) -> None:
    asked = {view: set(hidden_relations(model, view, data)) for view in VIEWS}
    everything = {"path", "edge", "distance"}
    assert asked["blend"] == asked["path mask"] == asked["edge mask"] == asked["3D mask"] == everything
    assert asked["path"] == everything - {"path"}
    assert asked["edge"] == everything - {"edge"}
    assert asked["3D"] == everything - {"distance"}


def test_who_moves_nothing_has_the_ratio_one(model: HeadedModel, data: DataConfig) -> None:
    # The coordinate head of a new model moves no atom.
    ratios = denoised_ratios(model, data, hide_features=1.0)
    assert len(ratios) >= 4
    np.testing.assert_allclose(ratios, 1.0, atol=1e-5)


def test_baselines_are_in_the_order_of_what_they_know(model: HeadedModel, data: DataConfig, tmp_path: Path) -> None:
    save_pretrained(model, tmp_path / "teacher")
    said = teacher_baselines(tmp_path / "teacher", data)
    # Normalised atoms have mean square one.
    assert said["node"]["zero"] == pytest.approx(1.0, abs=0.01)
    assert said["node"]["zero"] > said["node"]["mean"] > said["node"]["element"] > 0.0
    assert said["graph"]["zero"] > said["graph"]["mean"] > 0.0


def test_group_means() -> None:
    value_TD = torch.tensor([[1.0, 2.0], [3.0, 4.0], [7.0, 8.0]])
    assert group_means(value_TD, torch.tensor([0, 0, 2])).tolist() == [[2.0, 3.0], [0.0, 0.0], [7.0, 8.0]]


def results() -> dict[str, Any]:
    """Results in which all that is wanted is so."""

    def run(**ends: tuple[float, float]) -> dict[str, Any]:
        curves = {term: [[0, first], [8, last]] for term, (first, last) in ends.items()}
        return {"curves": curves, "seconds": 60.0, "parameters": 1000, "diverged": False}

    denoise = run(token=(4.0, 0.5), coordinate=(0.4, 0.3))
    asked = {
        kind: {name: 1.0 for name in RELATIONS if kind not in (name, {"distance": "3D"}.get(name))} for kind in WHOLE
    }
    trained = {
        name: {**copy.deepcopy(asked), **({name: dict.fromkeys(RELATIONS, 1.0)} if name in MASKS else {})}
        for name in VIEWS
    }
    trained["blend"] = {kind: dict.fromkeys(by, 0.5) for kind, by in asked.items()}
    ratio = {"median": 0.8, "low": 0.7, "high": 0.9, "below_one": 0.95, "geometries": 24}
    said = {"zero": 1.0, "mean": 0.6, "element": 0.3}
    runs = {
        "denoise": denoise,
        "denoise-padded": denoise,
        "blend": run(path=(2.5, 1.0), hidden_path=(2.5, 1.1)),
        "distill-node": run(node=(2.0, 0.2), graph=(2.0, 0.4)),
        "distill-graph": run(node=(2.0, 0.9), graph=(2.0, 0.1)),
    }
    setting = {
        "date": "2000-01-01", "machine": "a machine", "versions": "some", "command": "python …", "size": "0.03M",
        "steps": 8, "batch": 4, "learning_rate": 1e-3, "seeds": [0, 1], "molecules": 100, "validation_molecules": 6,
        "validation_repeats": 4, "manifest_sha256": "0" * 64, "views": {},
    }  # fmt: skip
    found = {
        "runs": runs,
        "relations": trained,
        "denoised": {"hidden": ratio, "shown": dict(ratio)},
        "baselines": {"node": said, "graph": dict(said)},
    }
    by_seed = {name: {seed: copy.deepcopy(value) for seed in ("0", "1")} for name, value in found.items()}
    return {"setting": setting, **by_seed}


def unmet(found: dict[str, Any]) -> set[str]:
    return {claim["wanted"] for claim in all_claims(found) if not claim["met"]}


def test_claims_follow_the_numbers_of_every_seed() -> None:
    assert unmet(results()) == set()
    # One seed of two is against each claim.
    worse = results()
    worse["runs"]["1"]["denoise"]["curves"]["token"][-1][1] = 4.5
    worse["denoised"]["1"]["shown"]["median"] = 1.01
    worse["runs"]["1"]["distill-node"]["curves"]["node"][-1][1] = 0.5
    worse["relations"]["1"]["3D"]["blend"]["edge"] = 0.4
    worse["relations"]["1"]["path mask"]["path mask"]["path"] = 0.4
    assert unmet(worse) == {
        "denoise: every validation term falls",
        "denoised nearer to clean than noised: median RMSD ratio below 1, features shown",
        "node: and nearer than the mean atom of each element (not asked for)",
        "blended beats every single view, all on blended input: hidden edge",
        "blended beats every single-view mask, each on input as it was trained with: hidden path",
    }


def test_the_report_has_tables_and_pictures_of_what_was_run(tmp_path: Path) -> None:
    folder = tmp_path / "objectives"
    folder.mkdir()
    text, _ = write_report(results(), folder)
    assert (tmp_path / "objectives.md").read_text() == text
    pictures = {"curves_denoise.png", "curves_blend.png", "curves_distill.png", "relations.png"}
    assert {path.name for path in folder.iterdir()} == pictures
    assert all(f"objectives/{name}" in text for name in pictures)

    part = {**results(), "relations": {}, "denoised": {}, "baselines": {}}
    part["runs"] = {"0": {"blend": part["runs"]["0"]["blend"]}}
    text, claims = write_report(part, folder)
    assert [claim["wanted"] for claim in claims] == ["blend: every validation term falls"]
    assert "Distilled" not in text
    assert "Hidden relations" not in text


@pytest.mark.deepspeed
def test_the_command_trains_resumes_and_reports(sample_store: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.training.objectives", "--data", str(sample_store)]
    command += ["--size", "0.03M", "--steps", "8", "--batch", "4", "--validation-molecules", "6", "--only", "denoise"]
    command += ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "out" / "objectives")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    first = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=REPOSITORY)
    assert first.returncode == 0, first.stderr
    report = (tmp_path / "out" / "objectives.md").read_text()
    assert "denoise: every validation term falls" in report
    assert sorted(path.name for path in (tmp_path / "out" / "objectives").iterdir())[-1] == "results.json"
    again = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=REPOSITORY)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("already finished") == 1
