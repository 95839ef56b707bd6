"""A random sample of the rows of a source, in one pass over all of them. Imports nothing that reads."""

import hashlib
import heapq
import logging
import time
from collections.abc import Iterable, Iterator

from conformer_gen.sources.molecule import SourceMolecule

LOG_INTERVAL_S = 5.0
ROWS_A_LOOK = 10_000  # rows between two looks at the clock
_log = logging.getLogger(__name__)


def sample_rows(rows: Iterable[SourceMolecule], count: int, seed: int) -> Iterator[SourceMolecule]:
    """Yield ``count`` of the rows, or all if there are fewer, in their order.

    Chosen are the rows with the smallest hashes of seed and position in the source: the same rows whatever reads them,
    and every row is equally likely. Rows that report missing data are yielded as well, since a sample of the remaining
    rows is not a sample of the whole. As many rows as requested are held in memory.

    Args:
        rows: rows of the source.
        count: at least 1.
        seed: another seed draws another sample.
    """
    key = seed.to_bytes(8, "little")
    chosen: list[tuple[int, int, SourceMolecule]] = []  # a heap whose first item has the largest hash
    missing: list[tuple[int, SourceMolecule]] = []
    said = time.monotonic()
    for place, row in enumerate(rows):
        if place % ROWS_A_LOOK == 0 and time.monotonic() - said > LOG_INTERVAL_S:
            said = time.monotonic()
            _log.info(f"sampling: {place:,} rows read")
        if row.ends_early:
            missing.append((place, row))
            continue
        digest = hashlib.blake2b(place.to_bytes(8, "little"), digest_size=8, key=key).digest()
        entry = (-int.from_bytes(digest, "little"), -place, row)
        if len(chosen) < count:
            heapq.heappush(chosen, entry)
        elif entry[:2] > chosen[0][:2]:
            heapq.heapreplace(chosen, entry)
    kept = [(-place, row) for _, place, row in chosen]
    yield from (row for _, row in sorted(kept + missing, key=lambda one: one[0]))
