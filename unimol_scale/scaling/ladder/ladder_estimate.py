"""Estimates time and disk space of every run of a ladder, as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rich.table import Table

from unimol_scale.common.run_files import CONFIG_NAME
from unimol_scale.common.units import byte_size, counted, duration
from unimol_scale.errors import UnimolScaleError
from unimol_scale.scaling.ladder.finished_run import finished_run
from unimol_scale.scaling.ladder.ladder import LadderConfig, Rung
from unimol_scale.scaling.ladder.run_command import pretrain_settings


class Estimate(Protocol):
    """Estimate of one run."""

    @property
    def seconds(self) -> float:
        """Time of the training steps."""

    @property
    def disk_bytes(self) -> int:
        """Largest size of the run folder."""

    @property
    def device(self) -> str:
        """Name of the device that the estimate is for."""


class Estimator(Protocol):
    """The trainer's plan for runs that are known by their settings."""

    def __call__(self, size: str, settings: Mapping[str, Any], ranks: int) -> Estimate:
        """Return what a run of a size with these settings and this many ranks takes; raises UnimolScaleError."""


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A run of a ladder.

    Attributes:
        rung: the run.
        state: what remains to be done.
        estimate: estimate for the whole run, or why there is none.
    """

    rung: Rung
    state: str
    estimate: Estimate | str

    @property
    def is_left(self) -> bool:
        """Whether the run is not finished."""
        return self.state != "finished"


def estimate_runs(config: LadderConfig, rungs: Sequence[Rung], estimate: Estimator) -> list[PlannedRun]:
    """Return the runs with an estimate of each.

    Raises:
        RunError: a folder holds a run with other settings.
    """
    planned = []
    for rung in rungs:
        begun = (rung.folder / CONFIG_NAME).is_file()
        left = "to be resumed" if begun else "to be trained"
        state = "finished" if finished_run(config, rung) else left
        try:
            needs: Estimate | str = estimate(rung.size, pretrain_settings(config, rung), config.ranks)
        except UnimolScaleError as error:
            needs = str(error)
        planned.append(PlannedRun(rung=rung, state=state, estimate=needs))
    return planned


def plan_table(config: LadderConfig, planned: Sequence[PlannedRun]) -> Table:
    """Return the plan as a table: the state of each run, its time and its disk space."""
    table = Table(title=f"Ladder {config.name}: {len(planned)} runs")
    table.add_column("run", overflow="fold")  # a truncated name could be that of another run
    for name in ("size", "steps", "seed", "state"):
        table.add_column(name)
    for name in ("time", "disk"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in planned:
        rung, needs = run.rung, run.estimate
        costs = ("?", "?") if isinstance(needs, str) else (duration(needs.seconds), byte_size(needs.disk_bytes))
        steps = f"{rung.begins} to {rung.steps}" if rung.trunk else str(rung.steps)
        table.add_row(rung.name, rung.size, steps, str(rung.seed), run.state, *costs)
    return table


def total_line(planned: Sequence[PlannedRun], at_once: int = 1) -> str:
    """Return the sum of all estimates in words, and why some runs have none; ``at_once`` runs share the machine."""
    left = [run.estimate for run in planned if run.is_left and not isinstance(run.estimate, str)]
    unknown = [run.estimate for run in planned if isinstance(run.estimate, str)]
    disk = sum(run.estimate.disk_bytes for run in planned if not isinstance(run.estimate, str))
    lines = []
    if left:
        seconds = sum(estimate.seconds for estimate in left)
        how = "one after another" if at_once == 1 else f"{at_once} at a time"
        lines.append(
            f"estimated for {left[0].device}: {duration(seconds)} for the {counted(len(left), 'run')} left, {how}, "
            f"without validation and saving; up to {byte_size(disk)} of disk for all"
        )
    lines += _sharing(planned)
    if unknown:
        hint = "; without a store, --atoms 25 assumes molecules of that size" if "no store" in unknown[0] else ""
        lines.append(f"time and disk of {len(unknown)} of {len(planned)} runs are unknown: {unknown[0]}{hint}")
    return "\n".join(lines) or f"all runs are finished; they take up to {byte_size(disk)} of disk"


def _sharing(planned: Sequence[PlannedRun]) -> list[str]:
    """Return, in words, what trunks save; [] if there are none or their time is unknown."""
    shared = whole = 0.0
    for trunk in planned:
        branches = [run.rung for run in planned if run.rung.trunk == trunk.rung.name]
        if not branches or isinstance(trunk.estimate, str):
            continue
        per_step = trunk.estimate.seconds / trunk.rung.steps
        shared += per_step * (trunk.rung.steps + sum(branch.steps - branch.begins for branch in branches))
        whole += per_step * sum(branch.steps for branch in branches)
    if not whole:
        return []
    return [
        f"trunks and branches take {duration(shared)} in all, whole runs of the same budgets {duration(whole)}: "
        f"sharing saves {1 - shared / whole:.0%} of the compute"
    ]
