"""Feed the builder generated rows by the million, and the trainer a store of 838 million molecules; extrapolate.

    python -m benchmarks.build.billion --rows 1000000 10000000 --directory /fast/disk
    python -m benchmarks.build.billion --rows 100000000 --selection-only --directory /fast/disk

Each build runs in a process of its own: curation and conformers are replaced by generated files of the same names and
columns (``generated_rows``); jobs, selection, assembly and report are the builder's own. Then the store of the largest
build is named again until it has 838 million molecules (``training_path``), and a rank begins there at the first step
and at a late one. Processor time is what counts on a shared machine. About 0.6 kB of disk are needed for each row,
twice; up to the selection (--selection-only), 60 bytes. Measurements are kept in benchmarks/results/billion/, and
benchmarks/results/billion.md shows all of them. Linux only (/proc).
"""

import argparse
import dataclasses
import datetime
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import pyarrow
import ray

import unimol_scale.config as strict
from benchmarks.build.billion.simulated_build import Measured, build_config, simulate
from benchmarks.build.billion.tables import build_tables, training_table
from benchmarks.build.billion.training_path import FirstSteps, begin, repeat_shards
from benchmarks.common import RESULTS, again, as_started, deliver, module_parser, processor
from unimol_scale.common.machine.threads import usable_cores
from unimol_scale.common.text.json_files import read_json, write_json
from unimol_scale.common.trees import Tree

COMMAND = "python -m benchmarks.build.billion"
M = TypeVar("M", Measured, FirstSteps)
MOLECULES = 838_000_000
LATE_STEP = 700_000  # of 818,000 at a batch of 1,024
WINDOW = 256  # shards that a process keeps open


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000], help="rows of each build")
    parser.add_argument(
        "--task-size", type=int, default=1000, help="rows per piece; the default is that of configs/build/uni-mol2.yaml"
    )
    parser.add_argument(
        "--selection-only",
        action="store_true",
        help="end each build after curation and selection, and start no training",
    )
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--batch-size", type=int, default=1024, help="molecules per training step")
    parser.add_argument("--ranks", type=int, default=64, help="ranks of the simulated run; only rank 0 is started")
    parser.add_argument("--steps", type=int, default=4, help="training steps to load from each start")
    parser.add_argument("--directory", type=Path, help="directory for the stores (default: a temporary one)")
    parser.add_argument("--output", type=Path, default=RESULTS / "billion.md")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # one measurement, in a process of its own
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what was requested, and write the tables of all measurements so far."""
    options = build_parser().parse_args(arguments)
    if options.only is not None:
        _measure(json.loads(options.only))
        return
    if options.directory is not None:
        options.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        store = Path()
        for rows in options.rows:
            store = Path(folder) / f"store-{rows}"
            job = {"rows": rows, "output": str(store), "workers": options.workers, "task_size": options.task_size}
            _keep(options.output, f"build-{rows:012d}", _alone({**job, "selection_only": options.selection_only}))
        if not options.selection_only:
            _train(options, store, Path(folder) / "many")
    deliver(report(options.output.with_suffix(""), options), options.output)


def _train(options: argparse.Namespace, store: Path, folder: Path) -> None:
    """Begin training, in three ways, from a store whose shards are named again and again."""
    many = repeat_shards(store, folder, MOLECULES)
    common = {"store": str(many), "batch_size": options.batch_size, "ranks": options.ranks, "steps": options.steps}
    beginnings = ({"step": 0}, {"step": LATE_STEP}, {"step": LATE_STEP, "window": WINDOW})
    for at, beginning in enumerate(beginnings):
        _keep(options.output, f"training-{at}", _alone({**common, **beginning}))


def _keep(output: Path, name: str, measured: Tree) -> None:
    """Store a measurement beside the report, with the date and the machine."""
    machine = f"{processor()}, {usable_cores()} cores; Ray {ray.__version__}, Arrow {pyarrow.__version__}"
    day = f"{datetime.datetime.now(tz=datetime.timezone.utc):%Y-%m-%d}"
    write_json(output.with_suffix("") / f"{name}.json", {"day": day, "machine": machine, "measured": measured})


def report(folder: Path, options: argparse.Namespace) -> str:
    """Return the Markdown of all measurements in a folder."""
    kept = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
    builds = [_as(Measured, tree) for name, tree in kept.items() if name.startswith("build-")]
    starts = [_as(FirstSteps, tree) for name, tree in kept.items() if name.startswith("training-")]
    when = sorted({f"{tree['day']}, {tree['machine']}" for tree in kept.values()})
    head = [
        "# A billion rows, simulated",
        "",
        *(f"- {line}" for line in when),
        f"- last: `{as_started(COMMAND)}`",
        "- generated: hashes, scaffolds, sizes, SMILES and coordinates, in the files that curation and conformers "
        "leave; the rest is the builder's own code",
        "",
    ]
    tail = training_table(starts, options.batch_size, options.ranks)
    return "\n".join([*head, *build_tables(builds), *tail])


def _as(kind: type[M], tree: Tree) -> M:
    return strict.build(kind, tree["measured"], strict.Origin(name=COMMAND))


def _measure(job: Tree) -> None:
    """Do one measurement and print it as JSON on the last line."""
    measured: Measured | FirstSteps
    if "rows" in job:
        config = build_config(job["rows"], Path(job["output"]), job["workers"], job["task_size"])
        measured = simulate(config, selection_only=job["selection_only"])
    else:
        settings = {name: job[name] for name in ("batch_size", "ranks", "steps")}
        measured = begin(Path(job["store"]), job["step"], job.get("window"), **settings)
    print(json.dumps(dataclasses.asdict(measured)))


def _alone(job: Tree) -> Tree:
    """Do one measurement in a fresh process."""
    command, environment = again(COMMAND, ["--only", json.dumps(job)])
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    found: Tree = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
