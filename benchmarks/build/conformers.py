"""Measure the builder beside plain RDKit loops, its memory as molecules grow, and the bytes of what it writes.

    python -m benchmarks.build.conformers CDAA.smi --rows 20000 --workers 2 --output benchmarks/results/conformers.md

Three builds, each in a process of its own: the first --rows rows of INPUT; ten times as many rows with random numbers
for coordinates; and --ten-rows rows with ten conformers. Rows beyond those of INPUT are made by setting the isotope of
a molecule's first atom, which makes it another molecule for everything but the force field.

A rate of the builder is that of the middle of a stage (10 % to 90 % of its molecules), from the samples that a build
writes while it runs. The plain loops (plain_rdkit.py) run over a seeded sample of the same rows, half of it before the
build and half after it, so that drift of the machine cancels: alone, and in as many processes at once as there are
workers, since busy cores are slower than one.
"""

import argparse
import datetime
import os
import platform
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import ray
from rdkit import RDLogger, rdBase
from rich.console import Console

from benchmarks.build.plain_rdkit import (
    Loop,
    conformers_by_the_builders_chemistry,
    conformers_plainly,
    conformers_with_equal_attempts,
    conformers_with_few_attempts,
    curate_plainly,
    curation_by_the_builders_chemistry,
    measure,
    pickled_record,
)
from benchmarks.build.probe import Watched, labelled, watch_build
from benchmarks.common import module_parser, processor
from conformer_gen.chemistry.config import ConformerConfig, CurateConfig
from conformer_gen.chemistry.curate import Curated, curate_molecule
from conformer_gen.config import BuildConfig
from conformer_gen.report.stage_rates import GENERATING
from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.reader import read_source
from unimol_scale.store.maintain import convert
from unimol_scale.store.shards import Store, open_store

COMMAND = "python -m benchmarks.build.conformers"
CONFORMER_LOOPS = (
    conformers_plainly,
    conformers_with_few_attempts,
    conformers_with_equal_attempts,
    conformers_by_the_builders_chemistry,
)
CURATION_LOOPS = (curate_plainly, curation_by_the_builders_chemistry)

GROWTH = 10
MANY = 10  # conformers
TASK_SIZE, LEAST_TASKS = 500, 40
SEED = 0
MEAN_ATOMS = 25  # to which sizes are scaled
CONSOLE = Console(stderr=True)
Row = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plain:
    """Molecules/s of a plain loop, at two times: in one process, and in all workers at once (added up)."""

    alone: list[float]
    together: list[float]


class PlainTurns:
    """Takes turns with the builds: each call measures the next half of the sample."""

    def __init__(self, loop: Loop, sample: Sequence[str], workers: int) -> None:
        middle = len(sample) // 2
        self.loop, self._workers = loop, workers
        self._halves = [sample[:middle], sample[middle:]]
        self.result = Plain(alone=[], together=[])

    def take(self) -> None:
        """Measure the next half."""
        half = self._halves[len(self.result.alone)]
        note(f"{self.loop.__name__}, {len(half):,} molecules: in one process, then in {self._workers}")
        self.result.alone.append(measure(self.loop, half, 1))
        self.result.together.append(measure(self.loop, half, self._workers))


def take_all(turns: Sequence[PlainTurns]) -> None:
    """Measure the next half of every loop."""
    for one in turns:
        one.take()


def grown(rows: Sequence[SourceMolecule], count: int) -> list[SourceMolecule]:
    """Return ``count`` rows: these, then copies of them with an isotope of their own for every round."""
    result = list(rows[:count])
    isotope = 200  # beyond any that a source may have
    while len(result) < count:
        isotope += 1
        for row in rows[: count - len(result)]:
            result.append(SourceMolecule(id=f"{row.id}-{isotope}", smiles=labelled(row.smiles, isotope)))
    return result


def configure(
    folder: Path, name: str, rows: Sequence[SourceMolecule], workers: int, conformers: int = 1
) -> BuildConfig:
    """Write rows as a file of SMILES and return the build of them."""
    path = folder / f"{name}.smi"
    path.write_text("".join(f"{row.smiles}\t{row.id}\n" for row in rows))
    return BuildConfig(
        source=SourceConfig(name="smiles", input=(str(path),)),
        conformers=ConformerConfig(count=conformers),
        output=folder / name,
        workers=workers,
        task_size=max(1, min(TASK_SIZE, len(rows) // LEAST_TASKS)),
    )


def speed_table(stage: str, loop: Loop, plain: Plain, rate: float | None, workers: int) -> list[str]:
    """Return the table of one stage; ``rate`` is the builder's."""
    alone, together = statistics.mean(plain.alone), statistics.mean(plain.together)

    def spread(values: list[float]) -> str:
        return " and ".join(f"{value:,.1f}" for value in values)

    def ratio(to: float) -> str:
        return f"**{rate / to:.3f}**" if rate else "–"

    rows = [
        (f"plain loop, one process ({spread(plain.alone)})", f"{alone:,.1f}", ""),
        (f"plain loop, {workers} processes at once ({spread(plain.together)})", f"{together:,.1f}", ""),
        (f"the builder, {workers} workers", f"**{rate:,.1f}**" if rate else "the stage was too short to see", ""),
        (f"the builder / (one process × {workers})", "", ratio(alone * workers)),
        (f"the builder / {workers} processes at once", "", ratio(together)),
    ]
    return [f"## {stage}, beside `{loop.__name__}`", "", *table(("", "molecules/s", "ratio"), rows)]


def speed_tables(stage: str, turns: Sequence[PlainTurns], rate: float | None, workers: int) -> list[str]:
    """Return the tables of one stage, one for each loop."""
    return [line for one in turns for line in speed_table(stage, one.loop, one.result, rate, workers)]


def memory_table(builds: dict[int, Watched]) -> list[str]:
    """Return the table of the driver's memory; ``builds`` by their number of rows."""
    rows = [
        (
            f"{count:,}",
            f"{seen.peak_bytes / 2**20:,.0f}",
            f"{seen.anonymous_bytes / 2**20:,.0f}",
            f"{seen.seconds:,.0f}",
        )
        for count, seen in builds.items()
    ]
    few, many = builds.values()
    growth = many.anonymous_bytes / few.anonymous_bytes
    return [
        "## Memory of the driver's process",
        "",
        *table(("rows", "peak RSS (MiB)", "of it anonymous (MiB)", "whole build (s)"), rows),
        f"{GROWTH} times the rows take {growth:.2f} times the anonymous memory. The second build has random numbers "
        "for coordinates; the driver sees none of them in either.",
        "",
    ]


def size_rows(store: Store, folder: Path, conformers: int) -> list[Row]:
    """Return rows of the table of bytes: Arrow, LMDB and pickled records of the molecules of a store."""
    lmdb = convert(store, "lmdb", folder / f"lmdb-{conformers}")
    smiles = [text for name in store.manifest.splits for text in store.split(name).column("smiles").to_pylist()]
    shards = [shard for split in store.manifest.splits.values() for shard in split.shards]
    molecules = len(smiles)
    atoms = sum(shard.atoms for shard in shards) / molecules
    sizes = {
        "Arrow": sum(shard.bytes for shard in shards),
        "LMDB": sum(shard.bytes for split in lmdb.manifest.splits.values() for shard in split.shards),
        "pickled Uni-Mol record": sum(len(pickled_record(text, conformers)) for text in smiles),
    }
    stored = sum(shard.conformers for shard in shards) / molecules
    shared = (f"{stored:.2f}", f"{molecules:,}", f"{atoms:.1f}")
    scale = MEAN_ATOMS / atoms
    return [
        (name, *shared, f"{size / molecules:,.0f}", f"**{size / molecules * scale:,.0f}**")
        for name, size in sizes.items()
    ]


def size_table(rows: list[Row]) -> list[str]:
    """Return the table of bytes."""
    header = (
        "format",
        "conformers each",
        "molecules",
        "heavy atoms each",
        "bytes each",
        f"at {MEAN_ATOMS} heavy atoms",
    )
    return [
        "## Bytes of a molecule",
        "",
        *table(header, rows),
        "The last column is in proportion to the heavy atoms. Arrow and LMDB hold heavy atoms, graph features, SMILES "
        "and the flat depiction; the pickled record (protocol 5) holds all atoms, the conformers, a flat one, and the "
        "SMILES.",
        "",
    ]


def table(header: Row, rows: Sequence[Row]) -> list[str]:
    """Return a Markdown table."""
    return [*(f"| {' | '.join(row)} |" for row in (header, ("---",) * len(header), *rows)), ""]


def describe_machine() -> str:
    """Return processor, cores and versions."""
    versions = f"Python {platform.python_version()}, RDKit {rdBase.rdkitVersion}, Ray {ray.__version__}"
    cores = len(os.sched_getaffinity(0))
    return f"{processor()}, {cores} cores, {versions}, Arrow {pyarrow.__version__}"


def note(text: str) -> None:
    """Print on standard error what is running."""
    CONSOLE.print(f"{datetime.datetime.now():%H:%M:%S} {text}", highlight=False)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("input", type=Path, metavar="INPUT", help="file of SMILES")
    parser.add_argument("--source", default="zinc20", choices=["zinc20", "smiles", "csv", "parquet"], help="its kind")
    parser.add_argument("--rows", type=int, default=20_000, help="rows of INPUT to build")
    parser.add_argument("--ten-rows", type=int, default=400, help="rows of INPUT to build with ten conformers")
    parser.add_argument("--sample", type=int, default=1000, help="molecules for the plain loop")
    parser.add_argument("--curate-sample", type=int, default=20_000, help="rows for the plain curation loop")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, metavar="FILE.md", help="file for the tables")
    return parser


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = build_parser()
    options = parser.parse_args()
    if min(options.rows, options.ten_rows, options.sample, options.curate_sample) < 100 or options.workers < 1:
        parser.error("--rows, --ten-rows and the samples must be at least 100, --workers at least 1")
    return options


def run(options: argparse.Namespace, folder: Path) -> list[str]:
    """Measure everything; return the lines of the tables."""
    rows = list(read_source(SourceConfig(name=options.source, input=(str(options.input),), limit=options.rows)))
    many = grown(rows, GROWTH * len(rows))
    draw = random.Random(SEED)
    curated = [curate_molecule(row, CurateConfig()) for row in draw.sample(rows, min(options.sample, len(rows)))]
    drawn = [row.smiles for row in draw.sample(many, min(options.curate_sample, len(many)))]
    smiles = [one.smiles for one in curated if isinstance(one, Curated)]
    conformers = [PlainTurns(loop, smiles, options.workers) for loop in CONFORMER_LOOPS]
    curation = [PlainTurns(loop, drawn, options.workers) for loop in CURATION_LOOPS]

    take_all(conformers)
    note(f"build of {len(rows):,} rows")
    config = configure(folder, "few", rows, options.workers)
    few_seen = watch_build(config)
    take_all(conformers)
    take_all(curation)
    note(f"build of {len(many):,} rows, random coordinates")
    many_seen = watch_build(configure(folder, "many", many, options.workers), cheap=True)
    take_all(curation)
    note(f"build of {min(options.ten_rows, len(rows)):,} rows, {MANY} conformers")
    ten = configure(folder, "ten", rows[: options.ten_rows], options.workers, conformers=MANY)
    watch_build(ten)

    ratios = [
        *speed_tables("Conformers", conformers, few_seen.rate(GENERATING), options.workers),
        *speed_tables("Curation", curation, many_seen.rate("curating"), options.workers),
    ]
    sizes = [*size_rows(open_store(config.directory), folder, 1), *size_rows(open_store(ten.directory), folder, MANY)]
    return [*ratios, *memory_table({len(rows): few_seen, len(many): many_seen}), *size_table(sizes)]


def main() -> None:
    """Measure, print, and write the tables if asked."""
    options = parse()
    RDLogger.DisableLog("rdApp.*")
    command = f"{COMMAND} {options.input.name} --source {options.source} --rows {options.rows}"
    head = [
        "# Builder and plain RDKit",
        "",
        f"- {datetime.date.today()}, {describe_machine()}",
        f"- `{command} --workers {options.workers} --sample {options.sample} --curate-sample {options.curate_sample} "
        f"--ten-rows {options.ten_rows}`",
        "- one ETKDGv3 conformer and MMFF94, except where ten are named; curation over ten times the rows",
        "",
    ]
    with tempfile.TemporaryDirectory() as folder:
        text = "\n".join([*head, *run(options, Path(folder))])
    sys.stdout.write(text)
    if options.output:
        options.output.write_text(text)


if __name__ == "__main__":
    main()
