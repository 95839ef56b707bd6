"""Starts the runs of a ladder, one or several at a time: skips finished runs, and resumes unfinished ones.

Runs are started by the command line of pretraining, and judged by exit status and the files in their folders. Imports
no torch.
"""

import collections
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.table import Table

from unimol_scale.common.exit_status import EXIT_STOPPED
from unimol_scale.common.output_checks import require_folder
from unimol_scale.common.run_files import CONFIG_NAME
from unimol_scale.errors import ConfigError, RunError
from unimol_scale.scaling.ladder.finished_run import finished_run, note_settings
from unimol_scale.scaling.ladder.ladder import LadderConfig, Rung
from unimol_scale.scaling.ladder.process_group import OrderedToStopError, ProcessGroup, ended_together
from unimol_scale.scaling.ladder.run_command import command, environment, runs_at_once
from unimol_scale.scaling.runs.run_records import RunRecord

_POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class LaunchResult:
    """What a launch of the ladder did for one run.

    Attributes:
        rung: the run.
        action: what was done; "stopped" means that a signal ended the run after it had saved, and the next launch
            resumes it.
        outcome: its record, or why a law cannot use it.
        seconds: time that the launch spent on it.
    """

    rung: Rung
    action: Literal["skipped", "trained", "resumed", "stopped"]
    outcome: RunRecord | str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Started:
    """A run that this launch has started.

    Attributes:
        rung: the run.
        group: its processes.
        resumed: whether an earlier launch had begun it.
        began: when it was started.
    """

    rung: Rung
    group: ProcessGroup
    resumed: bool
    began: float

    def result(self, outcome: RunRecord | str | None) -> LaunchResult:
        """Return what became of the run; None: it is not finished."""
        seconds = time.monotonic() - self.began
        if outcome is None:
            return LaunchResult(rung=self.rung, action="stopped", outcome="stopped", seconds=seconds)
        action: Literal["resumed", "trained"] = "resumed" if self.resumed else "trained"
        return LaunchResult(rung=self.rung, action=action, outcome=outcome, seconds=seconds)


def launch_ladder(config: LadderConfig, rungs: Sequence[Rung]) -> list[LaunchResult]:
    """Run everything that is not finished, ``runs_at_once`` runs at a time; interrupted runs are resumed.

    Returns:
        One result for each run, in their order; fewer if a signal stopped the launch.

    Raises:
        ConfigError: the store or the pretraining command is missing.
        RunError: a folder holds a run with other settings, or a run fails; those beside it are told to save and stop.
    """
    check_inputs(config)
    # All folders are checked first, so that an error in the last one does not come after hours of training.
    finished = [finished_run(config, rung) for rung in rungs]
    results: dict[str, LaunchResult] = {}
    waiting: collections.deque[tuple[int, Rung]] = collections.deque()
    for index, (rung, outcome) in enumerate(zip(rungs, finished, strict=True), start=1):
        if outcome is None:
            waiting.append((index, rung))
            continue
        results[rung.name] = LaunchResult(rung=rung, action="skipped", outcome=outcome, seconds=0.0)
        print(f"ladder: run {index} of {len(rungs)}, {rung.name}: already finished", flush=True)
    for result in _launch_all(config, waiting, len(rungs)):
        results[result.rung.name] = result
    return [results[rung.name] for rung in rungs if rung.name in results]


def _launch_all(config: LadderConfig, waiting: collections.deque[tuple[int, Rung]], count: int) -> list[LaunchResult]:
    """Start runs as others end, a branch after its trunk; return the results of those that were started."""
    at_once = min(runs_at_once(config), len(waiting))  # a single run has all cores
    results: list[LaunchResult] = []
    running: list[_Started] = []
    try:
        with ended_together() as groups:
            while waiting or running:
                while len(running) < at_once and (ready := _next_ready(waiting, running, last=at_once > 1)) is not None:
                    running.append(_start(config, *ready, count, at_once))
                    groups.append(running[-1].group)
                time.sleep(_POLL_SECONDS)
                for started in [one for one in running if one.group.poll() is not None]:
                    results.append(_ended(config, started))
                    running.remove(started)
                    groups.remove(started.group)
    except OrderedToStopError:  # all have ended; one may have finished before it saw the signal
        results += [one.result(finished_run(config, one.rung)) for one in running]
    return results


def _next_ready(
    waiting: collections.deque[tuple[int, Rung]], running: Sequence[_Started], *, last: bool
) -> tuple[int, Rung] | None:
    """Take the first run, or the last one, whose trunk, if it has one, is not still to be trained; None: there is none.

    Of several at a time the last one begins: ladders end with their largest runs, which would otherwise be trained
    alone at the end, while the other cores have no work.
    """
    unfinished = {rung.name for _, rung in waiting} | {one.rung.name for one in running}
    ready = [pair for pair in waiting if pair[1].trunk not in unfinished]
    if not ready:
        return None
    waiting.remove(ready[-1 if last else 0])
    return ready[-1 if last else 0]


def _start(config: LadderConfig, index: int, rung: Rung, count: int, at_once: int) -> _Started:
    resumed = (rung.folder / CONFIG_NAME).is_file()
    print(f"ladder: run {index} of {count}, {rung.name}{': resumed' if resumed else ''}", flush=True)
    log = config.output / "logs" / f"{rung.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    group = ProcessGroup(command(config, rung, _free_port()), environment(config, at_once), log)
    return _Started(rung=rung, group=group, resumed=resumed, began=began)


def _ended(config: LadderConfig, started: _Started) -> LaunchResult:
    """Judge a run whose processes have ended.

    Raises:
        OrderedToStopError: the run was told to stop, and so are the others.
        RunError: the run failed.
    """
    rung, log = started.rung, started.group.log
    status = started.group.close()
    if status == EXIT_STOPPED:
        raise OrderedToStopError
    if status != 0:
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        raise RunError(
            f"the run {rung.name} failed ({how}); its output is in {log}; start the ladder again to resume it"
        )
    note_settings(config, rung)
    outcome = finished_run(config, rung)
    if outcome is None:
        raise RunError(f"the run {rung.name} ended without finishing; its output is in {log}")
    return started.result(outcome)


def check_inputs(config: LadderConfig) -> None:
    """Check that the inputs of all runs exist.

    Raises:
        ConfigError: the store or the pretraining command is missing, or the output cannot be written.
    """
    if config.script is not None and not config.script.is_file():
        raise ConfigError(
            f"script: {config.script} does not exist; start the ladder in the folder where it does, or leave out the "
            "key to use `unimol-scale pretrain`"
        )
    require_folder(config.output, "output")
    if not config.data.is_dir():
        source = config.data.name if config.data.parent.name == "data" else "sample"
        raise ConfigError(
            f"data: there is no conformer store at {config.data}; "
            f"`unimol-scale build --source {source} --output {config.data}` makes one"
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def result_table(results: Sequence[LaunchResult]) -> Table:
    """Return a table of what the ladder did."""
    table = Table(title="Ladder", title_justify="left")
    for name in ("run", "parameters", "molecules", "validation loss", "this time"):
        table.add_column(name, overflow="fold")
    for result in results:
        action = result.action if result.action == "skipped" else f"{result.action}, {result.seconds:.0f} s"
        if isinstance(result.outcome, str):
            stopped = result.action == "stopped"
            table.add_row(result.rung.name, "", "", "to be resumed" if stopped else "diverged", action)
            continue
        record = result.outcome
        table.add_row(
            record.name, f"{record.parameters:,.0f}", f"{record.molecules:,.0f}", f"{record.loss:.4f}", action
        )
    return table
