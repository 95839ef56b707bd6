"""Cause the faults of long runs in a small pretraining run, and compare its curve with that of an undisturbed run.

    python -m benchmarks.training.faults --data data/sample

Two ranks under the ``deepspeed`` launcher in fp32. One run is killed with SIGKILL repeatedly: each rank ``--kills``
times and sometimes all processes at once, half of the times during a save; after each kill the same command is
started again. Other runs get signals, dead loaders, a full disk, damaged checkpoints, a NaN in the store or a
rise of the loss. Moments and victims are drawn with ``--seed``; a moment is a step, not a time, so it falls within the
run on a fast machine and on a slow one.

Writes a table to benchmarks/results/trainer_faults.md and ends with status 0 only if every case went as expected.
With ``--directory`` finished cases are kept there, and the same command continues with those that are missing.
"""

import argparse
import dataclasses
import datetime
import functools
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# As every command has it, and before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import deepspeed
import torch

from benchmarks.common import RESULTS, module_parser, processor
from benchmarks.training.faults.cases import CASES, Bench
from benchmarks.training.faults.plan import ALL, NUM_RANKS, SAVE, START, Kill, Trial, differing, plan_kills, table
from benchmarks.training.faults.sessions import Session, curve, is_saving, last_step, write_json
from unimol_scale.checkpoints.run.checkpoint_folder import newest_valid
from unimol_scale.common.run_files import CHECKPOINTS

COMMAND = "python -m benchmarks.training.faults"

LONGEST_STOP_S = 60.0
SAVE_S = 0.05  # approximate duration of a save
SPARE_STEPS = 30  # after the last kill


def undisturbed(bench: Bench, steps: int) -> float:
    """Run the undisturbed run unless it is finished; return the seconds until its first step was done."""
    path = bench.root / "truth.json"
    if not path.is_file():
        begun = time.monotonic()
        session = bench.start(bench.fresh(bench.truth.name), [f"train.steps={steps}"])
        session.wait_for(lambda: last_step(bench.truth) > 0)
        seconds = time.monotonic() - begun
        if status := session.finish():
            raise RuntimeError(f"the undisturbed run ended with status {status}:\n{session.text}")
        write_json(path, {"steps": steps, "seconds_to_first_step": seconds})
    told = json.loads(path.read_text())
    assert told["steps"] == steps, f"{path} was made with another --kills or --seed"
    return float(told["seconds_to_first_step"])


def run_under_kills(bench: Bench, kills: Sequence[Kill], steps: int, start_seconds: float) -> list[Trial]:
    """Kill one run at all the planned moments and let it finish; return the outcome of each kill."""
    run = bench.fresh("killed")
    trials: list[Trial] = []
    reached = 0
    for number, kill in enumerate(kills, 1):
        session = bench.start(run, [f"train.steps={steps}"])
        hit, seconds = _strike(session, run, kill, start_seconds)
        trials.append(_judge(session, run, kill, hit, seconds, reached))
        reached = newest_step(run)[0]
        say(f"{number}/{len(kills)} {trials[-1]}")
    session = bench.start(run, [f"train.steps={steps}"])
    status = session.finish()
    places = differing(curve(run), curve(bench.truth))
    sessions = len(kills) + 1
    problem = f"status {status}" if status else f"differs: {', '.join(places[:5])}" if places else ""
    note = f"{steps} steps in {sessions} sessions, every loss, validation loss and gradient norm bit-equal"
    return [*trials, Trial("the run that was killed, finished", problem, message="" if problem else note)]


def _strike(session: Session, run: Path, kill: Kill, start_seconds: float) -> tuple[bool, float]:
    """Kill at the planned moment; return whether it came, and the seconds until no process of the session was left."""
    starting = kill.moment == START
    session.wait_for((lambda: 1 in session.ranks()) if starting else (lambda: session.is_under_way))
    ranks = session.ranks()
    victims = session.family() if kill.victim == ALL else [ranks[kill.victim]] if kill.victim in ranks else []
    hit = session.status is None
    if starting:
        time.sleep(kill.delay * start_seconds / 2)
    elif hit:
        first = max(kill.step, session.resumed_step() + 1)
        hit = session.wait_for(lambda: last_step(run) >= first) and _wait_for_save(session, run, kill)
    return hit and session.status is None, session.fall(victims)


def _wait_for_save(session: Session, run: Path, kill: Kill) -> bool:
    """Wait until a save is in progress, or until none is; return False if the session ended first."""
    wanted = kill.moment == SAVE
    while session.wait_for(lambda: is_saving(run) == wanted):
        time.sleep(kill.delay * SAVE_S)
        if is_saving(run) == wanted:
            return True
    return False


def _judge(session: Session, run: Path, kill: Kill, hit: bool, seconds: float, reached: int) -> Trial:
    newest, damaged = newest_step(run)
    again = 0 if kill.moment == START else last_step(run) - newest
    problem = ""
    if not hit:
        problem = f"ended with status {session.status} before it could be killed"
    elif seconds > LONGEST_STOP_S:
        problem = f"stopped only after {seconds:.0f} s"
    elif session.status == 0:
        problem = "ended with status 0"
    elif damaged:
        problem = f"a damaged checkpoint counts: {damaged[0]}"
    elif newest < reached:
        problem = f"lost the checkpoint of step {reached}"
    elif kill.moment != START and session.resumed_step() != reached:
        problem = f"went on from step {session.resumed_step()} instead of {reached}"
    elif again > 2 * Bench.checkpoint_every:
        problem = f"{again} steps were lost"
    return Trial(kill.fault, problem, again, seconds, session.message("another rank is gone", "exits with return code"))


def newest_step(run: Path) -> tuple[int, list[str]]:
    """Return the step of the newest checkpoint that verifies, 0 for none, and what is wrong with newer ones."""
    found, problems = newest_valid(run / CHECKPOINTS)
    return (found.step if found else 0), problems


def say(text: str) -> None:
    """Print the progress."""
    print(f"{datetime.datetime.now():%H:%M:%S} {text}", flush=True)


def kept(path: Path, make: Callable[[], list[Trial]]) -> list[Trial]:
    """Return the trials in a file, or make them and keep them there."""
    if not path.is_file():
        write_json(path, [dataclasses.asdict(trial) for trial in make()])
    return [Trial(**tree) for tree in json.loads(path.read_text())]


def report(options: argparse.Namespace, trials: Sequence[Trial]) -> str:
    """Return what was found as Markdown."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, DeepSpeed {deepspeed.__version__}"
    return "\n".join(
        [
            "# Faults of a training run",
            "",
            f"- {datetime.date.today()}, {processor()}, {len(os.sched_getaffinity(0))} core(s) for {NUM_RANKS} ranks, "
            "no GPU used",
            f"- {versions}, ZeRO stage 3, fp32",
            f"- size {Bench.size}, 8 molecules a step, a checkpoint every {Bench.checkpoint_every} steps",
            f"- `python -m benchmarks.training.faults --data {options.data.name} --kills {options.kills} "
            f"--seed {options.seed}`",
            "",
            *table(trials),
            "",
            "Repeated steps are those after the newest complete checkpoint. A run has stopped when no process of it is "
            "left. Where a run continued, its losses, validation losses and gradient norms are compared with those of "
            "the undisturbed run: they must be bit-equal, or within 1e-5 if the number of ranks has changed.",
            "",
        ]
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("--data", type=Path, required=True, help="a conformer store")
    parser.add_argument("--kills", type=int, default=20, help="number of SIGKILLs for each rank")
    parser.add_argument("--seed", type=int, default=0, help="seed for moments and victims of the kills")
    parser.add_argument(
        "--directory", type=Path, help="directory in which the runs are kept (default: a temporary one)"
    )
    parser.add_argument("--results", type=Path, default=RESULTS / "trainer_faults.md")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run all cases; return 0 if every one went as expected."""
    options = build_parser().parse_args(argv)
    kills = plan_kills(options.kills, options.seed)
    steps = kills[-1].step + SPARE_STEPS
    steps += -steps % Bench.validate_every
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options.directory or Path(folder), options.data)
        bench.root.mkdir(parents=True, exist_ok=True)
        say(f"the undisturbed run: {steps} steps")
        start_seconds = undisturbed(bench, steps)
        trials = kept(bench.root / "kills.json", lambda: run_under_kills(bench, kills, steps, start_seconds))
        trials.sort(key=lambda trial: trial.fault)
        for name, case in CASES.items():
            for trial in (found := kept(bench.root / f"{name}.json", functools.partial(case, bench))):
                say(str(trial))
            trials += found
    text = report(options, trials)
    print(text)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(text, encoding="utf-8")
    return int(any(trial.problem for trial in trials))


if __name__ == "__main__":
    sys.exit(main())
