"""Writes an analysis as law.json, report.md and pictures, and as a short table for the terminal. Imports no torch."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from unimol_scale.errors import RunError
from unimol_scale.scaling.analysis import Analysis, Check, TermLaw
from unimol_scale.scaling.fit import Fit, Interval
from unimol_scale.scaling.plot import draw_all
from unimol_scale.scaling.summary import optima_json, statistics_json

SCHEMA_VERSION = 1


def write_report(analysis: Analysis, folder: Path) -> Path:
    """Write law.json, report.md and the pictures into a folder, which is made if needed.

    Returns:
        The path of report.md.

    Raises:
        RunError: the folder can not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pictures = draw_all(analysis, folder)
        (folder / "law.json").write_text(
            json.dumps(to_json(analysis), indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )
        report = folder / "report.md"
        report.write_text(to_markdown(analysis, pictures), encoding="utf-8")
    except OSError as error:
        raise RunError(f"the report can not be written to {folder}: {error}; choose another --output") from error
    return report


def to_json(analysis: Analysis) -> dict[str, Any]:
    """Return the analysis as plain values in full precision; null stands for what is not known.

    Keys: schema_version, law (see ``_fit_json``), selection, hold_out, held_out, held_out_error, terms, predictions,
    points (one object a run, with the column names of laws.py), left_out.
    """
    points = analysis.points
    return {
        "schema_version": SCHEMA_VERSION,
        "law": _fit_json(analysis.fit),
        "parameters_counted": analysis.config.parameters,
        "selection": {
            "reason": analysis.selection.reason,
            "candidates": [
                {
                    "law": candidate.law.label,
                    "held_out_error": candidate.held_out_error,
                    "aicc": candidate.aicc,
                    "obstacle": candidate.obstacle,
                }
                for candidate in analysis.selection.candidates
            ],
        },
        "hold_out": analysis.config.hold_out,
        "held_out": [_check_json(check) for check in analysis.checks],
        "held_out_error": analysis.held_out_error,
        "statistics": statistics_json(analysis),
        "optima": optima_json(analysis),
        "burn_in": analysis.config.burn_in,
        "terms": {
            term.term: {
                "law": None if term.fit is None else _fit_json(term.fit),
                "held_out": [_check_json(check) for check in term.checks],
                "obstacle": term.obstacle,
            }
            for term in analysis.terms
        },
        "predictions": [
            {
                "request": prediction.request,
                "N": prediction.parameters,
                "D": prediction.molecules,
                "loss": prediction.loss,
                "interval": prediction.interval,
                "notes": list(prediction.notes),
            }
            for prediction in analysis.predictions
        ],
        "points": [
            {
                "name": name,
                "held_out": bool(analysis.held_out[i]),
                "loss": float(points.loss[i]),
                **{column: float(values[i]) for column, values in points.columns.items()},
            }
            for i, name in enumerate(points.names)
        ],
        "left_out": list(analysis.notes),
    }


def _fit_json(fit: Fit) -> dict[str, Any]:
    return {
        "name": fit.law.name,
        "label": fit.law.label,
        "formula": fit.law.formula,
        "source": fit.law.source,
        "parameters": dict(fit.parameters),
        "intervals": None if fit.intervals is None else {name: list(ends) for name, ends in fit.intervals.items()},
        "confidence": fit.confidence,
        "bootstrap_draws": len(next(iter(fit.draws.values()))) if fit.draws else 0,
        "num_points": fit.num_points,
        "objective": fit.objective,
        "relative_gradient": fit.gradient,
        "condition_number": fit.condition,
        "aicc": fit.aicc,
        "undetermined": list(fit.undetermined),
        "warnings": list(fit.warnings),
    }


def _check_json(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        "loss": check.loss,
        "predicted": check.predicted,
        "interval": check.interval,
        "relative_error": check.relative_error,
    }


def to_markdown(analysis: Analysis, pictures: Mapping[str, Path]) -> str:
    """Return the report as Markdown; pictures are linked by their file names."""
    fit = analysis.fit
    lines = ["# Scaling law", "", f"**{fit.law.formula}** ({fit.law.label}; {fit.law.source})", ""]
    lines += [
        f"Fitted to {fit.num_points} runs; N counts {analysis.config.parameters} parameters, D molecules seen, "
        f"C FLOPs from the runs' own logs. Chosen because {analysis.selection.reason}.",
        "",
    ]
    lines += _markdown_table(["parameter", "estimate", f"{fit.confidence:.0%} interval"], _parameter_rows(fit))
    if fit.warnings:
        lines += ["", "**Read with care:**", "", *[f"- {warning}" for warning in fit.warnings]]
    lines += ["", "## Held out", "", *_held_out_lines(analysis)]
    if analysis.predictions:
        lines += ["", "## Predictions", ""]
        header = ["model @ molecules", "N", "loss", "interval of the law", "leans on"]
        lines += _markdown_table(header, _prediction_rows(analysis))
    lines += ["", "## Choice of the law", "", *_markdown_table(*_candidate_table(analysis))]
    if analysis.terms:
        lines += ["", "## Loss terms", "", "Parts of the loss have floors of their own, so each has its own law.", ""]
        header = ["term", "law", "estimates", "mean held-out error", "note"]
        lines += _markdown_table(header, [_term_row(term) for term in analysis.terms])
    lines += ["", "## Runs", "", *_markdown_table(*_run_table(analysis))]
    if analysis.notes:
        lines += ["", "Left out:", "", *[f"- {note}" for note in analysis.notes]]
    for title, path in pictures.items():
        lines += ["", f"## {title}", "", f"![{title}]({path.name})"]
    return "\n".join(lines) + "\n"


def _held_out_lines(analysis: Analysis) -> list[str]:
    if analysis.held_out_error is None:
        return ["Nothing was held out, so that nothing here tests the law."]
    rows = [
        [
            check.name,
            f"{check.loss:.5g}",
            f"{check.predicted:.5g}",
            _span(check.interval),
            f"{check.relative_error:+.2%}",
        ]
        for check in analysis.checks
    ]
    return [
        f"The fit did not see these runs (`--hold-out {analysis.config.hold_out}`). Mean |error|: "
        f"{analysis.held_out_error:.2%}. `--hold-out none` fits all runs.",
        "",
        *_markdown_table(["run", "measured", "predicted", "interval of the law", "error"], rows),
    ]


def _parameter_rows(fit: Fit) -> list[list[str]]:
    intervals = fit.intervals or {}
    return [[name, f"{value:.5g}", _span(intervals.get(name))] for name, value in fit.parameters.items()]


def _prediction_rows(analysis: Analysis) -> list[list[str]]:
    return [
        [
            prediction.request,
            f"{prediction.parameters:.6g}",
            f"{prediction.loss:.5g}",
            _span(prediction.interval),
            "; ".join(prediction.notes) or "the range of the runs",
        ]
        for prediction in analysis.predictions
    ]


def _candidate_table(analysis: Analysis) -> tuple[list[str], list[list[str]]]:
    rows = []
    for candidate in analysis.selection.candidates:
        error = "" if candidate.held_out_error is None else f"{candidate.held_out_error:.2%}"
        aicc = "" if candidate.aicc is None else f"{candidate.aicc:.1f}"
        note = candidate.obstacle or ("" if error else "too few runs to leave a size out")
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
    rows = []
    for i, record in enumerate(analysis.records):
        first = f"{record.curve[0][1]:.4g}" if len(record.curve) > 1 else ""
        flops = "" if record.flops is None else f"{record.flops:.4g}"
        rows.append(
            [
                record.name,
                record.size or "",
                f"{analysis.points.columns['N'][i]:.6g}",
                f"{record.molecules:.6g}",
                flops,
                first,
                f"{record.loss:.5g}",
                "held out" if analysis.held_out[i] else "",
            ]
        )
    order = sorted(range(len(rows)), key=lambda i: (analysis.points.columns["N"][i], analysis.points.columns["D"][i]))
    header = ["run", "size", "N", "D", "C", "first validation loss", "last", ""]
    return header, [rows[i] for i in order]


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(header), "|" + " --- |" * len(header), *[line(row) for row in rows]]


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
        header = ["model @ molecules", "N", "loss", "interval of the law"]
        tables.append(rich_table("Predictions", header, [row[:4] for row in _prediction_rows(analysis)]))
    return tables


def rich_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table for the terminal."""
    table = Table(title=title, title_justify="left")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
