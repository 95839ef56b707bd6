"""The tables of the simulated builds, with extrapolations to the size of ZINC20."""

from collections.abc import Sequence

from benchmarks.build.billion.simulated_build import Measured
from benchmarks.build.billion.training_path import FirstSteps
from unimol_scale.common.report.markdown import markdown_table

ZINC20_ROWS = 1_006_651_037
MILLION, MIB, GB = 1_000_000, 2**20, 10**9
Lines = list[str]


def build_tables(builds: Sequence[Measured]) -> Lines:
    """Return the tables of all builds and of a billion rows, from the largest of them."""
    return [*_seconds(builds), *_memory(builds), *_disk(builds), *_extrapolated(builds)]


def _by_rows(builds: Sequence[Measured]) -> list[str]:
    return [f"{build.rows:,} rows" for build in builds]


def _seconds(builds: Sequence[Measured]) -> Lines:
    rows = []
    for passes in zip(*(build.passes for build in builds), strict=True):
        each = [(one, build.rows / MILLION) for one, build in zip(passes, builds, strict=True)]
        cells = [f"{one.driver_s / m:.2f} + {one.tasks_s / m:.2f} ({one.seconds / m:.1f})" for one, m in each]
        rows.append((passes[0].name, *cells))
    return [
        "## Seconds per million rows",
        "",
        "Processor time of the driver + of everything that it started (and time of the clock, in which other work on "
        "the machine counts). The driver's contains the generation of rows and the measurement.",
        "",
        *markdown_table(("pass", *_by_rows(builds)), rows),
        "",
    ]


def _memory(builds: Sequence[Measured]) -> Lines:
    rows = []
    for passes in zip(*(build.passes for build in builds), strict=True):
        cells = [f"{one.driver_bytes / MIB:,.0f}, {one.task_bytes / MIB:,.0f}" for one in passes]
        rows.append((passes[0].name, *cells))
    return [
        "## Largest memory, MiB",
        "",
        "Of the driver, of the largest process that ran a task; without pages of files.",
        "",
        *markdown_table(("pass", *_by_rows(builds)), rows),
        "",
    ]


def _disk(builds: Sequence[Measured]) -> Lines:
    rows = []
    for folders in zip(*(build.folders for build in builds), strict=True):
        cells = []
        for folder, build in zip(folders, builds, strict=True):
            cells.append(f"{folder.bytes / build.rows:,.1f}; {folder.files:,}; {folder.most:,}")
        rows.append((f"{folders[0].name}/", *cells))
    return [
        "## On disk",
        "",
        "Bytes per row of the source; files; most files of one directory.",
        "",
        *markdown_table(("folder", *_by_rows(builds)), rows),
        "",
    ]


def _extrapolated(builds: Sequence[Measured]) -> Lines:
    largest = builds[-1]
    times = ZINC20_ROWS / largest.rows
    rows = []
    for one in largest.passes:
        hours = [seconds * times / 3600 for seconds in (one.driver_s, one.tasks_s)]
        growth = "–"
        if len(builds) > 1:
            before, now = (next(p for p in b.passes if p.name == one.name) for b in (builds[0], largest))
            growth = f"{(now.driver_bytes - before.driver_bytes) / MIB:+,.0f}"
        rows.append((one.name, f"{hours[0]:.2f}", f"{hours[1]:.1f}", growth))
    size = sum(folder.bytes for folder in largest.folders) * times / GB
    files = sum(folder.files for folder in largest.folders) * times / MILLION
    return [
        f"## {ZINC20_ROWS:,} rows, in proportion to the largest build",
        "",
        *markdown_table(("pass", "driver, hours", "tasks, core-hours", "driver's growth, MiB"), rows),
        "",
        f"{size:,.0f} GB and {files:.1f} million files while it runs, the store among them.",
        "",
    ]


def training_table(starts: Sequence[FirstSteps], batch_size: int, ranks: int) -> Lines:
    """Return the table of a rank that begins in a store of 838 million molecules."""
    cells = {
        "shards": [f"{one.shards:,}" for one in starts],
        "manifest.json, MB": [f"{one.manifest_bytes / MILLION:.1f}" for one in starts],
        "from nothing to the loader, s": [f"{one.open_s:.1f}" for one in starts],
        "from there to the first step's batches, s": [f"{one.first_s:.1f}" for one in starts],
        "each later step, s": [", ".join(f"{s:.2f}" for s in one.later_s) for one in starts],
        "memory of the rank that is not a file's, MiB": [f"{one.anonymous_bytes / MIB:,.0f}" for one in starts],
        "largest resident set, mapped shards included, MiB": [f"{one.peak_bytes / MIB:,.0f}" for one in starts],
    }
    return [
        "## Training from 838 million molecules",
        "",
        f"One of {ranks} ranks, {batch_size:,} molecules a step, in its own process (data.workers=0).",
        "",
        *markdown_table(("", *map(_beginning, starts)), [(name, *values) for name, values in cells.items()]),
        "",
    ]


def _beginning(start: FirstSteps) -> str:
    window = "" if start.window is None else f", data.shuffle_window={start.window}"
    return f"from step {start.step:,}{window}"
