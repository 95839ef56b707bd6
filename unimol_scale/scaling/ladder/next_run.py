"""Chooses the next run for a compute budget from a law fitted to finished runs, and writes its ladder file. No torch.

The law gives the size of the model and the amount of data; all other settings are those of the nearest run.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import yaml

from unimol_scale.common.plugins import must_be_named
from unimol_scale.common.run_files import CONFIG_NAME
from unimol_scale.common.summary_file import Summary, UnreadableRunError, read_summary
from unimol_scale.common.trees import flatten, merge, nested
from unimol_scale.common.units import counted, duration, engineering, powers
from unimol_scale.config import Origin, build, read_yaml
from unimol_scale.errors import ConfigError, RunError
from unimol_scale.scaling.ladder.ladder import LadderConfig, plan
from unimol_scale.scaling.ladder.model_for_size import DIMENSIONS, SizedModel, model_for_parameters
from unimol_scale.scaling.ladder.next_rate import rate_by_law, rate_by_neighbours
from unimol_scale.scaling.ladder.objective_count import ModelCounter, count_model
from unimol_scale.scaling.law.fit import Fit, FitConfig, Interval, fit_law, interval_at
from unimol_scale.scaling.law.law_choice import candidate_laws, choose_law
from unimol_scale.scaling.law.optimal import Optimum, compute_optimal
from unimol_scale.scaling.law.points import Points, columns_at, make_points
from unimol_scale.scaling.law.registry import LAWS
from unimol_scale.scaling.runs.counts import parse_count
from unimol_scale.scaling.runs.read_runs import read_runs
from unimol_scale.scaling.runs.run_records import RunRecord

STEP_UP = 4.0  # compute of the next run over that of the costliest one, unless a budget is given
LARGEST_MOLECULE = 400  # atoms; upper end of the search for the runs' mean molecule
# Settings that the next run does not copy from the template.
OWN_SETTINGS = {
    "train": ("steps", "learning_rate", "warmup_steps", "keep_steps"),
    "data": ("path",),
    "objective": ("name",),
}


@dataclass(frozen=True, kw_only=True)
class TemplateRun:
    """The run whose settings the next run copies.

    Attributes:
        record: of the run.
        settings: its resolved configuration.
        summary: its summary.json, used for its speed.
        damaged: why the settings of nearer runs cannot be read.
    """

    record: RunRecord
    settings: Mapping[str, Any]
    summary: Summary
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NextRun:
    """The recommended next run.

    Attributes:
        sized: its model.
        steps: optimiser steps.
        molecules: seen in training.
        flops: training compute.
        loss: expected validation loss.
        interval: interval of the law at that point; None if the runs are too few for one.
        run_interval: interval of the loss of a single run there; None likewise.
        learning_rate: peak learning rate.
        tree: content of the ladder file.
        lines: what was chosen and why, for the user.
    """

    sized: SizedModel
    steps: int
    molecules: int
    flops: float
    loss: float
    interval: Interval | None
    run_interval: Interval | None
    learning_rate: float
    tree: Mapping[str, Any]
    lines: tuple[str, ...]


def choose_next(
    paths: Sequence[Path],
    budget: str | None = None,
    law: str = "auto",
    bootstrap: int = 1000,
    objective: str | None = None,
    absent: Mapping[str, Any] = MappingProxyType({}),
    counter: ModelCounter | None = None,
    rate_law: Path | None = None,
) -> NextRun:
    """Fit a law to the runs and choose the best next run for a budget.

    Args:
        paths: run folders, or directories of them.
        budget: FLOPs as text; None: four times those of the costliest run.
        law: "auto" or a law in size and data.
        bootstrap: number of draws for the interval.
        objective: objective of the runs; required if it is package.module:Class, since the ladder file will name it.
        absent: dotted key → meaning of its absence from a run of an earlier version, where that differs from today's
            default.
        counter: counts for runs with objectives other than denoise.
        rate_law: law.json of ``fit-scaling-law --rates``, which sets the learning rate by size, data and batch size;
            None: the rate follows those of the runs, by size only.

    Raises:
        RunError: the runs do not determine such a law, or do not record how they were trained.
        ConfigError: the budget is not a number, there is no such law, or the objective differs or has to be named.
    """
    records, notes = read_runs(paths)
    points = make_points(records, "total")
    fit = _fit(points, law, FitConfig(bootstrap=bootstrap))
    flops = _budget(budget, points)
    optimum = compute_optimal(fit, points, flops)
    template = _template_run(records, optimum.parameters)
    for key, value in absent.items():
        template = replace(template, settings=merge(nested(key, value), template.settings))
    learnt = template.record.comparable["objective"]
    must_be_named((learnt,), (objective or "",), "--objective {}")
    if objective not in (None, learnt):
        raise ConfigError(f"--objective {objective}: the runs were trained with {learnt}")
    options = {key: value for key, value in template.settings["model"].items() if key not in DIMENSIONS}
    sized = model_for_parameters(optimum.parameters, options)
    per_molecule = flops_per_molecule(template, sized, counter)
    batch_size = int(template.settings["train"]["global_batch_size"])
    steps = max(1, round(flops / per_molecule / batch_size))
    molecules = steps * batch_size
    cost = molecules * per_molecule
    columns = columns_at(points, np.array([sized.parameters]), np.array([float(molecules)]))
    columns = {**columns, "C": np.array([cost])}
    if rate_law is None:
        learning_rate, how = rate_by_neighbours(records, sized.parameters)
    else:
        learning_rate, how = rate_by_law(rate_law, sized.parameters, molecules, batch_size)
    loss = float(fit.predict(columns)[0])
    interval, run_interval = interval_at(fit.band(columns), 0), interval_at(fit.run_band(columns), 0)
    tree, source = _ladder(template, sized, steps, learning_rate), template.record.name
    lines = [
        *(f"note: {note}" for note in notes),
        f"law: {fit.law.label}, {fit.law.formula}; fitted to {fit.num_points} points of {len(records)} runs",
        *(f"warning: {warning}" for warning in fit.warnings),
        *(f"warning: {reason}; the settings of {source} are used instead" for reason in template.damaged),
        _optimum_line(optimum),
        *(f"note: {note}" for note in optimum.notes),
        f"model: {_model_text(sized)}",
        f"data: {steps:,} steps of {batch_size:,} molecules, {engineering(molecules)} in all",
        f"learning rate: {learning_rate:.3g}, {how}",
        f"other settings: those of {source}; its micro-batches (data.max_pairs) may not fit a larger model",
        f"cost: {powers(cost)} FLOPs{_hours(template, cost)}",
        f"expected validation loss: {_loss_text(loss, interval, run_interval, fit)}",
    ]
    return NextRun(
        sized=sized, steps=steps, molecules=molecules, flops=cost, loss=loss, interval=interval,
        run_interval=run_interval, learning_rate=learning_rate, tree=tree, lines=tuple(lines),
    )  # fmt: skip


def write_next(choice: NextRun, path: Path) -> None:
    """Write the ladder file, with the reasons as a comment.

    Raises:
        ConfigError: the file exists, or cannot be written.
    """
    # Built before it is written: the file must be a valid ladder.
    plan(build(LadderConfig, choice.tree, Origin(name=str(path))))
    reasons = "".join(f"#   {line}\n" for line in choice.lines)
    text = yaml.safe_dump(dict(choice.tree), sort_keys=False, allow_unicode=True, width=110)
    head = f"# The next run recommended by the law of the runs so far; `unimol-scale ladder {path}` trains it.\n#\n"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(f"{head}{reasons}\n{text}")
    except FileExistsError as error:
        raise ConfigError(f"--output: {path} already exists; delete it, or choose another name") from error
    except OSError as error:
        raise ConfigError(f"--output: {path} cannot be written: {error.strerror}") from error


def _fit(points: Points, name: str, config: FitConfig) -> Fit:
    """Fit the best of the laws in size and data."""
    LAWS.check(name, "--law", ("auto",))
    joint = [law for law in candidate_laws(points) if len(set(law.variables)) > 1]
    if not joint:
        raise RunError(
            "the next run cannot be chosen: weighing size against data takes runs that differ in both, at least three "
            "sizes at three budgets"
        )
    chosen = joint if name == "auto" else candidate_laws(points, (LAWS.entry(name),))
    laws = [law for law in chosen if len(set(law.variables)) > 1]
    if not laws:
        names = ", ".join(law.name for law in joint)
        raise ConfigError(f"--law: {name} has no trade-off between size and data; valid: auto, {names}")
    law = laws[0] if len(laws) == 1 else choose_law(laws, points, config).law
    return fit_law(law, points, config)


def _budget(text: str | None, points: Points) -> float:
    if text is None:
        if "C" not in points.columns:
            raise RunError("the runs do not record their FLOPs, so a compute budget cannot be used")
        return STEP_UP * float(points.columns["C"].max())
    flops = parse_count(text)
    if flops is None:
        raise ConfigError(f"--budget {text!r} is not a number of FLOPs such as 3e18")
    return flops


def _template_run(records: Sequence[RunRecord], parameters: float) -> TemplateRun:
    """Return the run nearest in size; among runs of that size, the one with the largest budget."""
    known = [record for record in records if (Path(record.source) / CONFIG_NAME).is_file()]
    if not known:
        raise RunError(
            "the next run copies its settings from the runs so far, but none of these is a run folder with a "
            f"{CONFIG_NAME}"
        )
    damaged = []
    for record in sorted(known, key=lambda record: (abs(math.log(record.parameters / parameters)), -record.molecules)):
        try:
            settings, summary = _read_settings(Path(record.source))
        except (ConfigError, UnreadableRunError, OSError) as error:
            damaged.append(str(error))
        else:
            return TemplateRun(record=record, settings=settings, summary=summary, damaged=tuple(damaged))
    raise RunError(f"the next run copies its settings from the runs so far, but none can be read: {'; '.join(damaged)}")


def _read_settings(folder: Path) -> tuple[Mapping[str, Any], Summary]:
    settings, _ = read_yaml(folder / CONFIG_NAME)
    for key in ("model", "train", "data"):
        if not isinstance(settings.get(key), Mapping):
            raise ConfigError(f"{folder / CONFIG_NAME} is not the configuration of a run: it has no group {key!r}")
    return settings, read_summary(folder)


def flops_per_molecule(template: TemplateRun, sized: SizedModel, counter: ModelCounter | None) -> float:
    """Return the training FLOPs per molecule of a new model: those that the template logged, scaled by the model.

    The scale depends slightly on the size of the molecule. It is computed for the mean molecule, the one whose computed
    FLOPs are nearest to those that the template logged.
    """
    record = template.record
    assert record.flops is not None
    own = record.flops / record.molecules
    before, after = _costs(template, sized, counter)
    atoms = min(range(1, LARGEST_MOLECULE + 1), key=lambda atoms: abs(math.log(before(atoms) / own)))
    return own * after(atoms) / before(atoms)


def _costs(
    template: TemplateRun, sized: SizedModel, counter: ModelCounter | None
) -> tuple[Callable[[int], float], Callable[[int], float]]:
    """Return the training FLOPs of a molecule, as functions of its atoms, for the template's model and the new one."""
    from unimol_scale.model.accounting import training_flops
    from unimol_scale.model.presets import ModelConfig

    record, objective = template.record, template.record.comparable["objective"]
    origin = Origin(name=f"{record.source}/{CONFIG_NAME}", recorded=True)
    model = build(ModelConfig, template.settings["model"], origin, "model")
    if objective == "denoise":
        return (lambda atoms: training_flops(model, atoms)), (lambda atoms: training_flops(sized.model, atoms))
    learnt = flatten({"objective": template.settings.get("objective", {})})
    settings = {key: value for key, value in learnt.items() if value is not None}

    def cost(size: str, dimensions: ModelConfig) -> Callable[[int], float]:
        own = {f"model.{key}": value for key, value in vars(dimensions).items()}
        return count_model(size, {**settings, **own}, objective, counter, "--next").training_flops

    return cost(record.size or sized.size, model), cost(sized.size, sized.model)


def _ladder(template: TemplateRun, sized: SizedModel, steps: int, learning_rate: float) -> dict[str, Any]:
    """Return the ladder file: the settings of the template with the new model, steps and learning rate."""
    settings, summary = template.settings, template.summary
    overrides: dict[str, Any] = {}
    for group in ("train", "data", "objective", "zero"):
        kept = _without(settings.get(group, {}), OWN_SETTINGS.get(group, ()))
        if kept:
            overrides[group] = kept
    overrides["train"] = {"learning_rate": float(f"{learning_rate:.3g}"), **overrides.get("train", {})}
    if sized.changes:
        overrides["model"] = dict(sized.changes)
    ranks = summary.world_size
    return {
        "name": "next",
        "data": str(settings["data"].get("path", "data")),
        "output": str(Path(template.record.source).parent),
        "launcher": "deepspeed" if ranks > 1 else "python",
        "ranks": ranks,
        "objective": template.record.comparable["objective"],
        "sizes": [sized.size],
        "steps": [steps],
        "warmup": float(f"{_warmup_share(settings['train'], steps):.4g}"),
        "seeds": [template.record.seed or 0],
        "overrides": overrides,
    }


def _warmup_share(train: Mapping[str, Any], steps: int) -> float:
    """Return the share of the warm-up of a new run: that of its template, or with ``wsd`` at most as many steps.

    A trunk warms up once for all its branches, so a short branch has a large share.
    """
    warmup, whole = float(train.get("warmup_steps", 0)), float(train["steps"])
    share = warmup / whole
    return min(share, warmup / steps) if train.get("schedule") == "wsd" else share


def _without(tree: Any, keys: Sequence[str]) -> dict[str, Any]:  # noqa: ANN401
    """Return a group of settings without some keys, and without empty values."""
    if not isinstance(tree, Mapping):
        return {}
    kept: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            value = _without(value, ())
        if key not in keys and value is not None and value != {} and value != []:
            kept[str(key)] = value
    return kept


def _optimum_line(optimum: Optimum) -> str:
    size, data = engineering(optimum.parameters), engineering(optimum.molecules)
    if optimum.parameters_interval is not None and optimum.molecules_interval is not None:
        size += " ({} to {})".format(*map(engineering, optimum.parameters_interval))
        data += " ({} to {})".format(*map(engineering, optimum.molecules_interval))
    return f"the best use of {powers(optimum.flops)} FLOPs: {size} parameters on {data} molecules"


def _model_text(sized: SizedModel) -> str:
    text = f"the preset {sized.size}"
    dimensions = {key: value for key, value in sized.changes.items() if key in DIMENSIONS}
    if dimensions:
        text += " with " + ", ".join(f"{key} {value}" for key, value in dimensions.items())
    return f"{text}; {sized.parameters:,.0f} parameters"


def _hours(template: TemplateRun, cost: float) -> str:
    seconds, flops = template.summary.get("seconds"), template.record.flops
    if not isinstance(seconds, int | float) or not seconds or not flops:
        return ""
    ranks = template.summary.world_size
    took = cost * seconds / flops
    return f", {duration(took)} at the speed of {template.record.name} ({counted(ranks, 'rank')})"


def _loss_text(loss: float, interval: Interval | None, run_interval: Interval | None, fit: Fit) -> str:
    if interval is None or run_interval is None:
        return f"{loss:.4g} (no interval)"
    law, run = (f"{low:.4g} to {high:.4g}" for low, high in (interval, run_interval))
    return f"{loss:.4g}, {fit.confidence:.0%} interval of the law {law}, of a single run {run}"
