"""The checklist of a report: what the runs recorded, and that what they did not is said to be so."""

import json
from pathlib import Path

import yaml

from tests.helpers.simulated_runs import write_ladder
from unimol_scale.scaling.law.analysis import Analysis, AnalysisConfig, analyse
from unimol_scale.scaling.law.fit import FitConfig
from unimol_scale.scaling.report.checklist import law_checklist
from unimol_scale.scaling.report.law_report import to_markdown
from unimol_scale.scaling.runs.read_runs import read_runs

TRAIN = {
    "beta1": 0.9,
    "beta2": 0.99,
    "weight_decay": 1e-4,
    "gradient_clip": 1.0,
    "schedule": "linear",
    "warmup_steps": 20,
    "precision": "fp32",
}


def runs(root: Path) -> Path:
    write_ladder(root, steps=(200, 800, 3200), noise=0.001)
    for folder in root.iterdir():
        tree = yaml.safe_load((folder / "config.yaml").read_text())
        rate = 1e-3 if folder.name.startswith("0.") else 5e-4
        model = {"layers": 4 if folder.name.startswith("0.") else 6, "atom_width": 32, "dropout": 0.1}
        data = {"path": "/somewhere/secret/zinc"}
        tree = {**tree, "train": {**tree["train"], **TRAIN, "learning_rate": rate}, "model": model, "data": data}
        (folder / "config.yaml").write_text(yaml.safe_dump(tree))
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps({**summary, "unique_molecules": 5120}))
    return root


def analysed(folder: Path, **settings: object) -> Analysis:
    records, notes = read_runs([folder])
    config = {"law": "chinchilla", "fit": FitConfig(bootstrap=50), **settings}
    return analyse(records, notes, AnalysisConfig(**config))  # type: ignore[arg-type]


def test_what_the_runs_recorded_is_reported(tmp_path: Path) -> None:
    analysis = analysed(runs(tmp_path / "runs"))
    tree = law_checklist(analysis)
    assert list(tree) == ["Form of the law", "Training setup", "Data collection", "Fit"]
    setup = tree["Training setup"]
    assert setup["optimizer"] == "AdamW; beta1 0.9, beta2 0.99, weight decay 0.0001, gradient clipped at 1.0"
    assert setup["learning rate"] == "0.0005, 0.001"
    assert setup["schedule"] == "linear"
    assert setup["warm-up"] == "20 steps"
    assert setup["width and depth"] == "4 layers of 32, 6 layers of 32"
    assert setup["repetition"] == "2.5 to 40 epochs of 5.12k distinct molecules"
    assert setup["data set"] == "zinc"  # and not where it lies on a machine
    assert "teacher's forward pass" in setup["FLOPs are counted as"]
    assert setup["parameters are counted as"] == "all parameters, embeddings and heads included"
    fit = tree["Fit"]
    assert "Huber" in fit["objective"]
    assert "delta 0.001" in fit["objective"]
    assert "50 bootstrap fits" in fit["uncertainty"]
    assert "3 held-out points" in fit["validation"]
    text = to_markdown(analysis, {})
    assert "## How this law was made" in text
    assert "| warm-up | 20 steps |" in text
    assert "secret" not in text


def test_what_nobody_recorded_is_said_to_be_not_recorded(tmp_path: Path) -> None:
    rows = [(n, d, 0.3 + 60 / n**0.4 + 150 / d**0.5) for n in (1e5, 4e5, 1.6e6, 6.4e6) for d in (1e4, 1e5, 1e6)]
    (tmp_path / "t.csv").write_text("N,D,loss\n" + "".join(f"{n},{d},{loss}\n" for n, d, loss in rows))
    setup = law_checklist(analysed(tmp_path / "t.csv"))["Training setup"]
    for question in ("optimizer", "schedule", "learning rate", "repetition", "data set", "FLOPs are counted as",
                     "parameters are counted as", "width and depth", "seeds"):  # fmt: skip
        assert setup[question] == "not recorded", question
    assert setup["data of each"] == "10k to 1M samples"


def test_how_many_did_not_record_it_is_said(tmp_path: Path) -> None:
    folder = runs(tmp_path / "runs")
    settings = folder / "4M-800-0" / "config.yaml"
    settings.write_text(settings.read_text().replace("schedule: linear", "unknown: 1"))
    setup = law_checklist(analysed(folder))["Training setup"]
    assert setup["schedule"] == "linear (not recorded by 1 run)"


def test_points_along_runs_are_named_as_such(tmp_path: Path) -> None:
    analysis = analysed(runs(tmp_path / "runs"), burn_in=0.5, hold_out="none")
    collection = law_checklist(analysis)["Data collection"]
    assert collection["checkpoints used"].startswith(
        f"{len(analysis.points)} validations along 18 runs, after the first 50%"
    )
