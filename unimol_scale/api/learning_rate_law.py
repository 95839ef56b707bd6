"""``fit_rate_law``: fits a law of the best learning rate to sweeps over the learning rate. Imports no torch."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unimol_scale.api.call_settings import a_call
from unimol_scale.api.scaling_law import runs_given
from unimol_scale.common.output_checks import require_folder
from unimol_scale.common.text.argument_names import in_arguments
from unimol_scale.errors import RunError
from unimol_scale.scaling.law.analysis import parameters_of_size
from unimol_scale.scaling.law.fit import Interval
from unimol_scale.scaling.law.points import ParameterGroup
from unimol_scale.scaling.rates.rate_law import RateAnalysis, RateFitConfig, fit_rates
from unimol_scale.scaling.rates.rate_law_file import rates_to_json
from unimol_scale.scaling.report.checklist import rate_checklist
from unimol_scale.scaling.runs.counts import parse_count
from unimol_scale.scaling.runs.read_runs import read_runs

_ARGUMENTS = {
    "--column": "columns", "--size-of": "sizes", "--leave-out": "leave_out", "--parameters": "parameters",
    "--output": "folder",
}  # fmt: skip
_log = logging.getLogger(__name__)


class LearningRateLaw:
    """A law of the best learning rate: lr* = exp(a) · N^b · D^c · batch^d.

    N counts parameters, D molecules seen in training, and batch molecules per step.

    Args:
        analysis: the analysis of the sweeps.

    Attributes:
        analysis: all content of the report: ``minima`` of the sweeps, ``law``, ``left_out_error``.
    """

    def __init__(self, analysis: RateAnalysis) -> None:
        self.analysis = analysis

    @property
    def formula(self) -> str:
        """The formula of the law in terms of its coefficients."""
        return self.analysis.law.formula

    @property
    def coefficients(self) -> dict[str, float]:
        """Name of a coefficient in the formula → estimate."""
        return dict(self.analysis.law.coefficients)

    @property
    def intervals(self) -> dict[str, Interval] | None:
        """Name of a coefficient → interval (low, high); None if there are too few sweeps for intervals."""
        found = self.analysis.law.intervals
        return None if found is None else dict(found)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the fit, such as sweeps without a minimum and variables that did not vary."""
        return self.analysis.warnings

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in self.coefficients.items())
        return f"LearningRateLaw({self.formula}; {shown})"

    def rate(self, size: str | float, molecules: str | float, batch: int | None = None) -> float:
        """Return the best learning rate of a run; log a warning if it is extrapolated.

        Args:
            size: a preset or the size of a run, such as "84M", or a number of parameters N as the fit counts them.
            molecules: number of molecules D seen in training, as a number or as text such as "838M".
            batch: molecules per step; required if the law depends on it.

        Raises:
            RunError: the size is unknown, ``molecules`` is not a positive number, or the law needs the batch size.
        """
        with a_call(_ARGUMENTS):
            parameters = parameters_of_size(str(size), self.analysis.records, self.analysis.config.parameters)
            data = parse_count(str(molecules))
            if data is None:
                raise RunError(f"molecules: {molecules!r} is not a number of molecules above zero, such as 838M")
            for note in self.analysis.law.beyond(parameters, data, batch):
                _log.warning("extrapolated: %s", note)
            return self.analysis.law.rate(parameters, data, batch)

    def report(self, folder: str | Path) -> Path:
        """Write the files that the command writes: report.md, the plots, and law.json, which a ladder can use.

        Args:
            folder: output folder; made if it is missing.

        Returns:
            Path of report.md.

        Raises:
            ConfigError: the folder cannot be written.
        """
        from unimol_scale.scaling.report.rate_report import write_rate_report  # imports matplotlib

        with a_call(_ARGUMENTS):
            require_folder(Path(folder))
            return write_rate_report(self.analysis, Path(folder))

    def to_dict(self) -> dict[str, Any]:
        """Return the content of law.json as plain numbers, strings, lists and dicts."""
        return rates_to_json(self.analysis, rate_checklist(self.analysis))


def fit_rate_law(
    runs: Any,  # noqa: ANN401
    *,
    parameters: ParameterGroup = "total",
    columns: Mapping[str, str] | None = None,
    sizes: Mapping[str, str] | None = None,
    leave_out: Sequence[str] = (),
    bootstrap: int = 1000,
) -> LearningRateLaw:
    """Fit the best learning rate as a function of size, data and batch size to sweeps.

    A sweep is a set of runs of one size, budget and batch size that differ in the learning rate. Its best rate is the
    minimum of a parabola fitted to log loss against log rate.

    Args:
        runs: runs in any form that ``fit_scaling_law`` accepts; a table has a column lr and, if batch sizes differ, a
            column batch.
        parameters: which parameters N counts: "total", "non-embedding", "atom-track" or "pair-track".
        columns: for tables: N, D, lr, batch, loss, … → header of the column that holds it.
        sizes: for runs that have only event files: name of the run → its size.
        leave_out: names of runs to ignore.
        bootstrap: number of bootstrap draws for the intervals; 0 for no intervals.

    Returns:
        The law, with ``coefficients``, ``intervals``, ``rate`` and ``report``.

    Raises:
        RunError: the runs are not sweeps, or too few sweeps have a minimum.
        ConfigError: an option is wrong.

    Source:
        Power laws of the learning rate in size, data and batch: DeepSeek LLM (arXiv 2401.02954), Step Law (2503.04715).

    Example:
        >>> import unimol_scale as us
        >>> rates, sizes = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2], [1e5, 4e5, 1.6e6, 6.4e6]
        >>> rows = [(N, 1e6, lr, 1 + (abs(lr / (0.3 * N**-0.45)) ** 0.1 - 1) ** 2) for N in sizes for lr in rates]
        >>> law = us.fit_rate_law(dict(zip(("N", "D", "lr", "loss"), zip(*rows))), bootstrap=100)
        >>> round(law.coefficients["b"], 1)
        -0.4
    """
    with a_call(_ARGUMENTS):
        config = RateFitConfig(parameters=parameters, bootstrap=bootstrap)
        records, notes = read_runs(runs_given(runs), columns or {}, sizes or {}, leave_out=tuple(leave_out), rates=True)
        for note in notes:
            _log.warning(in_arguments(note, _ARGUMENTS))
        fitted = LearningRateLaw(fit_rates(records, notes, config))
        for warning in fitted.warnings:
            _log.warning(warning)
        return fitted
