"""A report can be made again, and extended, from what an earlier one left."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.downstream.folds import run_folds
from benchmarks.downstream.folds.fold_baselines import BEST
from benchmarks.downstream.folds.fold_report import write_fold_report
from benchmarks.downstream.folds.report_results import RESULTS_NAME, read_results
from benchmarks.downstream.folds.results_of_set import SetResults
from unimol_scale.errors import ConfigError, SourceError


def without_first_lines(path):
    """Return a report without its head and its end, which say how it and earlier ones were made."""
    return path.read_text().split("## Overview")[1].split("## Results of earlier reports")[0].rstrip()


def origins(path):
    """Return what a report says of the results of earlier ones."""
    return path.read_text().split("## Results of earlier reports")[1]


def test_a_report_that_is_made_again_says_the_same(results, tmp_path):
    found = [
        results("A", denoise=0.4, scratch=1.0, baseline=0.6, chemprop=0.5, probe_of_denoise=0.7),
        results("A", 0.25, denoise=0.7, scratch=1.0, baseline=0.8),
        results("B", metric="roc_auc", denoise=0.5, scratch=0.9, baseline=0.7),
    ]
    folds = found[0].starts[0].result.outcome.folds
    start = replace(found[0].starts[0], rates={fold: 1e-4 if fold.fold == 1 else 5e-4 for fold in folds})
    forest = replace(found[0].references[0], name="random forest")
    found[0] = replace(found[0], starts=(start, *found[0].starts[1:]), baselines=(forest,))
    write_fold_report(tmp_path / "first.md", "first", found)
    again = read_results(tmp_path / "first")
    write_fold_report(tmp_path / "again.md", "again", again)

    text = without_first_lines(tmp_path / "first.md").replace("first/", "again/")
    shown = without_first_lines(tmp_path / "again.md")
    by_molecules = [line for line in text.splitlines() if line not in shown.splitlines()]
    # The interval over molecules, last of a row, is of predictions that were rounded.
    assert len(by_molecules) < 4
    for line in by_molecules:
        assert line.rsplit(" | ", 1)[0] in shown
    first, second = ((tmp_path / name / RESULTS_NAME).read_text() for name in ("first", "again"))
    assert len(first) == pytest.approx(len(second), abs=200)
    for one, other in zip(found, again, strict=True):
        assert one.to_scratch(one.starts[0]) == other.to_scratch(other.starts[0])
        for mine, theirs in zip(one.all_results, other.all_results, strict=True):
            np.testing.assert_allclose(theirs.rows.prediction_TL, mine.rows.prediction_TL, rtol=8e-3)


def test_rows_and_missing_labels_of_several_targets_come_back(set_rows, labels_of, tmp_path):
    data = set_rows("classes").at(1.0)
    one = SetResults(set="T", fraction=1.0, references=(data.result("tool", tmp_path, labels_of(data), start="tool"),))
    write_fold_report(tmp_path / "report.md", "", [one])
    (again,) = read_results(tmp_path / "report")
    mine, theirs = one.references[0], again.references[0]
    np.testing.assert_array_equal(theirs.rows.labels_TL, mine.rows.labels_TL)
    np.testing.assert_array_equal(theirs.rows.row_T, mine.rows.row_T)
    assert theirs.rows.smiles_T == mine.rows.smiles_T
    assert theirs.outcome.fold_scores == mine.outcome.fold_scores
    assert theirs.outcome.test_to_train == mine.outcome.test_to_train


def test_what_is_found_now_replaces_what_was_reported_and_the_rest_stays(results, tmp_path):
    old = [results("ESOL", denoise=0.5, scratch=1.0), results("BBBP", metric="roc_auc", denoise=0.5, scratch=1.0)]
    write_fold_report(tmp_path / "old.md", "by the old command", old)
    new = [results("BBBP", 0.25, "roc_auc", denoise=0.9, scratch=1.0), replace(old[0], baselines=())]
    joined = run_folds.with_earlier(new, tmp_path / "old")
    assert [(one.set, one.fraction) for one in joined] == [("ESOL", 1.0), ("BBBP", 1.0), ("BBBP", 0.25)]
    assert joined[0] == new[1]
    assert joined[1].made.endswith("`by the old command`")
    write_fold_report(tmp_path / "new.md", "by the new command", joined)
    assert [one.made.rpartition(": ")[2] for one in read_results(tmp_path / "new")] == [
        "`by the new command`", "`by the old command`", "`by the new command`"
    ]  # fmt: skip
    said = origins(tmp_path / "new.md")
    assert "`by the old command`\n    - denoise, scratch (denoise): BBBP 100%\n" in said
    assert "ESOL" not in said
    assert "new command" not in said
    assert joined[1].starts[0].result.scores_J.tolist() == old[1].starts[0].result.scores_J.tolist()


def test_a_new_start_joins_the_earlier_ones_of_its_set(results, tmp_path):
    full = results("ESOL", denoise=0.5, scratch=1.0, baseline=0.7, chemprop=0.2, probe_of_denoise=0.6)
    old = replace(full, references=full.references[:1])
    write_fold_report(tmp_path / "old.md", "by the old command", [old])
    longer = replace(old.starts[0], result=replace(full.references[1], name="longer"))
    (both,) = run_folds.with_earlier([SetResults(set="ESOL", fraction=1.0, starts=(longer,))], tmp_path / "old")
    assert [one.result.name for one in both.starts] == ["longer", "denoise", "scratch (denoise)"]
    assert both.to_scratch(longer).is_significantly_better
    assert both.to_reference(longer, both.references[0].name).value < 0
    assert [one.title for one in both.probes] == ["denoise"]

    write_fold_report(tmp_path / "new.md", "by the new command", [both])
    kept_ones = "denoise, scratch (denoise), best fingerprint baseline, probe of denoise: ESOL 100%"
    assert f"`by the old command`\n    - {kept_ones}\n" in origins(tmp_path / "new.md")
    (kept,) = read_results(tmp_path / "new")
    assert kept.made.endswith("`by the new command`")
    assert set(kept.made_of) == {result.name for result in both.all_results} - {"longer"}
    assert kept.made_of["denoise"].endswith("`by the old command`")
    for one, other in zip(kept.starts, both.starts, strict=True):
        assert one.result.scores_J.tolist() == other.result.scores_J.tolist()


def test_a_report_of_one_question_takes_single_results_of_an_earlier_report(results, tmp_path):
    full = results("ESOL", denoise=0.5, scratch=1.0, baseline=0.7, probe_of_denoise=0.6)
    write_fold_report(tmp_path / "old.md", "by the old command", [full, results("BBBP", denoise=0.5, scratch=1.0)])
    blend = replace(full.starts[0], result=replace(full.starts[0].result, name="blend"))
    now = [SetResults(set="ESOL", fraction=1.0, starts=(blend,))]
    (one,) = run_folds.with_earlier(now, tmp_path / "old", ["scratch (denoise)"])
    assert [each.name for each in (*one.all_results, *one.baselines)] == ["blend", "scratch (denoise)"]
    assert one.to_scratch(blend).is_significantly_better
    with pytest.raises(ConfigError, match=r"--earlier-only student: .* has no result of this name; it has .*denoise"):
        run_folds.with_earlier(now, tmp_path / "old", ["student"])


def test_the_fingerprint_baseline_stays_the_first_reference_when_a_tool_joins(results, tmp_path):
    full = results("ESOL", denoise=0.5, scratch=1.0, baseline=0.7, chemprop=0.2)
    write_fold_report(tmp_path / "old.md", "", [replace(full, references=full.references[:1])])
    tool = SetResults(set="ESOL", fraction=1.0, references=full.references[1:])
    (both,) = run_folds.with_earlier([tool], tmp_path / "old")
    assert [one.name for one in both.references] == [BEST, "chemprop"]


def test_a_start_that_was_tested_on_other_folds_does_not_join(results, set_rows, labels_of, tmp_path):
    write_fold_report(tmp_path / "old.md", "", [results("ESOL", denoise=0.5, scratch=1.0)])
    data = set_rows().at(1.0)
    other = SetResults(
        set="ESOL", fraction=1.0, references=(data.result("tool", tmp_path, labels_of(data), start="tool"),)
    )
    with pytest.raises(ConfigError, match="cannot be compared"):
        run_folds.with_earlier([other], tmp_path / "old")


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(SourceError, match="does not hold the results of a report"):
        read_results(tmp_path)
    (tmp_path / RESULTS_NAME).write_text("[]")
    with pytest.raises(SourceError, match="does not hold the results of a report"):
        read_results(tmp_path)
