"""The learning rate of the next run: interpolated between the runs, or by a law of the best rate. No torch."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from unimol_scale.common.run_files import CONFIG_NAME
from unimol_scale.common.units import engineering
from unimol_scale.config import read_yaml
from unimol_scale.errors import ConfigError, RunError
from unimol_scale.scaling.rates.rate_law_file import read_rate_law
from unimol_scale.scaling.runs.run_records import RunRecord


def rate_by_neighbours(records: Sequence[RunRecord], parameters: float) -> tuple[float, str]:
    """Return the learning rate for a size, and how it was chosen.

    Between the sizes of the runs it is interpolated in log-log. Beyond them it follows the slope over all sizes, but
    never rises: a rate that is too high ruins a run, while one that is too low costs little.
    """
    best: dict[float, tuple[float, float, str]] = {}  # N → loss and rate of its best run, name of the size
    for record in records:
        rate = _rate_of(Path(record.source) / CONFIG_NAME)
        size = record.size or engineering(record.parameters)
        if rate is not None and (record.parameters not in best or record.loss < best[record.parameters][0]):
            best[record.parameters] = (record.loss, rate, size)
    if not best:
        raise RunError(f"none of the runs records its learning rate in its {CONFIG_NAME}")
    known = sorted((count, rate, size) for count, (_, rate, size) in best.items())
    log_n, log_rate = np.log([n for n, _, _ in known]), np.log([rate for _, rate, _ in known])
    if len({rate for _, rate, _ in known}) == 1:
        return known[0][1], "that of every run"
    where = math.log(parameters)
    if log_n[0] <= where <= log_n[-1]:
        rate = math.exp(float(np.interp(where, log_n, log_rate)))
        above = int(np.searchsorted(log_n, where))
        below = max(above - 1, 0)
        ends = " and ".join(f"{known[i][2]} ({known[i][1]:.3g})" for i in sorted({below, min(above, len(known) - 1)}))
        return rate, f"interpolated in log-log between the best runs of {ends}"
    end = 0 if where < log_n[0] else -1
    slope = min(float(np.polyfit(log_n, log_rate, 1)[0]), 0.0)
    fall = min(slope * (where - float(log_n[end])), 0.0)
    if fall == 0.0:
        how = f"that of the nearest size, {known[end][2]}: it is not raised beyond the sizes of the runs"
        return known[end][1], how
    rate = math.exp(float(log_rate[end]) + fall)
    return rate, f"continued beyond {known[end][2]} ({known[end][1]:.3g}) as N^{slope:.2f}, the trend over all sizes"


def rate_by_law(path: Path, parameters: float, molecules: int, batch_size: int) -> tuple[float, str]:
    """Return the learning rate from a law, and how it was chosen.

    Args:
        path: law.json of ``fit-scaling-law --rates``.
        parameters: all parameters of the model.
        molecules: molecules that it will see.
        batch_size: molecules per step.

    Raises:
        ConfigError: the file contains no such law, or one that counts other parameters.
    """
    law = read_rate_law(path)
    if law.parameters_counted != "total":
        raise ConfigError(f"--rate-law: {path} counts {law.parameters_counted} parameters; fit it with all of them")
    point = (parameters, float(molecules), float(batch_size))
    return law.rate(*point), "; ".join([f"by {path}", *(f"extrapolated: {note}" for note in law.beyond(*point))])


def _rate_of(path: Path) -> float | None:
    """Return the learning rate of a run; None if its configuration lacks it."""
    try:
        train = read_yaml(path)[0].get("train") if path.is_file() else None
        return float(train["learning_rate"]) if isinstance(train, Mapping) else None
    except (ConfigError, OSError, KeyError, TypeError, ValueError):
        return None
