"""The report of a fine-tuning, report.md, with its pictures."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.outcome import Outcome
from unimol_scale.downstream.pictures import MOST_PANELS, draw_course, draw_predictions
from unimol_scale.downstream.rows import PREDICTED
from unimol_scale.store.files import commit_text
from unimol_scale.store.schema import Float64

REPORT_NAME = "report.md"


def write_report(folder: Path, outcome: Outcome, config: FinetuneConfig) -> None:
    """Write the report and its pictures from the outcome and the predictions in the folder."""
    picture = "parity.png" if outcome.task == "regression" else "roc.png"
    labels_RL, predictions = _test_rows(folder, outcome)
    draw_predictions(folder / picture, outcome, labels_RL, predictions)
    draw_course(folder / "course.png", outcome)
    commit_text(folder / REPORT_NAME, "\n".join(_lines(outcome, config, picture)) + "\n")


def _test_rows(folder: Path, outcome: Outcome) -> tuple[Float64, list[Float64]]:
    labels, predictions = [], []
    for seed in outcome.seeds:
        table = pq.read_table(folder / f"predictions-seed-{seed.seed}.parquet")
        test = np.array([part == "test" for part in table["split"].to_pylist()])
        columns = [np.stack([_floats(table, f"{prefix}{t}") for t in outcome.targets], 1) for prefix in ("", PREDICTED)]
        labels.append(columns[0][test])
        predictions.append(columns[1][test])
    return labels[0], predictions


def _floats(table: object, name: str) -> Float64:
    column = table[name]  # type: ignore[index]
    values: Float64 = column.to_numpy(zero_copy_only=False).astype(np.float64)
    return values


def _lines(outcome: Outcome, config: FinetuneConfig, picture: str) -> list[str]:
    sizes = outcome.split_sizes
    fraction = "" if config.label_fraction == 1.0 else f" ({config.label_fraction:.0%} of the training rows)"
    used = sum(sizes.values())
    several = len(outcome.seeds) > 1
    lines = [
        f"# {outcome.name} from {outcome.start}",
        "",
        f"- {outcome.task}, {len(outcome.targets)} target{'s' if len(outcome.targets) > 1 else ''}; "
        f"{outcome.metric} of the test rows: **{outcome.mean:.4g}**"
        + (f" ± {outcome.std:.2g}{_unit(outcome)} over {len(outcome.seeds)} seeds" if several else _unit(outcome)),
        f"- {config.split} split: {sizes['train']:,} train{fraction}, {sizes['valid']:,} valid, "
        f"{sizes['test']:,} test; "
        f"{outcome.rows:,} rows in the data, {used:,} used, {outcome.skipped:,} without a usable molecule"
        + (" (skipped.csv)" if outcome.skipped else "")
        + (f", {outcome.unlabelled:,} without a label" if outcome.unlabelled else ""),
    ]
    lines += [f"- {note}" for note in outcome.notes]
    lines.append(f"- {outcome.leakage}" if outcome.leakage else "- leakage: no pretraining store to look into")
    lines += ["", f"![]({picture})", "", "![](course.png)", "", "## Seed by seed", ""]
    lines += [f"| seed | best epoch | of | valid {outcome.metric} | test {outcome.metric} |", "| --- " * 5 + "|"]
    lines += [f"| {s.seed} | {s.best_epoch} | {len(s.losses)} | {s.valid:.4g} | {s.test:.4g} |" for s in outcome.seeds]
    if len(outcome.targets) > 1:
        lines += ["", "## Target by target", "", f"| target | unit | test {outcome.metric} |", "| --- " * 3 + "|"]
        for at, target in enumerate(outcome.targets):
            mean = outcome.target_mean(at)
            shown, name = "undefined" if mean is None else f"{mean:.4g}", target.replace("|", r"\|")
            lines.append(f"| {name} | {outcome.units.get(target, '')} | {shown} |")
    if len(outcome.targets) > MOST_PANELS:
        lines += ["", f"The picture shows the first {MOST_PANELS} targets."]
    undefined = sorted({reason for seed in outcome.seeds for reason in seed.undefined})
    if undefined:
        lines += ["", "Not defined, and left out of the mean: " + "; ".join(undefined) + "."]
    return lines


def _unit(outcome: Outcome) -> str:
    """Return the unit of the score, where it has one and it is the same for all targets."""
    units = {outcome.units.get(target, "") for target in outcome.targets}
    if outcome.metric not in ("rmse", "mae") or units == {""}:
        return ""
    return f" {units.pop()}" if len(units) == 1 else " (mean over targets in different units)"
