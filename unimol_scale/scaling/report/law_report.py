"""Writes report.md, law.json and the pictures of an analysis, and gives short tables for the terminal. No torch."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from unimol_scale.common.report.markdown import markdown_table
from unimol_scale.common.report.pictures import save_figure
from unimol_scale.errors import RunError
from unimol_scale.scaling.law.analysis import Analysis, TermLaw
from unimol_scale.scaling.law.fit import Fit, Interval
from unimol_scale.scaling.report.checklist import checklist_lines, law_checklist
from unimol_scale.scaling.report.law_json import SCHEMA, to_json
from unimol_scale.scaling.report.law_pictures import draw_pictures
from unimol_scale.scaling.report.summary_sentences import summary_sentences
from unimol_scale.scaling.report.task_pictures import tasks_figure
from unimol_scale.scaling.report.task_report import CAPTION as TASK_CAPTION
from unimol_scale.scaling.report.task_report import task_lines
from unimol_scale.scaling.tasks.task_law import TaskLaw

Rows = tuple[list[str], list[list[str]]]

HELD_OUT_HEADER = ["run", "measured", "predicted", "interval of the law", "of a single run", "error"]
MANY_POINTS = 60  # most held-out points in the report; law.json has all
# File of a picture → its caption.
CAPTIONS = {
    "loss_vs_N.png": "Each line is the law at one budget of data. A good law passes through its runs, and also "
    "through the held-out ones, which the fit did not see.",
    "loss_vs_D.png": "Each line is the law at one size. If repeated data count less, the lines assume the most "
    "distinct data that any run had, and runs with fewer distinct data lie above them.",
    "loss_vs_C.png": "Each line is the law at one size; the lower edge of all lines is the lowest loss for a given "
    "compute.",
    "residuals.png": "Points should scatter about 0 without a trend. A slope or an arch means that the law has the "
    "wrong form, and that predictions beyond the runs err in the same direction.",
    "curves.png": "Only the last points of the runs, on the right, can be compared. Before the end, the learning rate "
    "has not decayed yet.",
    "terms.png": "Terms have floors and exponents of their own: when one has levelled off, the others may still "
    "improve.",
    "exponents.png": "Each point is the law fitted to runs drawn with replacement. If the points form a long diagonal, "
    "two exponents trade off against each other: do not quote either of them alone. If they form two clusters, or a "
    "cluster at the edge, the runs do not determine the exponent.",
    "repeats.png": "The number of epochs of new data that a number of epochs is worth. Runs scatter where data are "
    "a small part of their loss.",
    "isoflop.png": "How the loss depends on size at equal compute. Left of the minimum the model is too small; right "
    "of it, the model sees too few data. The curves are those of the law, not a separate estimate.",
    "allocation.png": "How to spend a budget. On the left, runs above the line were too large for their compute; on "
    "the right, runs above it saw more data than was worthwhile.",
}


def write_report(analysis: Analysis, folder: Path, tasks: Sequence[TaskLaw] = ()) -> Path:
    """Write law.json, report.md and the pictures into a folder; it is made if needed.

    Returns:
        The path of report.md.

    Raises:
        RunError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pictures = draw_pictures(analysis, folder)
        if any(law.form is not None for law in tasks):
            save_figure(tasks_figure(tasks), folder / "tasks.png")
        (folder / "law.json").write_text(
            json.dumps(to_json(analysis, tasks), indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )
        report = folder / "report.md"
        report.write_text(to_markdown(analysis, pictures, tasks), encoding="utf-8")
    except OSError as error:
        raise RunError(f"the report cannot be written to {folder}: {error}; choose another --output") from error
    return report


def to_markdown(analysis: Analysis, pictures: Mapping[str, Path], tasks: Sequence[TaskLaw] = ()) -> str:
    """Return the report as Markdown; pictures are linked by their file names."""
    fit, unit = analysis.fit, analysis.points.unit
    lines = ["# Scaling law", "", f"**{fit.law.formula}** ({fit.law.label}; {fit.law.source})", ""]
    lines += ["## In short", "", *[f"- {finding}" for finding in summary_sentences(analysis)]]
    if fit.warnings:
        lines += ["", "**Read with care:**", "", *[f"- {warning}" for warning in fit.warnings]]
    lines += ["", "## The law", ""]
    lines += [
        f"N counts {analysis.config.parameters} parameters, D {unit}s seen, C training FLOPs. "
        f"Chosen because {analysis.selection.reason}.",
        "",
    ]
    lines += markdown_table(["parameter", "estimate", f"{fit.confidence:.0%} interval"], _parameter_rows(fit))
    lines += ["", "## Held out", "", *_held_out_lines(analysis)]
    if analysis.predictions:
        lines += ["", "## Predictions", ""]
        header = [f"model @ {unit}s", "N", "loss", "interval of the law", "of a single run", "extrapolation"]
        lines += markdown_table(header, _prediction_rows(analysis))
    if analysis.optima or analysis.unanswered:
        lines += ["", "## Compute-optimal models", ""]
        lines += markdown_table(*optimum_rows(analysis)) if analysis.optima else []
        lines += ["", *[f"- No answer: {reason}." for reason in analysis.unanswered]] if analysis.unanswered else []
    if tasks:
        lines += ["", "## Tasks", "", *task_lines(tasks)]
        if any(law.form is not None for law in tasks):
            lines += ["", TASK_CAPTION, "", "![Tasks](tasks.png)"]
    lines += ["", "## Choice of the law", "", *markdown_table(*_candidate_table(analysis))]
    if analysis.terms:
        lines += [
            "",
            "## Loss terms",
            "",
            "The terms of the loss have different floors, so each has a law of its own.",
            "",
        ]
        header = ["term", "law", "estimates", "mean held-out error", "note"]
        lines += markdown_table(header, [_term_row(term) for term in analysis.terms])
    for title, path in pictures.items():
        lines += ["", f"## {title}", "", CAPTIONS[path.name], "", f"![{title}]({path.name})"]
    lines += ["", "## How this law was made", "", *checklist_lines(law_checklist(analysis))]
    lines += ["", "## Runs", "", *markdown_table(*_run_table(analysis))]
    if analysis.notes:
        lines += ["", "Runs that were left out, and other notes:", "", *[f"- {note}" for note in analysis.notes]]
    lines += ["", "## law.json", "", "Everything above in full precision.", ""]
    lines += markdown_table(["key", "holds"], [[f"`{key}`", text] for key, text in SCHEMA.items()])
    return "\n".join(lines) + "\n"


def _held_out_lines(analysis: Analysis) -> list[str]:
    if analysis.held_out_error is None:
        return ["No run was held out, so nothing here tests the law."]
    rows = [
        [
            check.name,
            f"{check.loss:.5g}",
            f"{check.predicted:.5g}",
            _span(check.interval),
            _span(check.run_interval),
            f"{check.relative_error:+.2%}",
        ]
        for check in analysis.checks[:MANY_POINTS]
    ]
    lines = [
        f"The fit did not see these runs (`--hold-out {analysis.config.hold_out}`). The mean absolute error is "
        f"{analysis.held_out_error:.2%}. `--hold-out none` fits all runs.",
        "",
        *markdown_table(*statistics_rows(analysis)),
        "",
        *markdown_table(HELD_OUT_HEADER, rows),
    ]
    if len(analysis.checks) > MANY_POINTS:
        lines += ["", f"The first {MANY_POINTS} of {len(analysis.checks)}; law.json has all."]
    return lines


def _parameter_rows(fit: Fit) -> list[list[str]]:
    intervals = fit.intervals or {}
    rows = []
    for name, value in fit.parameters.items():
        cells = [_span(intervals.get(name)), "not determined by these runs" if name in fit.undetermined else ""]
        rows.append([name, f"{value:.5g}", "; ".join(cell for cell in cells if cell)])
    return rows


def _prediction_rows(analysis: Analysis) -> list[list[str]]:
    return [
        [
            prediction.request,
            f"{prediction.parameters:.6g}",
            f"{prediction.loss:.5g}",
            _span(prediction.interval),
            _span(prediction.run_interval),
            "; ".join(prediction.notes) or "within the range of the runs",
        ]
        for prediction in analysis.predictions
    ]


def _candidate_table(analysis: Analysis) -> tuple[list[str], list[list[str]]]:
    rows = []
    for candidate in analysis.selection.candidates:
        error = "" if candidate.held_out_error is None else f"{candidate.held_out_error:.2%}"
        aicc = "" if candidate.aicc is None else f"{candidate.aicc:.1f}"
        note = candidate.obstacle or ("" if error else "too few runs to leave out a size")
        rows.append([candidate.law.label, error, aicc, "chosen" if candidate.law == analysis.selection.law else note])
    return ["law", "mean error on left-out sizes", "AICc", "note"], rows


def _term_row(term: TermLaw) -> list[str]:
    if term.fit is None:
        return [term.term, "none", "", "", term.obstacle or ""]
    estimates = ", ".join(f"{name} {value:.4g}" for name, value in term.fit.parameters.items())
    error = sum(abs(check.relative_error) for check in term.checks) / len(term.checks) if term.checks else None
    shown = "" if error is None else f"{error:.2%}"
    return [term.term, term.fit.law.label, estimates, shown, "; ".join(term.fit.warnings)]


def _run_table(analysis: Analysis) -> tuple[list[str], list[list[str]]]:
    points = analysis.points
    # The last point of a run has its size, and whether it was held out.
    last = {int(run): i for i, run in enumerate(points.runs)}
    rows = []
    for run, i in sorted(last.items(), key=lambda item: (points.columns["N"][item[1]], points.columns["D"][item[1]])):
        record = analysis.records[run]
        rows.append(
            [
                record.name,
                record.size or "",
                f"{points.columns['N'][i]:.6g}",
                f"{record.molecules:.6g}",
                "" if record.flops is None else f"{record.flops:.4g}",
                f"{record.curve[0][1]:.4g}" if len(record.curve) > 1 else "",
                f"{record.loss:.5g}",
                "held out" if analysis.held_out[i] else "",
            ]
        )
    return ["run", "size", "N", "D", "C", "first validation loss", "last", ""], rows


def statistics_rows(analysis: Analysis) -> Rows:
    """Return header and rows of the held-out statistics: one row per size, and one for all sizes."""
    header = ["held out", "points", "relative error", "RMAE", "MSE", "R²", "Pearson"]
    rows = [
        [
            name,
            str(one.num_points),
            f"{one.relative_error:.2%}",
            f"{one.rmae:.4f}",
            f"{one.mse:.3g}",
            "" if one.r2 is None else f"{one.r2:.4f}",
            "" if one.pearson is None else f"{one.pearson:.4f}",
        ]
        for name, one in analysis.statistics.items()
    ]
    return header, rows


def optimum_rows(analysis: Analysis) -> Rows:
    """Return header and rows of the compute-optimal allocations, one row per budget."""
    header = ["budget (FLOPs)", "optimal N", "optimal D", "loss", "N grows as", "extrapolation"]
    rows = [
        [
            f"{one.flops:.4g}",
            _with_span(one.parameters, one.parameters_interval),
            _with_span(one.molecules, one.molecules_interval),
            _with_span(one.loss, one.loss_interval, digits=5),
            f"C^{_with_span(one.exponent, one.exponent_interval, digits=3)}",
            "; ".join(one.notes),
        ]
        for one in analysis.optima
    ]
    return header, rows


def _with_span(value: float, interval: Interval | None, digits: int = 4) -> str:
    span = "" if interval is None else f" ({interval[0]:.{digits}g} to {interval[1]:.{digits}g})"
    return f"{value:.{digits}g}{span}"


def _span(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval[0]:.5g} to {interval[1]:.5g}"


def summary_tables(analysis: Analysis) -> list[Table]:
    """Return the short tables that the command prints: the law, the held-out runs, the predictions."""
    fit = analysis.fit
    tables = [
        rich_table(fit.law.formula, ["parameter", "estimate", f"{fit.confidence:.0%} interval"], _parameter_rows(fit))
    ]
    if analysis.checks:
        rows = [
            [check.name, f"{check.loss:.5g}", f"{check.predicted:.5g}", f"{check.relative_error:+.2%}"]
            for check in analysis.checks[:8]
        ]
        tables.append(rich_table("Held out", ["run", "measured", "predicted", "error"], rows))
    if analysis.predictions:
        header = [f"model @ {analysis.points.unit}s", "N", "loss", "interval of the law", "of a single run"]
        tables.append(rich_table("Predictions", header, [row[:5] for row in _prediction_rows(analysis)]))
    return tables


def rich_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table for the terminal."""
    table = Table(title=title, title_justify="left")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
