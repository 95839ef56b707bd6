"""The tables of the simulated builds, with extrapolations to the size of ZINC20."""

from collections.abc import Sequence

from benchmarks.build.billion.simulated_build import Measured, Pass
from benchmarks.build.billion.training_path import FirstSteps
from unimol_scale.common.report.markdown import markdown_table

ZINC20_ROWS = 1_006_651_037
MILLION, MIB, GB = 1_000_000, 2**20, 10**9
Lines = list[str]


def build_tables(builds: Sequence[Measured]) -> Lines:
    """Return the tables of all builds and of a billion rows: each pass from the largest build that had it.

    Args:
        builds: from the smallest to the largest.
    """
    return [*_seconds(builds), *_memory(builds), *_disk(builds), *_extrapolated(builds)]


def _names(builds: Sequence[Measured]) -> list[str]:
    """Return the names of all passes in their order: a build that ended early had the first of them."""
    return [one.name for one in max((build.passes for build in builds), key=len)]


def _pass(build: Measured, name: str) -> Pass | None:
    return next((one for one in build.passes if one.name == name), None)


def _by_rows(builds: Sequence[Measured]) -> list[str]:
    return [f"{build.rows:,} rows" for build in builds]


def _seconds(builds: Sequence[Measured]) -> Lines:
    rows = []
    for name in _names(builds):
        each = [(_pass(build, name), build.rows / MILLION) for build in builds]
        cells = [f"{a.driver_s / m:.2f} + {a.tasks_s / m:.2f} ({a.seconds / m:.1f})" if a else "–" for a, m in each]
        rows.append((name, *cells))
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
    for name in _names(builds):
        each = [_pass(build, name) for build in builds]
        cells = [f"{one.driver_bytes / MIB:,.0f}, {one.task_bytes / MIB:,.0f}" if one else "–" for one in each]
        rows.append((name, *cells))
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
    for name in [one.name for one in max((build.folders for build in builds), key=len)]:
        each = [next((one for one in build.folders if one.name == name), None) for build in builds]
        cells = [
            f"{one.bytes / build.rows:,.1f}; {one.files:,}; {one.most:,}" if one else "–"
            for one, build in zip(each, builds, strict=True)
        ]
        rows.append((f"{name}/", *cells))
    return [
        "## On disk",
        "",
        "Bytes per row of the source; files; most files of one directory.",
        "",
        *markdown_table(("folder", *_by_rows(builds)), rows),
        "",
    ]


def _extrapolated(builds: Sequence[Measured]) -> Lines:
    rows = []
    for name in _names(builds):
        had = [(build, one) for build in builds if (one := _pass(build, name)) is not None]
        (first, before), (largest, now) = had[0], had[-1]
        times = ZINC20_ROWS / largest.rows
        hours = [seconds * times / 3600 for seconds in (now.driver_s, now.tasks_s)]
        growth, whole = "–", "–"
        if largest is not first:
            grown = (now.driver_bytes - before.driver_bytes) / MIB
            growth = f"{grown:+,.0f}"
            whole = f"{now.driver_bytes / MIB + max(grown, 0) / (largest.rows - first.rows) * ZINC20_ROWS:,.0f}"
        rows.append((name, f"{largest.rows:,}", f"{hours[0]:.2f}", f"{hours[1]:.1f}", growth, whole))
    disk = []
    for largest in [build for build in builds if build.counts][-1:]:
        times = ZINC20_ROWS / largest.rows
        size = sum(folder.bytes for folder in largest.folders) * times / GB
        files = sum(folder.files for folder in largest.folders) * times / MILLION
        disk = [f"{size:,.0f} GB and {files:.1f} million files while it runs, the store among them.", ""]
    columns = ("pass", "from", "driver, hours", "tasks, core-hours", "driver's growth, MiB", "if it goes on so, MiB")
    return [
        f"## {ZINC20_ROWS:,} rows, in proportion to the largest build",
        "",
        "Of each pass, the largest build that had it. The driver's growth is its largest memory there less that in the "
        "smallest build.",
        "",
        *markdown_table(columns, rows),
        "",
        *disk,
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
