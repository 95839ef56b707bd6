"""Writes the report of a fine-tuning: report.md with its pictures, and report.html, the same report in one file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from unimol_scale.common.files import commit_text
from unimol_scale.common.report.html_page import html_page
from unimol_scale.common.report.markdown import markdown_line, markdown_table
from unimol_scale.common.units import counted
from unimol_scale.downstream.baselines.baseline_results import TRIVIAL
from unimol_scale.downstream.baselines.table_features import ECFP_COUNTS, ECFP_RADIUS, NUM_DESCRIPTORS
from unimol_scale.downstream.baselines.table_models import TREES
from unimol_scale.downstream.baselines.verdict_words import (
    METRIC_WORDS,
    count_verdicts,
    shown_baseline,
    shown_metric,
    shown_value,
    shown_verdict,
)
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.data.skipped_rows import ROW_NUMBERS
from unimol_scale.downstream.finetuning.cautions import describe_spread
from unimol_scale.downstream.finetuning.confidence.headline import headline
from unimol_scale.downstream.finetuning.confidence.worst_predictions import WorstPrediction
from unimol_scale.downstream.finetuning.folds.fold_files import read_out_of_fold
from unimol_scale.downstream.finetuning.folds.fold_lines import describe_score, describe_split, fold_table
from unimol_scale.downstream.finetuning.labelled_rows import CONFORMER_SPREAD, PREDICTED
from unimol_scale.downstream.finetuning.reporting.finetune_pictures import (
    COURSE_PICTURE,
    LOSS_PICTURE,
    MOST_PANELS,
    draw_predictions,
    draw_training_curves,
)
from unimol_scale.downstream.finetuning.reporting.learning_curve import CurvePoint, curve_section
from unimol_scale.downstream.finetuning.reporting.molecule_sections import cliff_section, worst_section
from unimol_scale.downstream.finetuning.results import HEADLINE_TARGETS, FinetuneResult, plus_minus, sample_std
from unimol_scale.downstream.finetuning.tuning.tuning_lines import tuning_table
from unimol_scale.downstream.labels.confusion_matrix import (
    confusion_lines,
    count_confusions,
    true_class_probabilities,
)
from unimol_scale.downstream.labels.learning_notes import STANDARDISED
from unimol_scale.store.schema import Float64

REPORT_NAME, PAGE_NAME = "report.md", "report.html"


def write_report(
    folder: Path,
    outcome: FinetuneResult,
    config: FinetuneConfig,
    worst: Sequence[WorstPrediction],
    curve: Sequence[CurvePoint],
) -> None:
    """Write report and pictures from the results and the predictions in the folder.

    Args:
        folder: folder of the fine-tuning.
        outcome: results of the fine-tuning.
        config: settings of the fine-tuning.
        worst: test rows with the worst predictions, the worst first.
        curve: points of the learning curve; empty if there is no curve.
    """
    pictures, spread_lines, more = [], [], []
    if outcome.has_test:
        picture = "confusion.png" if outcome.outputs.num_classes else "roc.png"
        picture = "parity.png" if outcome.task == "regression" else picture
        pictures.append(f"![]({picture})")
        labels_RL, predictions = _test_rows(folder, outcome)
        draw_predictions(folder / picture, outcome, labels_RL, predictions)
        spread_lines += _spread_lines(outcome, labels_RL, predictions)
        if config.conformers > 1:
            spread_lines.append(_conformer_line(folder, outcome, config))
        if outcome.outputs.num_classes:
            more = confusion_lines(outcome.outputs, count_confusions(outcome.outputs, labels_RL, predictions))
    if outcome.has_course:
        pictures.append(f"![]({LOSS_PICTURE}) ![]({COURSE_PICTURE})")
        draw_training_curves(folder, outcome)
    lines = _lines(outcome, config, pictures, spread_lines)
    more += curve_section(folder, outcome, curve)
    more += [*worst_section(folder, outcome, worst), *cliff_section(folder, outcome)]
    text = "\n".join([*lines, *more]) + "\n"
    commit_text(folder / REPORT_NAME, text)
    commit_text(folder / PAGE_NAME, html_page(text, folder))


def _test_rows(folder: Path, outcome: FinetuneResult) -> tuple[Float64, list[Float64]]:
    """Return labels [R, L] of the test rows and predictions [R, W] of each seed, or of each repeat."""
    if outcome.folds:
        return read_out_of_fold(folder, outcome.outputs).by_repeat()
    labels, predictions = [], []
    for seed in outcome.seeds:
        table = pq.read_table(folder / f"predictions-seed-{seed.seed}.parquet")
        test = np.array([part == "test" for part in table["split"].to_pylist()])
        labels.append(outcome.outputs.read_labels(table)[test])
        predictions.append(outcome.outputs.read_values(table, PREDICTED)[test])
    return labels[0], predictions


def _conformer_line(folder: Path, outcome: FinetuneResult, config: FinetuneConfig) -> str:
    """Return how much the predictions of the test rows vary over the conformers of a molecule."""
    said = []
    names = outcome.outputs.names
    for name in names[:HEADLINE_TARGETS]:
        deviations = []
        for seed in outcome.seeds:
            table = pq.read_table(folder / f"predictions-seed-{seed.seed}.parquet")
            test = np.array([part == "test" for part in table["split"].to_pylist()])
            deviations.append(_floats(table, f"{name}{CONFORMER_SPREAD}")[test])
        known = np.concatenate(deviations)
        known = known[~np.isnan(known)]
        unit = outcome.units.get(name, "") if outcome.task == "regression" else ""
        shown = f"{known.mean():.3g}{f' {unit}' if unit else ''}" if len(known) else "not known (one conformer each)"
        said.append(shown if len(names) == 1 else f"{name} {shown}")
    more = len(names) - HEADLINE_TARGETS
    return (
        f"predictions are means over up to {config.conformers} conformers per molecule; the standard deviation over "
        f"conformers, averaged over test rows and seeds, is {', '.join(said)}"
        + (f" (for {more:,} more, see the prediction files)" if more > 0 else "")
    )


def _floats(table: object, name: str) -> Float64:
    column = table[name]  # type: ignore[index]
    values: Float64 = column.to_numpy(zero_copy_only=False).astype(np.float64)
    return values


def _lines(
    outcome: FinetuneResult, config: FinetuneConfig, pictures: Sequence[str], spread_lines: Sequence[str]
) -> list[str]:
    sizes = outcome.split_sizes
    fraction = "" if config.label_fraction == 1.0 else f" ({config.label_fraction:.0%} of the training rows)"
    used = sum(sizes.values())
    divided = (
        f"{config.split} split: {sizes['train']:,} train{fraction}, {sizes['valid']:,} valid, {sizes['test']:,} test"
    )
    if "calibration" in sizes:
        divided += f", {sizes['calibration']:,} only for calibration"
    if outcome.folds:
        divided = describe_split(outcome, config)
    lines = [
        f"# {outcome.describe()}",  # with the warnings, so that they are not overlooked
        "",
        *([*headline(outcome), ""] if outcome.confidence is not None else []),
        *_against_baselines(outcome),
        "In detail:",
        "",
        f"- {outcome.task}, {counted(len(outcome.targets), 'target')}; {_result(outcome)}",
        *([f"- {outcome.metric}: {METRIC_WORDS[outcome.metric]}"] if outcome.metric in METRIC_WORDS else []),
        *(f"- {line}" for line in spread_lines),
        f"- {divided}; {outcome.rows:,} rows in the data, {used:,} used, {outcome.skipped:,} without a usable molecule"
        + (" (skipped.csv)" if outcome.skipped else "")
        + (f", {outcome.unlabelled:,} without a label" if outcome.unlabelled else "")
        + f"; {ROW_NUMBERS}",
    ]
    lines += [f"- {markdown_line(note)}" for note in (*outcome.notes, *_baseline_notes(outcome))]
    if outcome.has_test:
        lines.append(f"- {outcome.leakage}" if outcome.leakage else "- leakage: no pretraining store to compare with")
    lines += [f"- {line}" for line in ([STANDARDISED] if outcome.task == "regression" else []) + _bound_lines(outcome)]
    lines += [
        "",
        *(line for picture in pictures for line in (picture, "")),
        f"## {'Fold by fold' if outcome.folds else 'Seed by seed'}",
        "",
    ]
    lines += fold_table(outcome) if outcome.folds else _by_seed(outcome)
    if len(outcome.targets) > 1 and outcome.has_test:
        lines += _by_target(outcome)
    if len(outcome.targets) > MOST_PANELS and outcome.has_test:
        lines += ["", f"The picture shows the first {MOST_PANELS} targets."]
    lines += tuning_table(outcome.tuning, outcome.metric)
    lines += _row_lines(outcome)
    undefined = sorted({reason for seed in outcome.seeds for reason in seed.undefined})
    if undefined:
        lines += ["", "Undefined scores, which are left out of the mean: " + "; ".join(undefined) + "."]
    return lines


_ROW_WORDS = {
    "rows": "in the data",
    "unlabelled": "with a usable molecule but no label",
    "unused": "in no part of the split",
    "used": "used",
    "reduced_to_fragment": "used, reduced to the largest fragment",
    "isotopes_removed": "used, without their isotope labels",
    "repeated_molecule": "used, with the same molecule as another row (each row counts)",
    "bounds": "labels of used rows that are bounds",
}


def _row_lines(outcome: FinetuneResult) -> list[str]:
    """Return a table that counts used, skipped and unlabelled rows."""
    if not outcome.row_counts:
        return []
    rows = []
    for key, count in outcome.row_counts.items():
        words = _ROW_WORDS.get(key) or f"without a usable molecule: {key.removeprefix('skipped ')}"
        if count or key in ("rows", "used"):
            rows.append([words, f"{count:,}"])
    return ["", "## Rows", "", *markdown_table(["outcome", "rows"], rows)]


def _bound_lines(outcome: FinetuneResult) -> list[str]:
    """Return a line on the number of bounds that the predictions of all models violate."""
    said = []
    for part in outcome.split_sizes:
        total = sum(seed.bounds.get(part, 0) for seed in outcome.seeds)
        if total:
            wrong = sum(seed.violated_bounds[part] for seed in outcome.seeds)
            said.append(f"{wrong:,} of {total:,} ({wrong / total:.0%}) in {part}")
    if not said:
        return []
    return [
        f"censored labels (bounds): the predictions of all models together violate {', '.join(said)}; scores and "
        "baselines use only the other labels"
    ]


def _against_baselines(outcome: FinetuneResult) -> list[str]:
    """Return lines that compare the models with the baselines, and a table of all scores."""
    found = outcome.baselines
    if found is None:
        return []
    best, others = found.best, [name for name in found.names if name != found.chosen]
    lines = [] if outcome.confidence is not None else [f"**{outcome.verdict}**", ""]  # otherwise the headline has it
    if len(outcome.targets) > 1:
        lines += [f"Target by target, against the best baseline: {count_verdicts(best)}.", ""]
    unit = f" ({outcome.unit})" if outcome.unit else ""
    standardised = not outcome.has_mean
    metric = outcome.metric + (unit or (" (in standard deviations of the training labels)" if standardised else ""))
    shown = shown_metric(outcome.metric)
    against = f"model's {shown} {'÷' if best.is_ratio else '−'} this {shown}, 95 % interval"

    def row(label: str, name: str | None, difference: str = "") -> list[str]:
        scores = (found.mean(name, part=part, standardised=standardised) for part in ("valid", "test"))
        return [label, *("undefined" if score is None else f"{score:.4g}" for score in scores), difference]

    several = len({member.chosen for member in found.members}) > 1
    chosen = "chosen for each split" if several else shown_baseline(found.chosen)
    valid, test = _model_scores(outcome)
    return [
        *lines,
        *markdown_table(
            ["predictor", f"valid {metric}", f"test {metric}", against],
            [
                ["this model", valid, test, ""],
                row(f"best baseline: {chosen}", None, f"{shown_value(best)}: {shown_verdict(best.verdict)}"),
                *(row(shown_baseline(name), name) for name in (found.names if several else others)),
                row(
                    outcome.outputs.trivial,
                    TRIVIAL,
                    f"{shown_value(found.trivial)}: {shown_verdict(found.trivial.verdict)}",
                ),
            ],
        ),
        "",
    ]


def _model_scores(outcome: FinetuneResult) -> tuple[str, str]:
    """Return the scores on validation and test rows, as means over seeds."""
    if outcome.has_mean:
        both = [(seed.valid, seed.test) for seed in outcome.seeds]
    else:
        both = [(seed.valid_scaled, outcome.standardised(seed)) for seed in outcome.seeds]
    pairs = [(valid, test) for valid, test in both if test is not None]
    valid, test = (plus_minus(float(np.mean(values)), sample_std(values)) for values in zip(*pairs, strict=True))
    return valid, test


def _baseline_notes(outcome: FinetuneResult) -> list[str]:
    """Return lines that say what the baselines are, and which rows they did not use."""
    found = outcome.baselines
    if found is None:
        return []
    files = ", ".join(f"baselines-seed-{member.seeds[0]}.parquet" for member in found.members)
    notes = [
        f"baselines: random forests of {TREES} trees and gradient boosting (scikit-learn) on ECFP counts "
        f"(Morgan, radius {ECFP_RADIUS}, {ECFP_COUNTS:,} numbers) and on {NUM_DESCRIPTORS} RDKit descriptors, fitted "
        "to the same training rows; the best is the one with the best validation score. The intervals come from a "
        "paired bootstrap over test molecules and seeds, so they apply to molecules like the test molecules. "
        f"Predictions for validation and test rows: {files}"
    ]
    limits: dict[str, int] = {}
    for member in found.members:
        limits |= member.limits
    if limits:
        rows = max(member.train_rows for member in found.members)
        said = ", ".join(f"{shown_baseline(name)} {most:,}" for name, most in limits.items())
        notes.append(
            f"to save time, some baselines were fitted to a random subset of the {rows:,} training rows ({said}); with "
            "all rows they would probably be better"
        )
    if unreadable := max(member.unreadable for member in found.members):
        notes.append(
            f"baselines: RDKit cannot read the SMILES of {unreadable:,} rows, which are left out of the baselines and "
            "of the comparison"
        )
    return notes


def _result(outcome: FinetuneResult) -> str:
    """Return the score of the test rows in words; targets in different units have no common score."""
    if not outcome.has_test:
        return "no rows were set aside for a test, so the quality of the models is unknown"
    if not outcome.has_mean:
        means = [value for value in map(outcome.standardised, outcome.seeds) if value is not None]
        common = f"; the mean in standard deviations of the training labels is {np.mean(means):.3g}" if means else ""
        return f"{outcome.metric} of the test rows: see the scores of each target below, whose units differ{common}"
    if outcome.folds:
        return describe_score(outcome)
    text = f"{outcome.metric} of the test rows: **{outcome.mean:.4g}**"
    unit = f" {outcome.unit}" if outcome.unit else ""
    if len(outcome.seeds) == 1:
        return f"{text}{unit}"
    return f"{text} ± {outcome.seed_std:.2g}{unit} over {len(outcome.seeds)} seeds (their standard deviation)"


def _spread_lines(outcome: FinetuneResult, labels_RL: Float64, predictions: Sequence[Float64]) -> list[str]:
    """Return whether the spread over seeds grows with the error, and the share of labels within twice the spread."""
    if len(predictions) < 2 or outcome.folds:
        return []
    value_SRL = np.stack(predictions)
    if outcome.outputs.num_classes:
        value_SRL = true_class_probabilities(labels_RL, value_SRL)
        labels_RL = np.where(np.isnan(labels_RL), np.nan, 1.0)  # what that probability should be
    there_RL = ~np.isnan(labels_RL)
    error_RL, spread_RL = np.abs(value_SRL.mean(0) - labels_RL), value_SRL.std(0, ddof=1)
    said = [] if outcome.confidence is not None else [describe_spread(spread_RL, error_RL)]  # else the headline says it
    if outcome.task == "regression":
        within = (error_RL <= 2.0 * spread_RL)[there_RL].mean()
        said.append(
            "the spread over seeds (seed_std of `predict`) is not an error bar: "
            f"{within:.0%} of the test labels lie within twice the spread; for two standard errors it would be about "
            "95 %"
        )
    return said


def _by_seed(outcome: FinetuneResult) -> list[str]:
    metric = outcome.metric if outcome.has_mean else f"{outcome.metric} (in standard deviations of the training labels)"
    rows, parts = [], 2 if outcome.has_test else 1
    for seed in outcome.seeds:
        valid: float | None = seed.valid
        test: float | None = seed.test
        if not outcome.has_mean:
            valid, test = seed.valid_scaled, outcome.standardised(seed)
        shown = ["not known" if value is None else f"{value:.4g}" for value in (valid, test)]
        epochs = [str(seed.best_epoch), str(len(seed.losses))] if outcome.has_course else []
        rows.append([str(seed.seed), *epochs, *shown[:parts]])
    header = ["seed", *(["best epoch", "of"] if outcome.has_course else [])]
    return markdown_table([*header, *(f"{part} {metric}" for part in ("valid", "test")[:parts])], rows)


def _by_target(outcome: FinetuneResult) -> list[str]:
    unit = ["unit"] if any(outcome.units.get(target) for target in outcome.targets) else []
    header = ["target", *unit, f"test {outcome.metric}", f"predicting {outcome.outputs.trivial}", "test molecules"]
    baselines = outcome.baselines
    if baselines is not None:
        header[-2:-2] = ["best baseline", "difference"]
    rows = []
    for at, target in enumerate(outcome.targets):
        mean = outcome.target_mean(at)
        shown = "undefined" if mean is None else plus_minus(mean, outcome.target_std(at))
        trivial = outcome.trivial[at] if outcome.trivial else None
        molecules = f"{outcome.test_molecules[at]:,}" if outcome.test_molecules else ""
        predicted = "" if trivial is None else f"{trivial:.4g}"
        cells = [target, *([outcome.units.get(target, "")] if unit else []), shown, predicted, molecules]
        if baselines is not None:
            best = baselines.target_mean(at)
            cells[-2:-2] = [
                "undefined" if best is None else f"{best:.4g}",
                shown_verdict(baselines.best.verdict_by_target[at]),
            ]
        rows.append(cells)
    return ["", "## Target by target", "", *markdown_table(header, rows)]
