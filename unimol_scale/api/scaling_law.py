"""``fit_scaling_law``: fits a scaling law to runs or to a table of losses. Imports no torch."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from unimol_scale.api.call_settings import a_call
from unimol_scale.api.table_columns import columns_of
from unimol_scale.common.output_checks import require_folder
from unimol_scale.common.text.argument_names import in_arguments, require_order
from unimol_scale.errors import ConfigError, RunError, nearest
from unimol_scale.scaling.law.analysis import Analysis, AnalysisConfig, HeldOutPoint, Prediction, analyse, predict_for
from unimol_scale.scaling.law.burn_in import share_of_user
from unimol_scale.scaling.law.fit import FitConfig, Interval
from unimol_scale.scaling.law.laws import Variable
from unimol_scale.scaling.law.optimal import Optimum, compute_optimal
from unimol_scale.scaling.law.points import PARAMETER_GROUPS, ParameterGroup, distinct
from unimol_scale.scaling.report.law_json import to_json
from unimol_scale.scaling.runs.counts import parse_distinct, parse_flops
from unimol_scale.scaling.runs.loss_tables import ColumnTable
from unimol_scale.scaling.runs.read_runs import read_runs
from unimol_scale.scaling.runs.run_records import DataUnit
from unimol_scale.scaling.tasks.task_law import TaskLaw, TaskPrediction, fit_tasks, predict_task
from unimol_scale.scaling.tasks.task_table import read_task_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ARGUMENTS = {
    "--law": "law", "--hold-out": "hold_out", "--variable": "variable", "--parameters": "parameters",
    "--column": "columns", "--size-of": "sizes", "--leave-out": "leave_out", "--trajectories": "trajectories",
    "--burn-in": "burn_in", "--burn-in-steps": "burn_in_steps", "--predict": "predict", "--budget": "flops",
    "--output": "folder", "--distinct": "distinct", "--data-unit": "data_unit", "--task": "task",
    "--trunks": "trunks",
}  # fmt: skip
_log = logging.getLogger(__name__)


class LawOptions(TypedDict, total=False):
    """Options of ``fit_scaling_law`` besides the runs and the law.

    Attributes:
        variable: variable "N", "D" or "C" of a one-variable law; None: the one that varies.
        parameters: which parameters N counts: "total", "non-embedding", "atom-track" or "pair-track".
        trajectories: fit the validation losses along every run instead of only the final ones.
        distinct: for the law "repeated": number of distinct molecules that ``predict`` and ``optimal`` assume, as a
            number or as text such as "884M"; None: the largest number of any run.
        data_unit: what D counts, for the wording of the report: "molecule", "sample" or "token"; None: inferred from
            the runs or the table.
        burn_in: with trajectories: fraction at the start of every run to leave out; None: 0.25.
        burn_in_steps: with trajectories, instead of a fraction: number of optimiser steps to leave out (Uni-Mol2:
            200,000).
        columns: for tables: N, D, C, S, U, lr, batch, loss, loss/TERM, weight, name or size → header of the column
            that holds it; D may be "C/(6N)", and C may be "6ND" or "model@ATOMS". For event files: N, D, C, loss or lr
            → tag; D may be "step*BATCH".
        sizes: for runs that have only event files: name of the run → its size, a preset or a number of parameters.
        leave_out: names of runs to ignore.
        trunks: include trunks, the runs at a constant learning rate from which branches continue; their losses lie
            above the law.
        bootstrap: number of bootstrap draws for the intervals; 0 for no intervals.
        predict: predictions for the report, as "SIZE@MOLECULES", such as "1.1B@838M".
        task: results of the pretrained models on tasks: a table in a file or in memory, with the columns run, task,
            metric and value, and optionally loss, checkpoint and seed. The laws are in ``ScalingLaw.tasks``.
        budgets: training compute in FLOPs for which the report gives the best size and data; with law "auto", only laws
            that have such an optimum are considered.
    """

    variable: Variable | None
    parameters: ParameterGroup
    distinct: str | float | None
    data_unit: DataUnit | None
    trajectories: bool
    burn_in: float | None
    burn_in_steps: int | None
    columns: Mapping[str, str]
    sizes: Mapping[str, str]
    leave_out: str | Sequence[str]
    trunks: bool
    bootstrap: int
    predict: str | Sequence[str]
    budgets: float | Sequence[float]
    task: Any


class ScalingLaw:
    """A fitted law. Losses have no unit; N counts parameters, D molecules seen in training, C training FLOPs.

    Args:
        analysis: the analysis of the runs.
        tasks: laws from the loss to the error on tasks.

    Attributes:
        analysis: all content of the report, in full precision.
        tasks: the law of every task: ``form``, ``parameters``, ``intervals``, ``predictions``, and ``obstacle``, the
            reason if there is no law.
    """

    def __init__(self, analysis: Analysis, tasks: Sequence[TaskLaw] = ()) -> None:
        self.analysis = analysis
        self.tasks = tuple(tasks)

    @property
    def name(self) -> str:
        """Name of the law, such as "chinchilla", "kaplan" or "power"."""
        return self.analysis.fit.law.name

    @property
    def formula(self) -> str:
        """The formula of the law in terms of its parameters."""
        return self.analysis.fit.law.formula

    @property
    def parameters(self) -> dict[str, float]:
        """Name of a parameter in the formula → estimate."""
        return dict(self.analysis.fit.parameters)

    @property
    def intervals(self) -> dict[str, Interval] | None:
        """Name of a parameter → percentile interval (low, high); None if there are too few runs for intervals."""
        found = self.analysis.fit.intervals
        return None if found is None else dict(found)

    @property
    def confidence(self) -> float:
        """Nominal coverage of the intervals, such as 0.9."""
        return self.analysis.fit.confidence

    @property
    def undetermined(self) -> tuple[str, ...]:
        """Names of parameters that the runs do not determine, although they determine the curve."""
        return self.analysis.fit.undetermined

    @property
    def held_out(self) -> tuple[HeldOutPoint, ...]:
        """The points excluded from the fit, each with its measured and its predicted loss."""
        return self.analysis.checks

    @property
    def held_out_error(self) -> float | None:
        """Mean absolute relative error on the held-out points; None if there are none."""
        return self.analysis.held_out_error

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the fit, and the reasons why requested ``budgets`` have no optimum."""
        unanswered = (in_arguments(reason, _ARGUMENTS) for reason in self.analysis.unanswered)
        return (*self.analysis.fit.warnings, *dict.fromkeys(unanswered))

    @property
    def notes(self) -> tuple[str, ...]:
        """Runs that were left out, with the reasons."""
        return tuple(in_arguments(note, _ARGUMENTS) for note in self.analysis.notes)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in self.parameters.items())
        error = self.held_out_error
        tested = "nothing held out" if error is None else f"held-out error {error:.2%}"
        return f"ScalingLaw({self.analysis.fit.law.label}: {self.formula}; {shown}; {tested})"

    def predict(self, size: str | float, molecules: str | float) -> Prediction:
        """Return the predicted loss of a model trained on a number of molecules.

        Args:
            size: a preset or the size of a run, such as "1.1B", or a number of parameters N as the fit counts them.
            molecules: number of molecules D seen in training, as a number or as text such as "838M".

        Returns:
            ``loss``; ``interval`` (low, high), the uncertainty of the law; ``run_interval``, that of a single run,
            which scatters around the law; ``notes`` on what the prediction relies on.

        Raises:
            RunError: the size is unknown, or the law cannot predict this run.
        """
        with a_call(_ARGUMENTS):
            return predict_for(self.analysis, f"{_text(size)}@{_text(molecules)}")

    def predict_tasks(self, size: str | float, molecules: str | float) -> dict[str, TaskPrediction]:
        """Return the predicted error on every task of a model trained on a number of molecules.

        Args:
            size: see ``predict``.
            molecules: see ``predict``.

        Returns:
            Task → ``error`` (the metric, or 1 − metric if higher is better), ``interval`` with the uncertainty of both
            laws, ``notes``, and ``obstacle``, the reason if the error is not determined. Tasks without a law are left
            out.

        Raises:
            RunError: there are no tasks, the size is unknown, or the law cannot predict this run.
        """
        if not self.tasks:
            raise RunError("there are no tasks: fit_scaling_law(..., task=TABLE) takes their results")
        loss = self.predict(size, molecules)
        return {law.task: predict_task(law, self.analysis, loss) for law in self.tasks if law.form is not None}

    def optimal(self, flops: str | float) -> Optimum:
        """Return the size and the amount of data with the lowest predicted loss for a compute budget.

        Args:
            flops: training compute C in FLOPs, as a number or as text such as "1e21".

        Returns:
            ``parameters`` (N), ``molecules`` (D), ``loss``, their intervals, and ``exponent``, the a in N ∝ C^a.

        Raises:
            RunError: the law or the runs do not determine an optimum.
        """
        with a_call(_ARGUMENTS):
            return compute_optimal(self.analysis.fit, self.analysis.points, parse_flops(str(flops), "flops"))

    def plot(self, against: str | None = None) -> "Figure":
        """Return a plot of the runs and the law; pyplot and its global state are not used.

        Args:
            against: variable of the horizontal axis, "N", "D" or "C", which must differ between the runs; None: the
                first that does.

        Returns:
            A matplotlib Figure. A notebook shows it after ``%matplotlib inline``; ``.savefig`` writes it to a file.

        Raises:
            RunError: the runs do not differ in that variable.
        """
        from unimol_scale.scaling.report.law_pictures import law_figure

        columns = self.analysis.points.columns
        varying = [name for name in ("N", "D", "C") if name in columns and int(distinct(columns[name]).max()) > 0]
        axis = varying[0] if against is None else against
        if axis not in varying:
            raise RunError(f"against={axis!r}: the runs do not differ in it; {nearest(axis, varying)}")
        return law_figure(self.analysis, axis)

    def report(self, folder: str | Path) -> Path:
        """Write the files that the command writes: report.md, law.json and the plots.

        Args:
            folder: output folder; made if it is missing.

        Returns:
            Path of report.md.

        Raises:
            ConfigError: the folder cannot be written.
        """
        from unimol_scale.scaling.report.law_report import write_report  # imports matplotlib

        with a_call(_ARGUMENTS):
            require_folder(Path(folder))
            return write_report(self.analysis, Path(folder), self.tasks)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of law.json as plain numbers, strings, lists and dicts."""
        return to_json(self.analysis, self.tasks)


def fit_scaling_law(
    runs: Any,  # noqa: ANN401
    *,
    law: str = "auto",
    hold_out: str | float = "largest",
    **options: Unpack[LawOptions],
) -> ScalingLaw:
    """Fit a scaling law to finished runs or to a table of losses, and test it on held-out sizes.

    Args:
        runs: run folders, folders of TensorBoard event files, directories of either, tables (.csv, .tsv, .parquet), or
            a list of these; results of ``pretrain``; or a table in memory: a DataFrame, a pyarrow Table, or a dict of
            columns N, D, loss and optionally C, U, name, size, loss/TERM.
        law: "auto" chooses the law that predicts held-out sizes best; or "chinchilla", "droppo", "kaplan", "power",
            "repeated", "saturating", "unimol2", or package.module:Name of your own code.
        hold_out: runs to exclude from the fit and test it on: those of the "largest" size, the "corner" (the largest
            size on the most data), "none", those of a number of the largest sizes, or of a fraction of the sizes.
        options: see ``LawOptions``.

    Returns:
        The law, with ``parameters``, ``intervals``, ``predict``, ``optimal``, ``plot`` and ``report``.

    Raises:
        RunError: the runs are missing, cannot be compared, or do not determine the law.
        ConfigError: an option is unknown or wrong.

    Source:
        Hoffmann et al. 2022 (arXiv 2203.15556), Kaplan et al. 2020 (2001.08361), Uni-Mol2 (2406.14969).

    Example:
        >>> import unimol_scale as us
        >>> sizes, seen = [1e5, 2e5, 4e5, 1e6, 2e6, 4e6], [1e5, 4e5, 1.6e6]
        >>> rows = [(N, D, 1.5 + 40 / N**0.35 + 60 / D**0.4) for N in sizes for D in seen]
        >>> table = dict(zip(("N", "D", "loss"), zip(*rows)))
        >>> law = us.fit_scaling_law(table, law="chinchilla", columns={"C": "6ND"}, bootstrap=100)
        >>> {name: round(value, 2) for name, value in law.parameters.items()}
        {'E': 1.5, 'A': 40.0, 'alpha': 0.35, 'B': 60.0, 'beta': 0.4}
        >>> round(law.predict(1e7, "10M").loss, 3)
        1.737
        >>> best = law.optimal(1e15)  # FLOPs
        >>> 1e6 < best.parameters < 1e8
        True
        >>> law.plot().axes[0].get_xlabel()
        'parameters N'
        >>> law.report("reports/law").name
        'report.md'
    """
    with a_call(_ARGUMENTS):
        for name in options:
            if name not in LawOptions.__annotations__:
                known = ("law", "hold_out", *LawOptions.__annotations__)
                raise ConfigError(f"unknown argument {name!r}; {nearest(name, known)}")
        for name, value in {"runs": runs, **options}.items():
            require_order(value, name)
        config = _config(law, hold_out, options)
        records, notes = read_runs(
            runs_given(runs),
            options.get("columns", {}),
            options.get("sizes", {}),
            options.get("trajectories", False),
            _texts(options.get("leave_out", ())),
            options.get("trunks", False),
        )
        for note in notes:
            _log.warning(in_arguments(note, _ARGUMENTS))
        analysis = analyse(records, notes, config)
        table = options.get("task")
        results = [] if table is None else read_task_table(runs_given(table)[0], records)
        fitted = ScalingLaw(analysis, fit_tasks(results, analysis, config.fit) if results else ())
        for warning in fitted.warnings:
            _log.warning(warning)
        return fitted


def _config(law: str, hold_out: str | float, options: LawOptions) -> AnalysisConfig:
    """Return the settings of an analysis.

    Raises:
        ConfigError: an option is wrong.
        RunError: a number in an option cannot be read.
    """
    parameters, bootstrap = options.get("parameters", "total"), options.get("bootstrap", 1000)
    if parameters not in PARAMETER_GROUPS:
        raise ConfigError(f"parameters: unknown value {parameters!r}; {nearest(parameters, PARAMETER_GROUPS)}")
    share, steps = options.get("burn_in"), options.get("burn_in_steps")
    if not isinstance(bootstrap, int):
        raise ConfigError(f"bootstrap: expected a whole number, got {bootstrap!r}")
    return AnalysisConfig(
        law=law,
        variable=options.get("variable"),
        hold_out=str(hold_out),
        parameters=parameters,
        predict=_texts(options.get("predict", ())),
        budgets=_budgets(options.get("budgets", ())),
        distinct=None if (count := options.get("distinct")) is None else parse_distinct(_text(count), "distinct"),
        data_unit=options.get("data_unit"),
        burn_in=share_of_user(share, steps, trajectories=options.get("trajectories", False)),
        burn_in_steps=steps,
        fit=FitConfig(bootstrap=bootstrap),
    )


def _texts(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _budgets(given: Any) -> tuple[float, ...]:  # noqa: ANN401
    return tuple(parse_flops(str(one), "budgets") for one in ([given] if isinstance(given, str | Real) else given))


def _text(number: str | float) -> str:
    return number if isinstance(number, str) else f"{number:.12g}"


def runs_given(runs: Any) -> list[Path | ColumnTable]:  # noqa: ANN401
    """Return the runs given to a call as paths and tables in memory.

    Raises:
        RunError: something else was given, or the list is empty.
    """
    columns = columns_of(runs)
    if columns is not None:
        return [ColumnTable("the table", columns)]
    if isinstance(runs, str | PathLike):
        return [Path(runs)]
    inputs: list[Path | ColumnTable] = []
    for number, one in enumerate(runs if isinstance(runs, Iterable) else [runs], start=1):
        columns = columns_of(one)
        if columns is None and not isinstance(one, str | PathLike):
            raise RunError(f"runs: expected paths, runs or tables, got {type(one).__name__}")
        inputs.append(Path(one) if columns is None else ColumnTable(f"table {number}", columns))
    if not inputs:
        raise RunError("runs: the list is empty; give paths, runs or tables")
    return inputs
