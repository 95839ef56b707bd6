"""Writes report.md, law.json and the pictures of a law of the learning rate. Imports no torch."""

import json
from pathlib import Path

from unimol_scale.common.report.markdown import markdown_table
from unimol_scale.common.units import counted, engineering
from unimol_scale.errors import RunError
from unimol_scale.scaling.rates.rate_law import EXPONENTS, RateAnalysis
from unimol_scale.scaling.rates.rate_law_file import SCHEMA, rates_to_json
from unimol_scale.scaling.report.checklist import checklist_lines, rate_checklist
from unimol_scale.scaling.report.law_report import Rows
from unimol_scale.scaling.report.rate_pictures import draw_rate_pictures

CAPTIONS = {
    "rates.png": "Every curve is a sweep: runs that differ only in the learning rate. The best rate is the minimum "
    "of a parabola in log rate and log loss around the lowest run. A sweep whose lowest run is at its edge has no "
    "minimum.",
    "rate_law.png": "The best rate of every sweep, with its standard error, shifted by the law to the middle of the "
    "variables that the panel does not show.",
}


def write_rate_report(analysis: RateAnalysis, folder: Path) -> Path:
    """Write law.json, report.md and the pictures into a folder; it is made if needed.

    Returns:
        The path of report.md.

    Raises:
        RunError: the folder cannot be written to.
    """
    checklist = rate_checklist(analysis)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pictures = draw_rate_pictures(analysis, folder)
        tree = rates_to_json(analysis, checklist)
        (folder / "law.json").write_text(json.dumps(tree, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        lines = [
            "# The best learning rate",
            "",
            f"**{analysis.law.formula}** (natural logarithms)",
            "",
            "## In short",
            "",
        ]
        lines += [f"- {sentence}" for sentence in rate_sentences(analysis)]
        if analysis.warnings:
            lines += ["", "**Read with care:**", "", *[f"- {warning}" for warning in analysis.warnings]]
        lines += ["", "## The law", "", *markdown_table(*coefficient_rows(analysis))]
        lines += ["", "## Sweeps", "", *markdown_table(*sweep_rows(analysis))]
        for title, path in pictures.items():
            lines += ["", f"## {title}", "", CAPTIONS[path.name], "", f"![{title}]({path.name})"]
        lines += ["", "## How this law was made", "", *checklist_lines(checklist)]
        if analysis.notes:
            lines += ["", "## What was left out, and other notes", "", *[f"- {note}" for note in analysis.notes]]
        lines += [
            "",
            "## law.json",
            "",
            "Everything above in full precision. A ladder uses it with `rate_law: law.json`.",
            "",
        ]
        lines += markdown_table(["key", "holds"], [[f"`{key}`", text] for key, text in SCHEMA.items()])
        report = folder / "report.md"
        report.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(f"the report cannot be written to {folder}: {error}; choose another --output") from error
    return report


def rate_sentences(analysis: RateAnalysis) -> list[str]:
    """Return the law in words."""
    law, unit = analysis.law, analysis.records[0].unit
    usable = [one for one in analysis.minima if one.rate is not None]
    rates = [one.rate for one in usable if one.rate is not None]
    lines = [
        f"{counted(len(usable), 'sweep')} of {len(analysis.minima)} have a minimum; their best rates are "
        f"{min(rates):.3g} to {max(rates):.3g}."
    ]
    words = {"N": "the parameters", "D": f"the {unit}s", "batch": "the batch size"}
    for variable, name in EXPONENTS.items():
        if name not in law.coefficients:
            continue
        value = law.coefficients[name]
        text = f"Doubling {words[variable]} multiplies the best rate by {2**value:.3g} ({name} = {value:.3g}"
        if law.intervals is not None:
            low, high = law.intervals[name]
            text += f", {analysis.config.confidence:.0%} interval {low:.3g} to {high:.3g}"
            if low < 0 < high:
                text += "; whether it rises or falls is not determined"
        lines.append(f"{text}).")
    if analysis.left_out_error is not None:
        lines.append(f"The mean error for the best rate of left-out sweeps is {analysis.left_out_error:.0%}.")
    return lines


def coefficient_rows(analysis: RateAnalysis) -> Rows:
    """Return header and rows of the coefficients."""
    of = {"a": "", **{name: f"exponent of {variable}" for variable, name in EXPONENTS.items()}}
    intervals = analysis.law.intervals or {}
    rows = []
    for name, value in analysis.law.coefficients.items():
        span = f"{intervals[name][0]:.4g} to {intervals[name][1]:.4g}" if name in intervals else ""
        rows.append([name, of[name], f"{value:.5g}", span])
    return ["coefficient", "", "estimate", f"{analysis.config.confidence:.0%} interval"], rows


def sweep_rows(analysis: RateAnalysis) -> Rows:
    """Return header and rows of the sweeps."""
    rows = []
    for one in analysis.minima:
        sweep = one.sweep
        by_law = analysis.law.rate(sweep.parameters, sweep.molecules, sweep.batch)
        error = f" ± {one.standard_error:.0%}" if one.standard_error == one.standard_error else ""
        rows.append(
            [
                engineering(sweep.parameters),
                engineering(sweep.molecules),
                "" if sweep.batch is None else f"{sweep.batch:,}",
                f"{len(sweep.rate)}, {sweep.rate[0]:.3g} to {sweep.rate[-1]:.3g}",
                one.obstacle or f"{one.rate:.3g}{error}",
                f"{by_law:.3g}",
            ]
        )
    return ["N", "D", "batch", "runs, rates", "best rate", "by the law"], rows
