"""The overview marks and counts what is significant; the gain is followed over the labels; all predictions are kept."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.downstream.folds.fold_baselines import BEST
from benchmarks.downstream.folds.label_efficiency import label_efficiency
from benchmarks.downstream.folds.overview import overview, plus_minus
from benchmarks.downstream.folds.raw_predictions import write_predictions
from benchmarks.downstream.folds.results_of_set import Family


def test_marks_and_counts_say_what_is_significantly_better_and_worse(results):
    lines = overview(
        [
            results("A", denoise=0.2, scratch=1.0, baseline=0.6),
            results("B", denoise=1.0, scratch=1.01, baseline=0.2, chemprop=0.2),
            results("C", metric="roc_auc", denoise=1.6, scratch=0.2, baseline=0.2),
        ]
    )
    cells = {line.split(" | ")[0][2:3]: line.split(" | ") for line in lines if line.startswith("| ")}
    assert cells["A"][2].endswith(" ↑▲")
    assert cells["B"][2].endswith(" ▼")
    assert cells["B"][3].endswith(" ▼")
    assert cells["C"][2].endswith(" ↓▼")
    assert cells["C"][0] == "| C (roc_auc; higher is better)"
    assert cells["A"][5] == "– |"
    assert cells["A"][1] == "3 folds × 2 repeats"
    said = (
        "- denoise: significantly better than scratch on 1 of 3 sets, significantly worse on 1, better than or not "
        f"significantly different from the {BEST} on 1 of 3"
    )
    assert said in lines
    text = "\n".join(lines)
    assert "| denoise | scratch | 1 | 1 |" in text
    assert f"| denoise | {BEST} | 1 | 0 | 0 | 2 |" in text


def test_a_difference_is_the_same_from_both_ends(results):
    one = results("A", denoise=0.2, scratch=1.0, baseline=0.6)
    family = Family([one.main[0], one.main[2]])
    there, back = family.between("denoise", BEST), family.between(BEST, "denoise")
    assert there.value == -back.value == pytest.approx(one.main[0].scores_J.mean() - one.main[2].scores_J.mean())
    assert (there.interval.low, there.interval.high) == (-back.interval.high, -back.interval.low)
    better = int((one.main[0].scores_J < one.main[2].scores_J).sum())
    assert (there.folds_better, back.folds_better) == (better, 6 - better)
    assert there.is_significantly_better
    assert back.is_significantly_worse
    assert one.to_reference(one.starts[0], BEST) == there
    assert one.to_reference(one.starts[0], "chemprop") is None


def test_two_digits_of_the_interval_are_shown(results):
    one = results("A", denoise=0.2).main[0]
    interval = one.outcome.interval
    half = (interval.high - interval.low) / 2
    mean, ends = plus_minus(one).split(" ± ")
    assert float(ends) == pytest.approx(half, rel=0.05)
    assert len(ends.lstrip("0.")) == 2
    assert float(mean) == pytest.approx(one.outcome.mean, abs=half / 10)


def test_label_efficiency_has_the_mean_gain_of_the_sets_with_all_shares(results, tmp_path):
    found = [
        results("A", 1.0, denoise=0.5, scratch=1.0),
        results("A", 0.25, denoise=0.5, scratch=2.0),
        results("B", 1.0, denoise=0.1, scratch=1.0),
    ]
    (tmp_path / "out").mkdir()
    lines = label_efficiency(found, tmp_path / "out")
    (row,) = [line for line in lines if line.startswith("| denoise")]
    _, name, sets, quarter, full, _ = (cell.strip() for cell in row.split("|"))
    assert (name, sets) == ("denoise", "1")
    for shown, one in ((quarter, found[1]), (full, found[0])):
        own, scratch = (result.scores_J.mean() for result in one.fine_tuned)
        assert shown == f"{1 - own / scratch:+.1%}"
    more = label_efficiency([*found, results("B", 0.1, scratch=1.0), results("C", 0.1, scratch=1.0)], tmp_path / "out")
    assert f"| denoise | 1 | – | {quarter} | {full} |" in more
    assert (tmp_path / "out" / "label_efficiency.png").stat().st_size > 10_000
    assert label_efficiency(found[:1], tmp_path / "out") == []


def test_raw_predictions_give_the_scores_again(results, tmp_path):
    found = [
        results("A", denoise=0.5, scratch=1.0, baseline=0.3, probe_of_denoise=0.4, seeds=2),
        results("B", 0.25, denoise=0.5),
    ]
    write_predictions(tmp_path / "all.parquet", found)
    table = pq.read_table(tmp_path / "all.parquet").to_pandas()
    assert len(table) == 2 * 2 * 90
    assert table[table.set == "B"][BEST].isna().all()
    for one in found:
        here = table[(table.set == one.set) & (table.fraction == one.fraction)]
        for result in one.all_results:
            rows = result.rows
            at = (rows.repeat_T == 2) & (rows.fold_T == 3)
            fold = here[(here.repeat == 2) & (here.fold == 3)]
            mean = rows.prediction_TL[at, 0].reshape(len(fold), -1).mean(1)
            np.testing.assert_allclose(fold[result.name], mean, rtol=4e-3)
            np.testing.assert_array_equal(fold.label, rows.labels_TL[at, 0].reshape(len(fold), -1)[:, 0])
