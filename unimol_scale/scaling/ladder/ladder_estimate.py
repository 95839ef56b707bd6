"""What a ladder would take: its runs, and the hours and the disk of each by the estimate of the trainer's plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rich.table import Table

from unimol_scale.common.run_files import CONFIG_NAME
from unimol_scale.errors import UnimolScaleError
from unimol_scale.scaling.ladder.ladder import LadderConfig, Rung
from unimol_scale.scaling.ladder.launch import outcome_of, pretrain_settings

GIB = 2.0**30


class Estimate(Protocol):
    """What a run would take."""

    @property
    def seconds(self) -> float:
        """Of its training steps."""

    @property
    def disk_bytes(self) -> int:
        """Of its folder at the most."""

    @property
    def device(self) -> str:
        """That was planned for."""


class Estimator(Protocol):
    """The trainer's plan, known by the settings of its runs."""

    def __call__(self, size: str, settings: Mapping[str, Any], ranks: int) -> Estimate:
        """Return what a run of a size with these settings and so many ranks takes; raises UnimolScaleError."""


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A run of a ladder.

    Attributes:
        rung: the run.
        state: what is to be done with it.
        estimate: what it takes from its start to its end, or why that is not known.
    """

    rung: Rung
    state: str
    estimate: Estimate | str

    @property
    def is_left(self) -> bool:
        """Whether there is something to be done."""
        return self.state != "finished"


def estimate_runs(config: LadderConfig, rungs: Sequence[Rung], estimate: Estimator) -> list[PlannedRun]:
    """Return the runs with what each takes.

    Raises:
        RunError: a folder holds a run with other settings.
    """
    planned = []
    for rung in rungs:
        begun = (rung.folder / CONFIG_NAME).is_file()
        left = "to be resumed" if begun else "to be trained"
        state = "finished" if outcome_of(config, rung) else left
        try:
            needs: Estimate | str = estimate(rung.size, pretrain_settings(config, rung), config.ranks)
        except UnimolScaleError as error:
            needs = str(error)
        planned.append(PlannedRun(rung=rung, state=state, estimate=needs))
    return planned


def plan_table(config: LadderConfig, planned: Sequence[PlannedRun]) -> Table:
    """Return the plan as a table: what would be started, what is there already, and what each run takes."""
    table = Table(title=f"Ladder {config.name}: {len(planned)} runs")
    table.add_column("run", overflow="fold")  # a name cut short could be another run's
    for name in ("size", "steps", "seed", "state"):
        table.add_column(name)
    for name in ("time", "disk"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in planned:
        rung, needs = run.rung, run.estimate
        costs = ("?", "?") if isinstance(needs, str) else (_time(needs.seconds), _size(needs.disk_bytes))
        table.add_row(rung.name, rung.size, str(rung.steps), str(rung.seed), run.state, *costs)
    return table


def total_line(planned: Sequence[PlannedRun]) -> str:
    """Return what the ladder takes in all, and what could not be estimated."""
    left = [run.estimate for run in planned if run.is_left and not isinstance(run.estimate, str)]
    unknown = [run.estimate for run in planned if isinstance(run.estimate, str)]
    disk = sum(run.estimate.disk_bytes for run in planned if not isinstance(run.estimate, str))
    lines = []
    if left:
        seconds = sum(estimate.seconds for estimate in left)
        runs = "run" if len(left) == 1 else "runs"
        lines.append(
            f"estimated for {left[0].device}: {_time(seconds)} for the {len(left)} {runs} left, one after "
            f"another, without validation and saving; at most {_size(disk)} of disk for all"
        )
    if unknown:
        lines.append(f"time and disk of {len(unknown)} of {len(planned)} runs are not known: {unknown[0]}")
    return "\n".join(lines) or f"all runs are finished; they take at most {_size(disk)} of disk"


def _time(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} hours"
    return f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.0f} seconds"


def _size(count: float) -> str:
    return f"{count / GIB:,.1f} GiB" if count >= GIB else f"{count / 2**20:,.1f} MiB"
