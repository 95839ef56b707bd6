"""A store of 838 million molecules that names a few shards many times, opened in the way a rank opens its store.

The manifest names as many shards as a store of that size has; their files are hard links to a few real ones, or to
copies where a file has as many links as the file system allows, so that each is looked up, opened and mapped by itself.
The way from there to the first micro-batch is the trainer's own: manifest, order, planner, reader, loader. Sizes and
hashes in the manifest are those of the real shards.
"""

import collections
import dataclasses
import errno
import itertools
import resource
import shutil
import time
from pathlib import Path

from unimol_scale.common.machine.memory import resident_bytes
from unimol_scale.store.manifest import MANIFEST_NAME, SplitEntry, read_manifest
from unimol_scale.store.shards import write_manifest

SEED = 0
MAX_PAIRS = 40_000


@dataclasses.dataclass(kw_only=True)
class FirstSteps:
    """What a rank needs to begin at a step.

    Attributes:
        step: the first step.
        window: data.shuffle_window; None: none.
        shards: number of shards of the store.
        manifest_bytes: size of manifest.json.
        open_s: seconds from the manifest to the loader.
        first_s: seconds from there to all micro-batches of this rank's first step.
        later_s: seconds of each later step.
        resident_bytes: resident set of the process at the end, with mapped pages of shards.
        anonymous_bytes: the part of it that is not backed by a file.
        peak_bytes: largest resident set.
    """

    step: int
    window: int | None
    shards: int
    manifest_bytes: int
    open_s: float
    first_s: float
    later_s: tuple[float, ...]
    resident_bytes: int
    anonymous_bytes: int
    peak_bytes: int


def repeat_shards(store: Path, output: Path, molecules: int) -> Path:
    """Make a store of at least so many training molecules from one with a few full shards."""
    manifest, _ = read_manifest(store)
    entries = manifest.splits["train"].shards
    full = [entry for entry in entries if entry.rows == max(one.rows for one in entries)]
    number = -(-molecules // full[0].rows)
    (output / "train").mkdir(parents=True, exist_ok=True)
    shards, originals = [], {entry.file: store / entry.file for entry in full}
    for at, entry in zip(range(number), itertools.cycle(full), strict=False):
        file = f"train/shard-{at:05d}{Path(entry.file).suffix}"
        originals[entry.file] = link_or_copy(originals[entry.file], output / file)
        shards.append(dataclasses.replace(entry, file=file))
    sizes = collections.Counter[str]()
    for size, count in manifest.splits["train"].size_histogram.items():
        sizes[size] = count * number // len(entries)  # the sizes are those of all shards, near enough
    rows = sum(entry.rows for entry in shards)
    splits = {**manifest.splits, "train": SplitEntry(shards=tuple(shards), size_histogram=dict(sizes))}
    stored = rows + manifest.splits["valid"].rows
    counts = dataclasses.replace(manifest.counts, read=stored, stored=stored, duplicates=0, failed=0, not_sampled=0)
    for entry in manifest.splits["valid"].shards:
        (output / entry.file).parent.mkdir(exist_ok=True)
        (output / entry.file).hardlink_to(store / entry.file)
    write_manifest(output, dataclasses.replace(manifest, splits=splits, counts=counts))
    return output


def link_or_copy(original: Path, place: Path) -> Path:
    """Make a hard link, or a copy where the original has as many as it can; return the file to be linked to next.

    ext4, for one, allows 65,000 links to a file.
    """
    try:
        place.hardlink_to(original)
    except OSError as error:
        if error.errno != errno.EMLINK:
            raise
        shutil.copyfile(original, place)
        return place
    return original


def begin(store: Path, step: int, window: int | None, *, batch_size: int, ranks: int, steps: int) -> FirstSteps:
    """Open a store as rank 0 does, and load some steps in this process.

    Args:
        store: with many shards.
        step: the first one; a run that resumes begins at a late one.
        window: data.shuffle_window.
        batch_size: molecules of all ranks.
        ranks: of the run.
        steps: to load.
    """
    # Here, since the simulated builds, which import this module, need no torch.
    from unimol_scale.data.dataset import DataConfig, training_loader
    from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseObjective

    began = time.monotonic()
    config = DataConfig(path=str(store), max_pairs=MAX_PAIRS, workers=0, shuffle_window=window)
    corruption = DenoiseObjective(DenoiseConfig()).corrupt_at
    loader = training_loader(config, corruption, batch_size=batch_size, seed=SEED, rank=0, world_size=ranks)
    opened = time.monotonic()
    times = [opened]
    for _ in loader.steps(step, step + steps):
        times.append(time.monotonic())
    each = [after - before for before, after in itertools.pairwise(times)]
    return FirstSteps(
        step=step,
        window=window,
        shards=sum(1 for _ in (store / "train").iterdir()),
        manifest_bytes=(store / MANIFEST_NAME).stat().st_size,
        open_s=opened - began,
        first_s=each[0],
        later_s=tuple(each[1:]),
        resident_bytes=resident_bytes(),
        anonymous_bytes=_anonymous_bytes(),
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
