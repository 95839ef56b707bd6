"""Build one store three times, the last time with processes being killed, and compare every byte.

    python -m benchmarks.build.faults --source zinc20 --input CDAA.smi --rows 20000

One worker; two workers; two workers with ``--kills`` SIGKILLs at random moments. A kill hits the driver, a busy worker,
or all processes at once, as when a machine loses power. After the driver was killed, the same command is run again.
Moments and victims are drawn with ``--seed``. A moment is a number of finished pieces of work, not a time, so it falls
within the build on fast and on slow machines.

Writes a table to benchmarks/results/build_faults.md and ends with status 0 only if the three stores are equal and every
kill found its victim. Linux only: processes are found through /proc.
"""

import argparse
import dataclasses
import datetime
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.common import REPOSITORY, RESULTS, module_parser, processor
from conformer_gen.selection.pieces import CONFORMERS, CURATED, done_pieces

COMMAND = "python -m benchmarks.build.faults"

SCRIPT = REPOSITORY / "conformer_gen" / "build.py"
VICTIMS = ("worker", "driver", "machine")
RATE_PICTURE = "rate.png"  # depends on timing, so it may differ
MARK = "UNIMOL_FAULTS_RUN"
POLL_S = 0.02


@dataclasses.dataclass(frozen=True)
class Kill:
    """A SIGKILL to come: after how many finished pieces of work, and at whom."""

    pieces: int
    victim: str


@dataclasses.dataclass
class Outcome:
    """How a build went: its seconds, driver starts, and the kills that found their victim."""

    seconds: float = 0.0
    starts: int = 0
    kills: list[Kill] = dataclasses.field(default_factory=list)


def plan_kills(number: int, rows: int, task_size: int, seed: int) -> list[Kill]:
    """Return kills in the order of their moments; every kind of victim occurs about equally often.

    Every row is curated and gets a conformer unless it is a duplicate. The last pieces are spared, since the build
    may end before a kill there.
    """
    generator = random.Random(seed)
    victims = [VICTIMS[at % len(VICTIMS)] for at in range(number)]
    generator.shuffle(victims)
    moments = sorted(generator.sample(range(2 * -(-rows // task_size) - 3), number))
    return [Kill(moment, victim) for moment, victim in zip(moments, victims, strict=True)]


def build(arguments: Sequence[str], output: Path, kills: Sequence[Kill] = ()) -> Outcome:
    """Run the build until it is finished, killing on the way.

    Raises:
        subprocess.CalledProcessError: it failed other than by a kill.
    """
    outcome, waiting = Outcome(), list(kills)
    command = [sys.executable, str(SCRIPT), *arguments, "--output", str(output)]
    while True:
        mark = f"{MARK}={uuid.uuid4().hex}"
        name, value = mark.split("=")
        outcome.starts += 1
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {name: value})
            died = _watch(process, mark.encode(), output / ".build", outcome, waiting)
            if process.returncode == 0:
                return outcome
            if not died:
                log.seek(0)
                raise subprocess.CalledProcessError(process.returncode, command, log.read().decode())


def _watch(process: "subprocess.Popen[bytes]", mark: bytes, work: Path, outcome: Outcome, waiting: list[Kill]) -> bool:
    """Record time and kill processes until the driver has ended; return whether it was killed."""
    before, began, died = outcome.seconds, time.monotonic(), False
    while process.poll() is None:
        outcome.seconds = before + time.monotonic() - began
        due = not died and waiting and _num_done(work) >= waiting[0].pieces
        if due and _kill(process.pid, mark, waiting[0].victim):
            died = waiting[0].victim != "worker"
            outcome.kills.append(waiting.pop(0))
        time.sleep(POLL_S)
    return died


def _num_done(work: Path) -> int:
    return sum(1 for kind in (CURATED, CONFORMERS) for _ in done_pieces(work, kind))


def _kill(driver: int, mark: bytes, victim: str) -> bool:
    """Kill at once; return whether there was a process to kill."""
    if victim == "driver":
        pids = [driver]
    elif victim == "machine":
        pids = list(_family(mark))
    else:
        pids = [pid for pid in _family(mark) if _title(pid).startswith(b"ray::_run_watched")][:1]
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return bool(pids)


def _family(mark: bytes) -> Iterator[int]:
    """Yield the processes that inherited the mark: the driver, Ray's servers and Ray's workers."""
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                environment = (path / "environ").read_bytes()
            except OSError:  # gone, or not ours
                continue
            if mark in environment.split(b"\0"):
                yield int(path.name)


def _title(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def file_hashes(store: Path) -> dict[str, str]:
    """Return name → SHA-256 of every file of a store except the picture of its rate."""
    files = sorted(path for path in store.rglob("*") if path.is_file() and path.name != RATE_PICTURE)
    return {path.relative_to(store).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("--source", default="sample", help="as for build.py")
    parser.add_argument("--input", nargs="+", default=[], help="as for build.py")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--task-size", type=int, default=500, help="rows per piece of work")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="seed for moments and victims of the kills")
    parser.add_argument("--directory", type=Path, help="directory for the stores (default: a temporary one)")
    parser.add_argument("--results", type=Path, default=RESULTS / "build_faults.md")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for build.py")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; return 0 if the stores are equal and all kills were done."""
    options = build_parser().parse_args(argv)
    common = [
        "--source",
        options.source,
        "--limit",
        str(options.rows),
        f"task_size={options.task_size}",
        *options.overrides,
    ]
    common += ["--input", *options.input] if options.input else []
    if options.directory is not None:
        options.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        root = Path(folder)
        runs = {"1 worker": build([*common, "--workers", "1"], root / "one")}
        runs["2 workers"] = build([*common, "--workers", "2"], root / "two")
        kills = plan_kills(options.kills, options.rows, options.task_size, options.seed)
        runs["2 workers, killed"] = build([*common, "--workers", "2"], root / "killed", kills)
        hashes = [file_hashes(root / name) for name in ("one", "two", "killed")]
    differing = [
        sorted(name for name in {*hashes[0], *other} if hashes[0].get(name) != other.get(name)) for other in hashes
    ]
    done = runs["2 workers, killed"].kills
    rows = [
        f"| {name} | {run.seconds:,.0f} | {run.starts} | {len(run.kills)} | {len(files)} | "
        f"{', '.join(different) or 'none'} | `{files['manifest.json'][:16]}` |"
        for (name, run), files, different in zip(runs.items(), hashes, differing, strict=True)
    ]
    text = "\n".join(
        [
            "# Faults of a build",
            "",
            f"{options.rows:,} rows of {' '.join([options.source, *(Path(name).name for name in options.input)])}; "
            f"{datetime.date.today():%Y-%m-%d}; {processor()}, {len(os.sched_getaffinity(0))} cores.",
            f"Options: `--rows {options.rows} --kills {options.kills} --seed {options.seed}`.",
            "",
            "| build | seconds | starts | kills | files | files unlike the first build's | manifest SHA-256 |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            "SIGKILLs, at numbers of finished pieces: "
            + ", ".join(f"{kill.victim} at {kill.pieces}" for kill in done)
            + ".",
            f"Every file is compared but {RATE_PICTURE}, which shows how long things took.",
            "",
        ]
    )
    print(text)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(text, encoding="utf-8")
    return 0 if not any(differing) and len(done) == options.kills else 1


if __name__ == "__main__":
    sys.exit(main())
