"""The report of a build: report.md beside its pictures.

Everything except the picture of the rate depends only on the store and its failures.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from conformer_gen.report.pictures import ORIGIN_LABELS, STAGE_LABELS, STEREO_LABELS, draw_all
from conformer_gen.report.progress_samples import SAMPLES_NAME
from conformer_gen.report.stage_rates import read_rates
from conformer_gen.report.store_counts import StoreCounts, count_store
from conformer_gen.selection.replacements import RunJobs
from conformer_gen.selection.selected_rows import Selection, read_selection
from unimol_scale.common.files import commit_text
from unimol_scale.common.report.markdown import markdown_table
from unimol_scale.store.manifest import Manifest, SourceCounts
from unimol_scale.store.shards import Store

REPORT_NAME = "report.md"
MOST_CAUSES = 20
LONGEST_CELL, CONFLICT_CELL = 90, 200  # characters
Lines = list[str]


def write_report(store: Store, failures: Path, work: Path, run: RunJobs) -> None:
    """Write report.md and its pictures into the store.

    Args:
        store: complete except for its manifest file.
        failures: failures.parquet.
        work: work directory of the build, with its selection and the samples of its rate.
        run: runs the counting jobs.
    """
    selection = read_selection(work)
    assert selection is not None, "a store is assembled from a selection"
    counts = count_store(store, failures, run)
    pictures = draw_all(counts, selection, read_rates(work / SAMPLES_NAME), store.path)
    commit_text(store.path / REPORT_NAME, "\n".join(_report(store.manifest, selection, counts, pictures)))


def _report(manifest: Manifest, selection: Selection, counts: StoreCounts, pictures: dict[str, str]) -> Lines:
    def picture(name: str) -> Lines:
        return [f"![{pictures[name]}]({name}.png)", ""] if name in pictures else []

    return [
        *_summary(manifest),
        *_sources(manifest),
        "## Splits",
        "",
        *_splits(manifest, counts),
        *picture("atoms"),
        "## Elements",
        "",
        *picture("elements"),
        "## Scaffolds",
        "",
        *picture("scaffolds"),
        *_scaffolds(selection),
        *_duplicates(selection),
        "## Conformers",
        "",
        *picture("origins"),
        *_conformers(counts),
        *picture("conformers"),
        "## Failures",
        "",
        *picture("failures"),
        *_failures(counts),
        *(["## Rate", "", *picture("rate")] if "rate" in pictures else []),
    ]


def _summary(manifest: Manifest) -> Lines:
    counts = manifest.counts
    return [
        f"# Conformer store from {manifest.source}",
        "",
        f"{counts.read:,} rows read = {counts.stored:,} stored + {counts.left_out}. "
        f"RDKit {manifest.versions['rdkit']}, seed {manifest.seed}, format {manifest.backend}.",
        "",
    ]


def _sources(manifest: Manifest) -> Lines:
    """Return what happened to the rows of each source; nothing for a single source."""
    if not manifest.counts_by_source:
        return []
    columns = [field.name for field in dataclasses.fields(SourceCounts)]
    rows = [
        (tag, *(f"{getattr(counts, name):,}" for name in columns)) for tag, counts in manifest.counts_by_source.items()
    ]
    return [
        "## Sources",
        "",
        *_table(("source", *(name.replace("_", " ") for name in columns)), rows),
        "If several rows have the same molecule, the first one is stored, in the order of the sources; the others "
        "are duplicates. Ids, here and in failures.parquet, begin with the source.",
        "",
    ]


def _splits(manifest: Manifest, counts: StoreCounts) -> Lines:
    rows = []
    for name, split in manifest.splits.items():
        atoms, size = (sum(getattr(shard, key) for shard in split.shards) for key in ("atoms", "bytes"))
        share, each = split.rows / manifest.counts.stored, max(split.rows, 1)
        averages = (f"{atoms / each:.1f}", f"{len(split.shards):,}", f"{size / each:,.0f}")
        rows.append((name, f"{split.rows:,}", f"{share:.1%}", *averages))
    header = ("split", "molecules", "share", "atoms each", "shards", "bytes each")
    if not counts.valid_scaffolds:
        return _table(header, rows)
    both = f"{counts.shared_scaffolds:,}" if counts.shared_scaffolds else "none"
    return [
        *_table(header, rows),
        f"valid has {counts.valid_scaffolds:,} Murcko scaffolds, {both} of which are also in train.",
        "",
    ]


def _scaffolds(selection: Selection) -> Lines:
    rows = [(_code(smiles) if smiles else "no ring", f"{size:,}") for smiles, size in selection.top_scaffolds.items()]
    return _table((f"the {len(rows)} most frequent", "molecules"), rows)


def _duplicates(selection: Selection) -> Lines:
    """Return where rows of the same molecule contradict each other; nothing if none do."""
    if not selection.num_conflicting:
        return []
    return [
        "## Conflicting labels",
        "",
        f"{selection.num_conflicting:,} of {selection.num_duplicates:,} duplicates have a label that differs from the "
        "stored one or is missing there. The first row of a molecule is stored and the others are left out. For "
        "example:",
        "",
        *(f"- {_cell(conflict, CONFLICT_CELL)}" for conflict in selection.conflicts),
        "",
    ]


def _conformers(counts: StoreCounts) -> Lines:
    molecules = counts.conformers
    average = sum(k * n for k, n in molecules.items()) / sum(molecules.values())
    origins = [(ORIGIN_LABELS[origin], f"{n:,}") for origin, n in counts.origins.items()]
    stereo = [(STEREO_LABELS[kind], f"{n:,}") for kind, n in counts.stereo.items()]
    return [
        f"{min(molecules)} to {max(molecules)} conformers per molecule, {average:.2f} on average."
        if max(molecules) > 1
        else "One conformer per molecule.",
        "",
        *_table(("made by", "conformers"), origins),
        *_table(("stereo", "conformers"), stereo),
    ]


def _failures(counts: StoreCounts) -> Lines:
    rows = []
    for cause in counts.causes[:MOST_CAUSES]:
        first = _code(cause.id), _code(cause.smiles), _cell(cause.detail)
        rows.append((STAGE_LABELS[cause.stage], cause.reason, f"{cause.rows:,}", *first))
    left = len(counts.causes) - len(rows)
    rarer = f" {left} rarer causes are listed only there." if left else ""
    renamed = [cause.stage for cause in counts.causes if cause.stage != STAGE_LABELS[cause.stage]]
    named = f" There, the stage that makes conformers is called {renamed[0]}." if renamed else ""
    return [
        f"Every failed row is in failures.parquet, with its reason.{rarer}{named}",
        "",
        *_table(("stage", "reason", "rows", "the first", "SMILES", "detail"), rows),
    ]


def _cell(text: str, longest: int = LONGEST_CELL) -> str:
    """Return text cut to one line of a table cell, whatever a source's row contains."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def _code(text: str) -> str:
    return f"`{_cell(text.replace('`', ''))}`" if text.strip("` ") else "–"


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Lines:
    cells = tuple(rows)
    return [*markdown_table(header, cells), ""] if cells else ["None.", ""]
