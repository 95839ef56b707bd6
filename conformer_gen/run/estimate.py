"""Estimates what a build would take: rows counted or estimated, time and bytes measured on a few rows. No Ray."""

import dataclasses
import random
import time

from conformer_gen.chemistry.conformers import ConformerFailure, CuratedMolecule, generate_conformers
from conformer_gen.chemistry.curate import Curated, curate_molecule
from conformer_gen.chemistry.identity import stable_hash
from conformer_gen.config import BuildConfig
from conformer_gen.selection.exclusions import read_exclusions
from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.inputs.locations import locate
from conformer_gen.sources.inputs.remote import is_url
from conformer_gen.sources.joint import source_tags
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.reader import label_units
from conformer_gen.sources.row_counts import count_rows
from unimol_scale.common.fetching.transport import NetworkError
from unimol_scale.common.units import byte_size, counted, duration
from unimol_scale.store.schema import Layout, MoleculeRecord, encode

SAMPLE_ROWS = 40
SAMPLE_S = 15.0  # after this time no further molecule of the sample is started
FILES_NAMED = 3
UNKNOWN = (
    "the number of rows, and so core-hours and bytes, is unknown until they are downloaded: download one and try "
    "again with it as --input."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """A sample of rows, taken through curation and conformer generation on one core.

    Attributes:
        rows: rows tried.
        stored: rows that gave a record.
        seconds: core seconds for all of them.
        bytes: size of the records as in an Arrow shard.
        atoms: atoms of the records.
    """

    rows: int
    stored: int
    seconds: float
    bytes: int
    atoms: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Estimate:
    """The estimate for one source: as text, and as numbers if its row count is known."""

    lines: list[str]
    known: bool = True
    core_seconds: float = 0.0
    bytes: float = 0.0


def estimate(config: BuildConfig) -> str:
    """Return, as text, what a build would take. Writes nothing and downloads only the beginnings of a few files.

    Raises:
        SourceError: an input is missing or unreadable.
    """
    found = [_estimate(source, config) for source in config.each_source]
    if len(found) == 1:
        return "\n".join(found[0].lines)
    tags = source_tags(config.sources)
    lines = [f"{tag}: {line}" for tag, one in zip(tags, found, strict=True) for line in one.lines]
    seconds = sum(one.core_seconds for one in found)
    unknown = [tag for tag, one in zip(tags, found, strict=True) if not one.known]
    without = f", without {', '.join(unknown)}" if unknown else ""
    total = f"{_time(seconds, config)}, and {_space(sum(one.bytes for one in found), config)}"
    return "\n".join([*lines, f"in total{without}: {total}; a molecule that several sources have is counted in each"])


def _time(seconds: float, config: BuildConfig) -> str:
    workers = counted(config.num_workers, "worker")
    return f"about {seconds / 3600:,.2f} core-hours, {duration(seconds / config.num_workers)} with {workers}"


def _space(size: float, config: BuildConfig) -> str:
    return f"about {byte_size(size)} to {config.directory}, and twice that while building"


def _estimate(source: SourceConfig, config: BuildConfig) -> _Estimate:
    places = locate(source)
    remote = sum(map(is_url, places))
    names = ", ".join(place.rsplit("/", 1)[-1] for place in places[:FILES_NAMED])
    names += ", …" if len(places) > FILES_NAMED else ""
    inputs = f"{counted(len(places), 'input')} ({names})"
    fetched = f"would download {remote:,} of {inputs} to {config.directory}"
    read_exclusions(config.curate)
    if remote and (not source.kind.in_archives or len(places) > remote):
        return _Estimate(lines=[f"{fetched}; {UNKNOWN}"], known=False)
    try:
        count = count_rows(source)
    except NetworkError as error:
        return _Estimate(lines=[f"{fetched}; {UNKNOWN} {error}"], known=False)
    rows, first = count.rows, count.first
    how = f" ({count.how})" if count.how else ""
    lines = [fetched] if remote else []
    if source.sample is not None:
        how += ", drawn at random from all rows, which are read to the end"
    lines.append(f"would read {count.describe()} from {inputs}{how}")
    if not rows:
        return _Estimate(lines=lines)
    measured = measure(random.Random(config.seed).sample(first, min(len(first), SAMPLE_ROWS)), source, config)
    seconds, size = rows * measured.seconds / measured.rows, rows * measured.bytes / measured.rows
    lines.append(f"would take {_time(seconds, config)}")
    if config.conformers.engine == "nvmolkit":
        lines[-1] += f" with RDKit; --engine {config.conformers.engine} was not measured"
    if measured.stored:
        lines.append(f"would write {_space(size, config)}")
    else:
        lines.append("would write nothing if all rows are like the sample")
    each = f", {measured.bytes / measured.stored:,.0f} bytes per molecule" if measured.stored else ""
    atoms = f", {measured.atoms / measured.stored:.1f} atoms each" if measured.stored else ""
    lines.append(
        f"measured on {measured.rows} of the first {len(first):,} rows: {measured.stored} stored{atoms}, "
        f"{1000 * measured.seconds / measured.rows:,.1f} ms per row{each}; duplicates were not detected"
    )
    return _Estimate(lines=lines, core_seconds=seconds, bytes=size)


def measure(sample: list[SourceMolecule], source: SourceConfig, config: BuildConfig) -> Measured:
    """Curate rows and make their conformers until ``SAMPLE_S`` has passed."""
    records: list[MoleculeRecord] = []
    # CPU time, so that other programs do not distort it.
    began, began_cpu, tried = time.perf_counter(), time.process_time(), 0
    for row in sample:
        tried += 1
        curated = curate_molecule(row, config.curate)
        if isinstance(curated, Curated):
            result = generate_conformers(_molecule(row, curated), config.conformers, config.seed)
            if not isinstance(result, ConformerFailure):
                records.append(result)
        if time.perf_counter() - began > SAMPLE_S:
            break
    from_files = any(one.keeps_geometry for one in config.each_source)
    scale = None if from_files else config.conformers.coordinate_scale
    return Measured(
        rows=tried,
        stored=len(records),
        seconds=time.process_time() - began_cpu,
        bytes=encode(records, Layout(scale, tuple(label_units(source)))).nbytes if records else 0,
        atoms=sum(len(record.atomic_number) for record in records),
    )


def _molecule(row: SourceMolecule, curated: Curated) -> CuratedMolecule:
    return CuratedMolecule(
        id=row.id,
        smiles=curated.smiles,
        key=stable_hash(curated.smiles),
        scaffold=stable_hash(curated.scaffold_smiles),
        conformers=curated.conformers,
        origins=curated.origins,
        labels=row.labels,
    )
