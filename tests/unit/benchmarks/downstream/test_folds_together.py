"""The whole benchmark by cross-validation with models of no size: starts, scratch, baselines, probes, another tool."""

import dataclasses
import functools
import json

import pyarrow.parquet as pq
import pytest

from benchmarks.downstream import chemprop_folds, gains
from benchmarks.downstream.folds import run_folds
from tests.helpers.tiny_finetuning import CARBON, MOLECULES, TINY, write_table
from unimol_scale.checkpoints.weights import save_pretrained
from unimol_scale.downstream.baselines import fitted_baselines
from unimol_scale.model.accounting import Heads
from unimol_scale.model.model_with_heads import HeadedModel

TARGET = "measured log solubility in mols per litre"
NO_CONFORMER = "O=C1C[C@H]2CC[C@@]1(C)C2(C)C"  # camphor, if one of its two bridgeheads pointed the other way


@pytest.fixture
def command(tmp_path, monkeypatch, conformers):
    """Run the benchmark on thirty molecules of ESOL, one of which has no conformer; return the exit status."""
    few = functools.partial(fitted_baselines.fit_baselines, trees=5)
    monkeypatch.setattr(fitted_baselines, "fit_baselines", few)
    for name, geometry in (("denoise", True), ("student", False)):
        model = HeadedModel(dataclasses.replace(TINY, geometry=geometry), Heads())
        save_pretrained(model, tmp_path / "models" / name)
    write_table(
        tmp_path / "ESOL_delaney-processed.csv",
        smiles=[*MOLECULES[:5], NO_CONFORMER, *MOLECULES[5:]],
        **{TARGET: [*CARBON[:5], 11.0, *CARBON[5:]]},
    )
    starts = [f"--start={name}={tmp_path / 'models' / name}" for name in ("denoise", "student")]
    given = ["--moleculenet", tmp_path, "--set", "ESOL", "--split", "random-kfold", "--folds", "2", "--repeats", "1"]
    given += ["--epochs", "1", "--work", tmp_path / "work", "--cache", conformers, *starts]

    def run(*more):
        return gains.main([str(word) for word in (*given, *more)])

    return run


def test_everything_is_on_the_same_rows_and_folds_with_all_and_half_of_the_labels(command, tmp_path, monkeypatch):
    assert command("--fraction", 1, 0.5, "--splits", tmp_path / "folds") == 0

    def look_up(table, output, targets, task, seed):
        output.mkdir()
        lines = [
            line.rsplit(",", 1)[0] for line in table.read_text().splitlines() if not line.endswith(("train", "val"))
        ]
        (output / "found.csv").write_text("\n".join(lines) + "\n")
        return output / "found.csv"

    for path in sorted((tmp_path / "folds").glob("*.csv")):
        chemprop_folds.cross_validate(path, tmp_path / "tool", look_up)
    assert command("--fraction", 1, 0.5, "--part", "baselines") == 0
    report = tmp_path / "out" / "folds.md"
    report.parent.mkdir()
    poolings = ("--pooling", "mean", "layers")
    whole = ("--fraction", 1, 0.5, *poolings, "--external", f"tool={tmp_path / 'tool'}", "--output", report)
    assert command(*whole) == 0
    sets = json.loads((tmp_path / "out" / "folds" / "results.json").read_text())["sets"]
    names = ["denoise", "student", "scratch (denoise)", "scratch (student)"]
    probes = [f"probe of {name}{pooling}" for pooling in ("", ", layers") for name in names]
    for one in sets:
        assert list(one["fold_scores"])[:14] == [*names, "best fingerprint baseline", "tool", *probes]
        assert one["fold_scores"]["tool"] == [0.0, 0.0]
        assert set(one["to_scratch"]) == {"denoise", "student"}
        assert set(one["to_fine_tuned"]) == set(probes)
    table = pq.read_table(tmp_path / "out" / "folds" / "out_of_fold.parquet").to_pandas()
    assert len(table) == 2 * len(MOLECULES)
    assert not table.isna().any().any()
    full, half = (pq.read_table(path).to_pandas() for path in split_files(tmp_path))
    train = [set(map(tuple, each[each.part == "train"][["row", "fold"]].to_numpy())) for each in (full, half)]
    assert train[1] < train[0]
    text = report.read_text()
    assert "## Label efficiency" in text
    assert "## Frozen models" in text
    assert "| scratch (denoise), layers |" in text

    monkeypatch.setattr(run_folds, "fit_probe", None)
    monkeypatch.setattr(run_folds, "fit_fold_baselines", None)
    monkeypatch.setattr(run_folds.SetRows, "features", None)
    before = report.read_text()
    assert command(*whole, "--collect") == 0
    assert report.read_text() == before


def split_files(folder):
    """Return what says the parts of the rows of the denoising start, with all and with half of the labels."""
    return [folder / "work" / f"ESOL-denoise-{share}-random-kfold" / "splits.parquet" for share in ("1", "0.5")]


def test_nothing_is_computed_for_a_collection_of_what_is_not_there(command, tmp_path):
    assert command("--collect", "--output", tmp_path / "folds.md") == 0
    assert not (tmp_path / "folds.md").exists()
    assert not (tmp_path / "work").exists()
