"""Rate and memory of the readers of frames, compared with the reading loop of each format's own library.

    python -m benchmarks.build.frame_readers --frames xyz=1000000 hdf5=1000000 ase-db=100000

Files are generated: molecules of random atoms, some frames of each one after another, every frame with its energy. A
frame counts as read when its elements, coordinates and energy are arrays and numbers in memory: for the builder's
reader in a row of the source, checked, in the units of the store and joined with its molecule's other frames; for the
library in what its loop yields. Each loop runs in a process of its own, half of it before the other and half after;
rates are of its processor time. Memory is what is not a file's, after a tenth of the frames and at its largest.

Then the builder's readers read ranges of the same file on Ray, with ``--readers`` processes. Their processor time
includes handing the rows over, but not finding the ranges; the clock begins with the first rows and means something on
an idle machine only. Writes benchmarks/results/frame_readers.md. Linux only (/proc).
"""

import argparse
import datetime
import functools
import json
import logging
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, again, as_started, deliver, module_parser, processor
from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.frame_files.frames import SYMBOLS
from conformer_gen.sources.frame_settings import FramesConfig
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.reader import read_source
from conformer_gen.sources.units import plan_units
from unimol_scale.common.report.markdown import markdown_table

COMMAND = "python -m benchmarks.build.frame_readers"
FRAMES_OF_A_MOLECULE = {"xyz": 10, "hdf5": 20, "ase-db": 10}  # SPICE 2 has 18
ELEMENTS = (1, 6, 7, 8)
SEED = 0
TASK_ROWS = 500
UNITS_OF_A_READER = 4
OBJECT_STORE_BYTES = 100 << 20
LOOKS = 1000  # frames between two looks at the memory
OURS, LIBRARY = "ours", "library"
SUFFIX = {"xyz": ".xyz", "hdf5": ".hdf5", "ase-db": ".db"}
LOOPS = {"xyz": "ase.io.iread", "hdf5": "a loop over h5py's groups", "ase-db": "ase.db's select, toatoms"}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One loop over a file: frames, processor time (s), and memory (bytes) early on and at its largest."""

    frames: int
    seconds: float
    early_bytes: int
    peak_bytes: int


@dataclass(frozen=True, kw_only=True)
class SeenOnRay:
    """What several readers did: frames, and seconds of their processor time; and frames and seconds by the clock."""

    frames: int
    seconds: float
    later_frames: int
    clock_s: float


def molecules(kind: str, frames: int) -> Iterator[tuple[Any, Any, Any]]:
    """Yield elements [n], positions [k, n, 3] in Å and energies [k] in eV, until there are so many frames."""
    random, k = np.random.default_rng(SEED), FRAMES_OF_A_MOLECULE[kind]
    for _ in range(frames // k):
        n = int(random.integers(10, 26))
        start = np.arange(n)[:, None] * np.array([1.1, 0.3, 0.0])
        positions = start + random.normal(0, 0.05, (k, n, 3))
        yield random.choice(ELEMENTS, n), positions, random.normal(-40, 0.1, k)


def write_xyz(path: Path, frames: int) -> None:
    """Write an extended XYZ file as ASE does."""
    with path.open("w") as file:
        for at, (numbers, positions, energies) in enumerate(molecules("xyz", frames)):
            symbols = [SYMBOLS[number - 1] for number in numbers]
            for points, energy in zip(positions.tolist(), energies, strict=True):
                comment = f'Properties=species:S:1:pos:R:3 name=m{at} energy={energy:.8f} pbc="F F F"'
                atoms = [f"{s:2} {x:15.8f} {y:15.8f} {z:15.8f}" for s, (x, y, z) in zip(symbols, points, strict=True)]
                file.write("\n".join([str(len(symbols)), comment, *atoms, ""]))


def write_hdf5(path: Path, frames: int) -> None:
    """Write a file in SPICE's layout."""
    import h5py

    with h5py.File(path, "w") as file:
        for at, (numbers, positions, energies) in enumerate(molecules("hdf5", frames)):
            group = file.create_group(f"m{at:08d}")
            group["atomic_numbers"] = numbers.astype(np.int16)
            group["conformations"] = positions.astype(np.float32) / 0.529177
            group["dft_total_energy"] = energies / 27.2114
            group["smiles"] = [f"C{at}"]


def write_ase_db(path: Path, frames: int) -> None:
    """Write a SQLite database with ASE."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.db import connect

    with connect(path) as database:
        for at, (numbers, positions, energies) in enumerate(molecules("ase-db", frames)):
            for points, energy in zip(positions, energies, strict=True):
                atoms = Atoms(numbers=numbers, positions=points)
                atoms.calc = SinglePointCalculator(atoms, energy=energy)
                database.write(atoms, name=f"m{at}")


def source_of(kind: str, path: Path) -> SourceConfig:
    """Return a file as a source."""
    return SourceConfig(name=kind, input=(str(path),), frames=FramesConfig(origin="dft"))


def read_ours(kind: str, path: Path) -> Iterator[int]:
    """Yield the frames of each row of the builder's reader."""
    for row in read_source(source_of(kind, path)):
        assert row.geometry is not None, row.problem
        yield len(row.geometry.positions)


def read_xyz_library(path: Path) -> Iterator[int]:
    """Yield 1 for every frame that ASE reads."""
    from ase.io import iread

    for atoms in iread(path, ":", format="extxyz"):
        atoms.get_potential_energy()
        yield len(atoms.positions) > 0


def read_hdf5_library(path: Path) -> Iterator[int]:
    """Yield the frames of every group, read whole."""
    import h5py

    with h5py.File(path, "r") as file:
        for group in file.values():
            arrays = [group[name][()] for name in ("atomic_numbers", "conformations", "dft_total_energy", "smiles")]
            yield len(arrays[1])


def read_ase_db_library(path: Path) -> Iterator[int]:
    """Yield 1 for every row that ASE reads."""
    from ase.db import connect

    for row in connect(path).select():
        row.toatoms().get_potential_energy()
        yield 1


def timed(read: Callable[[], Iterator[SourceMolecule]], notes: Path) -> Iterator[SourceMolecule]:
    """Yield rows, and write down the processor time that this process used meanwhile."""
    began = time.process_time()
    yield from read()
    (notes / uuid.uuid4().hex).write_text(str(time.process_time() - began))


def read_on_readers(kind: str, path: Path, frames: int, readers: int) -> SeenOnRay:
    """Read a file by several processes on a Ray of their own."""
    import ray

    from conformer_gen.run.ray_reading import read_on_ray

    config, size = source_of(kind, path), path.stat().st_size
    ray.init(
        address="local",
        num_cpus=readers,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    with tempfile.TemporaryDirectory() as folder:
        units = plan_units([config], None, SEED, size // (UNITS_OF_A_READER * readers))
        watched = (replace(unit, read=functools.partial(timed, unit.read, Path(folder))) for unit in units)
        counts, times = [], []
        for chunk in read_on_ray(watched, TASK_ROWS, readers):
            counts.append(chunk.size)
            times.append(time.monotonic())
        seconds = sum(float(note.read_text()) for note in Path(folder).iterdir())
    ray.shutdown()
    rows, each = sum(counts), FRAMES_OF_A_MOLECULE[kind]
    assert rows * each == frames, (rows, each, frames)
    return SeenOnRay(
        frames=frames, seconds=seconds, later_frames=each * sum(counts[1:]), clock_s=max(times[-1] - times[0], 1e-9)
    )


WRITERS: dict[str, Callable[[Path, int], None]] = {"xyz": write_xyz, "hdf5": write_hdf5, "ase-db": write_ase_db}
LIBRARIES: dict[str, Callable[[Path], Iterator[int]]] = {
    "xyz": read_xyz_library,
    "hdf5": read_hdf5_library,
    "ase-db": read_ase_db_library,
}


def watch(rows: Iterator[int], frames: int) -> Seen:
    """Go through rows that state how many frames they have."""
    first = next(rows)  # libraries are imported before the clock starts
    began, read, early, peak, looked = time.process_time(), first, 0, 0, 0
    for count in rows:
        read += count
        if read >= looked + LOOKS:
            looked = read
            peak = max(peak, _anonymous_bytes())
            early = peak if read <= max(frames // 10, 2 * LOOKS) else early
    return Seen(frames=read, seconds=time.process_time() - began, early_bytes=early, peak_bytes=peak)


def _anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def _alone(who: str | int, kind: str, path: Path, frames: int) -> dict[str, Any]:
    """Run one loop, or a number of readers, in a fresh process; return the fields of what was seen."""
    command, environment = again(COMMAND, ["--only", json.dumps([who, kind, str(path), frames])])
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


def table(results: dict[str, dict[str, list[Seen]]]) -> list[str]:
    """Return the Markdown table: kind of file → loop → what was seen of it each time."""
    rows = []
    for kind, seen in results.items():
        rates = {who: sum(one.frames for one in ones) / sum(one.seconds for one in ones) for who, ones in seen.items()}
        memory = [
            f"{seen[who][0].early_bytes / 2**20:,.0f} → {max(one.peak_bytes for one in seen[who]) / 2**20:,.0f}"
            for who in (OURS, LIBRARY)
        ]
        ratio = f"**{rates[OURS] / rates[LIBRARY]:.2f}**"
        speeds = f"{rates[OURS]:,.0f}", f"{rates[LIBRARY]:,.0f}"
        rows.append((f"`{kind}`", f"{seen[OURS][0].frames:,}", *speeds, ratio, *memory, LOOPS[kind]))
    header = (
        "source",
        "frames",
        "frames/s",
        "library's",
        "ratio",
        "MiB: a tenth → most",
        "library's",
        "library's loop",
    )
    return markdown_table(header, rows)


def table_on_ray(results: dict[str, dict[str, list[Seen]]], on_ray: dict[str, dict[int, SeenOnRay]]) -> list[str]:
    """Return the Markdown table of several readers: kind of file → number of readers → what was seen."""
    rows = []
    for kind, seen in on_ray.items():
        loops = results[kind][LIBRARY]
        library = sum(one.frames for one in loops) / sum(one.seconds for one in loops)
        for readers, one in seen.items():
            rate, clock = one.frames / one.seconds, one.later_frames / one.clock_s
            ratio = f"**{rate / library:.2f}**"
            counts = f"{readers}", f"{one.frames:,}", f"{rate:,.0f}"
            rows.append((f"`{kind}`", *counts, ratio, f"{clock:,.0f}", f"{clock / library / readers:.2f}"))
    header = (
        "source",
        "readers",
        "frames",
        "frames a second of a reader's processor",
        "to the library's",
        "frames/s by the clock",
        "to the library's × readers",
    )
    return markdown_table(header, rows)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument(
        "--frames", nargs="+", metavar="SOURCE=NUMBER", default=["xyz=1000000", "hdf5=1000000", "ase-db=100000"]
    )
    parser.add_argument("--readers", nargs="*", type=int, default=[1, 2], help="processes that read on Ray")
    parser.add_argument("--directory", type=Path, help="directory for the files (default: a temporary one)")
    parser.add_argument("--output", type=Path, default=RESULTS / "frame_readers.md")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # one loop, in a process of its own
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all kinds of files and write the table."""
    options = build_parser().parse_args(arguments)
    if options.only is not None:
        who, kind, place, frames = json.loads(options.only)
        if isinstance(who, int):
            print(json.dumps(asdict(read_on_readers(kind, Path(place), frames, who))))
            return
        rows = read_ours(kind, Path(place)) if who == OURS else LIBRARIES[kind](Path(place))
        print(json.dumps(asdict(watch(rows, frames))))
        return
    results, on_ray = {}, {}
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        for text in options.frames:
            kind, _, number = text.partition("=")
            path = Path(folder) / f"frames{SUFFIX[kind]}"
            WRITERS[kind](path, int(number))
            seen: dict[str, list[Seen]] = {OURS: [], LIBRARY: []}
            for who in (OURS, LIBRARY, LIBRARY, OURS):
                seen[who].append(Seen(**_alone(who, kind, path, int(number))))
            results[kind] = seen
            on_ray[kind] = {
                readers: SeenOnRay(**_alone(readers, kind, path, int(number))) for readers in options.readers
            }
            path.unlink()
    head = [
        "# Readers of frames",
        "",
        f"- {datetime.datetime.now(tz=datetime.timezone.utc):%Y-%m-%d}, one core of {processor()}",
        f"- `{as_started(COMMAND)}`",
        f"- molecules of 10 to 25 atoms; frames of each one after another: {FRAMES_OF_A_MOLECULE}; processor time",
        "",
    ]
    tables = [*table(results), "", *(table_on_ray(results, on_ray) if options.readers else [])]
    deliver("\n".join([*head, *tables, ""]), options.output)


if __name__ == "__main__":
    main()
