"""What a build would take: rows counted or estimated, time and bytes measured on a few rows. Imports no Ray."""

import dataclasses
import random
import time

from conformer_gen.chemistry.conformers import ConformerFailure, CuratedMolecule, generate_conformers
from conformer_gen.chemistry.curate import Curated, curate_molecule
from conformer_gen.chemistry.identity import stable_hash
from conformer_gen.config import BuildConfig
from conformer_gen.run.row_counts import count_rows
from conformer_gen.selection.exclusions import read_exclusions
from conformer_gen.sources.inputs.locations import locate
from conformer_gen.sources.inputs.remote import is_url
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.reader import label_units
from unimol_scale.common.fetching.transport import NetworkError
from unimol_scale.common.units import byte_size, counted, duration
from unimol_scale.store.schema import Layout, MoleculeRecord, encode

SAMPLE_ROWS = 40
SAMPLE_S = 15.0  # after which no further molecule of the sample is begun
FILES_NAMED = 3
UNKNOWN = (
    "how many rows they have, and so the core-hours and bytes, is not known before they are here: fetch one and try "
    "again with it as --input."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """A sample of rows, carried through curation and the making of conformers on one core.

    Attributes:
        rows: tried.
        stored: of them, how many gave a record.
        seconds: of one core, for all of them.
        bytes: of the records, as in an Arrow shard.
        atoms: of the records.
    """

    rows: int
    stored: int
    seconds: float
    bytes: int
    atoms: int


def estimate(config: BuildConfig) -> str:
    """Return what a build would take, in words; writes nothing, and fetches but the beginnings of a few files.

    Raises:
        SourceError: an input is missing or unreadable.
    """
    places = locate(config.source)
    remote = sum(map(is_url, places))
    names = ", ".join(place.rsplit("/", 1)[-1] for place in places[:FILES_NAMED])
    names += ", …" if len(places) > FILES_NAMED else ""
    inputs = f"{counted(len(places), 'input')} ({names})"
    fetched = f"would fetch {remote:,} of {inputs} to {config.directory}"
    read_exclusions(config.curate)
    if remote and (not config.source.kind.in_archives or len(places) > remote):
        return f"{fetched}; {UNKNOWN}"
    try:
        count = count_rows(config.source)
    except NetworkError as error:
        return f"{fetched}; {UNKNOWN} {error}"
    rows, first = count.rows, count.first
    how = f" ({count.how})" if count.how else ""
    lines = [fetched] if remote else []
    if config.source.sample is not None:
        how += ", drawn at random from all, which are read to their end"
    lines.append(f"would read {count.describe()} from {inputs}{how}")
    if not rows:
        return lines[-1]
    measured = measure(random.Random(config.seed).sample(first, min(len(first), SAMPLE_ROWS)), config)
    seconds = rows * measured.seconds / measured.rows
    workers = counted(config.num_workers, "worker")
    lines.append(
        f"would take about {seconds / 3600:,.2f} core-hours, {duration(seconds / config.num_workers)} with {workers}"
    )
    if config.conformers.engine == "nvmolkit":
        lines[-1] += f" with RDKit; --engine {config.conformers.engine} was not measured"
    if measured.stored:
        kept = rows * measured.stored / measured.rows
        written = byte_size(kept * measured.bytes / measured.stored)
        lines.append(f"would write about {written} to {config.directory}, and twice that while building")
    else:
        lines.append("would write nothing, if all rows are like the sample")
    each = f", {measured.bytes / measured.stored:,.0f} bytes a molecule" if measured.stored else ""
    atoms = f", {measured.atoms / measured.stored:.1f} atoms each" if measured.stored else ""
    lines.append(
        f"measured on {measured.rows} of the first {len(first):,} rows: {measured.stored} stored{atoms}, "
        f"{1000 * measured.seconds / measured.rows:,.1f} ms a row{each}; duplicates were not looked for"
    )
    return "\n".join(lines)


def measure(sample: list[SourceMolecule], config: BuildConfig) -> Measured:
    """Curate rows and make their conformers until ``SAMPLE_S`` is over."""
    records: list[MoleculeRecord] = []
    # Time of the processor, which other programs do not lengthen.
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
    scale = None if config.source.kind.has_geometry else config.conformers.coordinate_scale
    return Measured(
        rows=tried,
        stored=len(records),
        seconds=time.process_time() - began_cpu,
        bytes=encode(records, Layout(scale, tuple(label_units(config.source)))).nbytes if records else 0,
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
