"""The report of the benchmark by cross-validation: overview, label efficiency, frozen models, and every set."""

import datetime
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.common import processor
from benchmarks.downstream.folds.label_efficiency import label_efficiency
from benchmarks.downstream.folds.overview import overview, plus_minus
from benchmarks.downstream.folds.raw_predictions import PREDICTIONS_NAME, write_predictions
from benchmarks.downstream.folds.report_results import write_results
from benchmarks.downstream.folds.results_of_set import Difference, SetResults
from benchmarks.downstream.sets import file_name
from unimol_scale.common.files import commit_text
from unimol_scale.common.report.markdown import markdown_table
from unimol_scale.downstream.comparison.compare import Comparison
from unimol_scale.downstream.comparison.comparison_report import draw_intervals

DIFFERENCE_COLUMNS = ("difference", "95 % interval", "significant", "p", "folds better")


def write_fold_report(path: Path, command: str, results: Sequence[SetResults]) -> None:
    """Write the tables to ``path``, and results, pictures and raw predictions into a folder of its name.

    Args:
        path: of the Markdown file.
        command: that made it.
        results: of every set and share of labels.
    """
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    place = f"{processor()}, Python {platform.python_version()}, torch {torch.__version__}"
    made = f"{datetime.datetime.now(datetime.timezone.utc).date()}, {place}: `{command}`"
    lines = [
        *_head(made, folder.name),
        *overview(results),
        *label_efficiency(results, folder),
        *_frozen(results),
    ]
    for one in results:
        lines += _of_set(one, folder)
    lines += _earlier(results)
    commit_text(path, "\n".join(lines))
    write_results(folder, made, results)
    write_predictions(folder / PREDICTIONS_NAME, results)


def _head(made: str, folder: str) -> list[str]:
    return [
        "# The benefit of pretraining downstream, by cross-validation",
        "",
        f"- {made}",
        "- means over folds of the test scores at each model's best epoch on validation, with one and the same "
        "settings for all starts; where several learning rates were tried, each fold takes the one that is best on its "
        "validation rows",
        "- best fingerprint baseline: a random forest or gradient boosting on ECFP counts or RDKit descriptors, in "
        "each fold the one that is best on its validation rows; probes: a ridge or logistic regression on the vectors "
        "of the frozen model, whose penalty is chosen likewise",
        "- intervals: 95 %, corrected for the training rows that folds share (`unimol_scale.downstream.comparison`); "
        "a difference whose interval excludes 0 is significant. The intervals of a family hold for all its pairs "
        "together: the fine-tuned starts with scratch; the pretrained ones with the baseline, and with each other "
        "tool; the probes; the probes with the baseline. What freezing costs, and scratch with the baseline, are "
        "pairs by themselves",
        f"- raw out-of-fold predictions: {folder}/{PREDICTIONS_NAME}",
        "",
    ]


def _earlier(results: Sequence[SetResults]) -> list[str]:
    """Return which results are of earlier reports, and how those were made."""
    sets_of: dict[str, dict[tuple[str, ...], list[str]]] = {}  # report → results → sets and shares of the labels
    for one in results:
        everything = [result.name for result in (*one.all_results, *one.baselines)]
        made = {name: one.made_of.get(name, one.made) for name in everything}
        for report in filter(None, dict.fromkeys(made.values())):
            names = tuple(name for name in everything if made[name] == report)
            sets_of.setdefault(report, {}).setdefault(names, []).append(f"{one.set} {one.fraction:.0%}")
    if not sets_of:
        return []
    lines = ["## Results of earlier reports", "", "Their predictions are rounded to 0.4 %.", ""]
    for report, groups in sets_of.items():
        lines.append(f"- {report}")
        lines += [f"    - {', '.join(names)}: {'; '.join(sets)}" for names, sets in groups.items()]
    return [*lines, ""]


def _frozen(results: Sequence[SetResults]) -> list[str]:
    """Return a table of the probes: against fine-tuning, against random weights, and against the baseline."""
    if not any(one.probes for one in results):
        return []
    rows = []
    for one in results:
        for probe in one.probes:
            fine_tuned = [plus_minus(start) for start in one.fine_tuned if start.name == probe.start]
            differences = (one.to_fine_tuned(probe), one.probe_to_scratch(probe), one.probe_to_reference(probe))
            cells = [plus_minus(probe.result), *(fine_tuned or ["–"]), *(_short(each) for each in differences)]
            rows.append([f"{one.set}, {one.fraction:.0%}", probe.title, *cells])
    against = ["probe − fine-tuned", "probe − probe of scratch", "probe − best fingerprint baseline"]
    header = ["set, labels", "start", "probe", "fine-tuned", *against]
    return [
        "## Frozen models",
        "",
        "Differences with their 95 % intervals; in bold what is significant.",
        "",
        *markdown_table(header, rows),
        "",
    ]


def _short(difference: Difference | None) -> str:
    if difference is None:
        return "–"
    text = f"{difference.value:+.3g} ({difference.interval.low:+.3g} to {difference.interval.high:+.3g})"
    return f"**{text}**" if difference.is_significant else text


def _of_set(one: SetResults, folder: Path) -> list[str]:
    """Return the tables and the picture of one set with one share of the labels."""
    lines = [f"## {one.set}, {one.fraction:.0%} of the training labels", ""]
    if (comparison := one.comparison) is not None:
        picture = f"{file_name(one.set)}-{one.fraction:g}.png"
        draw_intervals(folder / picture, comparison)
        lines += [comparison.headline() + ".", "", *comparison.result_table(), "", *_bold(comparison), ""]
        lines += [f"![]({folder.name}/{picture})", "", *_rates(one)]
    if rows := _reference_rows(one):
        lines += [*markdown_table(["start − model without pretraining", *DIFFERENCE_COLUMNS], rows), ""]
    others = [*one.references, *one.baselines]
    if others:
        means = [[result.name, plus_minus(result)] for result in others]
        lines += [*markdown_table(["without pretraining", f"{others[0].outcome.metric}"], means), ""]
    return lines


def _reference_rows(one: SetResults) -> list[list[str]]:
    rows = []
    for reference in one.references:
        for start in one.starts:
            found = one.to_reference(start, reference.name)
            assert found is not None, "the reference is there"
            name = f"{start.result.name} − {reference.name}"
            rows.append(
                [
                    f"**{name}**" if found.is_significant else name,
                    f"{found.value:+.3g}",
                    f"{found.interval.low:+.3g} to {found.interval.high:+.3g}",
                    "no" if not found.is_significant else "better" if found.is_significantly_better else "worse",
                    f"{found.p:.2g}",
                    f"{found.folds_better} of {found.folds}",
                ]
            )
    return rows


def _bold(comparison: Comparison) -> list[str]:
    """Return the table of pairs with those in bold that are significant."""
    lines = comparison.pair_table()
    for at, pair in enumerate(comparison.pairs, start=2):
        if pair.is_sure:
            cells = lines[at].split(" | ")
            lines[at] = " | ".join([f"| **{cells[0].removeprefix('| ')}**", *cells[1:]])
    return lines


def _rates(one: SetResults) -> list[str]:
    """Return a line on the learning rates, where more than one was chosen from."""
    said = []
    for start in one.starts:
        chosen = list(start.rates.values())
        counts = [f"{rate:g} in {chosen.count(rate)} folds" for rate in sorted(set(chosen), reverse=True)]
        said.append(f"{start.result.name}: {', '.join(counts)}")
    several = len({rate for start in one.starts for rate in start.rates.values()}) > 1
    return [f"Learning rates: {'; '.join(said)}.", ""] if several else []
