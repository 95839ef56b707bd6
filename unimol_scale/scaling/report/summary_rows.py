"""Rows of the tables that both the terminal and the report show: held-out statistics and compute-optimal choices."""

from dataclasses import asdict
from typing import Any

from unimol_scale.scaling.law.analysis import Analysis
from unimol_scale.scaling.law.fit import Interval

Rows = tuple[list[str], list[list[str]]]


def statistics_rows(analysis: Analysis) -> Rows:
    """Return header and rows of the held-out statistics, one row a size and one for all; no rows without any."""
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
    """Return header and rows of the compute-optimal choices, one row a budget."""
    header = ["budget (FLOPs)", "optimal N", "optimal D", "loss", "N grows as", "leans on"]
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


def statistics_json(analysis: Analysis) -> dict[str, Any]:
    """Return the held-out statistics in full precision: size, or "all" → field of ``Statistics`` → value or null."""
    return {name: asdict(one) for name, one in analysis.statistics.items()}


def optima_json(analysis: Analysis) -> list[dict[str, Any]]:
    """Return the compute-optimal choices in full precision: one object a budget with the fields of ``Optimum``."""
    return [asdict(one) for one in analysis.optima]


def _with_span(value: float, interval: Interval | None, digits: int = 4) -> str:
    span = "" if interval is None else f" ({interval[0]:.{digits}g} to {interval[1]:.{digits}g})"
    return f"{value:.{digits}g}{span}"
