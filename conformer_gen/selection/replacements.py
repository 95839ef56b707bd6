"""Replaces molecules of a random validation split that got no conformer. Imports Arrow and NumPy.

A random split with a fixed number of molecules takes those with the smallest hashes. If some get no conformer, the next
smallest replace them, which gives the split of a set that never contained the failed molecules.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from conformer_gen.selection.pieces import CONFORMERS, Piece, done_pieces, group_pieces, groups
from conformer_gen.selection.sampling import SCORE_BITS, mix
from conformer_gen.selection.selection_passes import SPLIT_STREAM
from unimol_scale.errors import ConformerError
from unimol_scale.store.arrow_backend import ArrowShard
from unimol_scale.store.schema import Layout

J = TypeVar("J")
R = TypeVar("R")


class RunJobs(Protocol):
    """Runs a function on every job and yields the results in any order, like ``map``."""

    def __call__(self, function: Callable[[J], R], jobs: Iterable[J], /) -> Iterator[R]:
        """Run them."""


class Replacement(NamedTuple):
    """A training record that may move to validation; compares by hash, then by key."""

    score: int
    key: int
    piece: Piece
    row: int


@dataclasses.dataclass(frozen=True)
class ReplacementJob:
    """Looks for records of 1,000 chunks whose hash is below a limit."""

    work: Path
    group: int
    layout: Layout
    seed: int
    below: int


def find_candidates(job: ReplacementJob) -> list[Replacement]:
    """Return the training records whose hash is below the limit, in any order."""
    found = []
    for piece in group_pieces(job.work, CONFORMERS, job.group):
        num_train = piece.counts[0]
        keys = ArrowShard(piece.path(job.work, CONFORMERS), job.layout).batch["key"].to_numpy()[:num_train]
        scores = mix(keys, job.seed, SPLIT_STREAM)
        rows = np.flatnonzero(scores <= np.uint64(job.below - 1))
        found += [Replacement(int(scores[row]), int(keys[row]), piece, int(row)) for row in rows.tolist()]
    return found


def find_replacements(
    work: Path, wanted: int, num_kept: int, layout: Layout, seed: int, run: RunJobs
) -> list[Replacement]:
    """Return the records that fill a random split up to its requested size, smallest hash first.

    Args:
        work: work directory of the build, with all conformers made.
        wanted: molecules that the split should have.
        num_kept: molecules selected for the store, with or without conformers.
        layout: layout of the records.
        seed: seed of the build.
        run: runs the jobs.

    Raises:
        ConformerError: too few molecules got conformers.
    """
    num_train, num_valid = 0, 0
    for piece in done_pieces(work, CONFORMERS):
        num_train, num_valid = num_train + piece.counts[0], num_valid + piece.counts[1]
    missing = wanted - num_valid
    if missing <= 0:
        return []
    if num_train <= missing:
        raise ConformerError(
            f"curate.valid_count is {wanted:,}, but so few molecules got a conformer that none would be left to train "
            "on; failures.parquet has the reasons"
        )
    # Hashes are uniformly distributed: below this limit lie those of the split, and very probably enough beyond.
    likely = wanted + 2 * missing + 10 * math.isqrt(wanted) + 100
    while True:
        below = min(1 << SCORE_BITS, (likely << SCORE_BITS) // num_kept)
        jobs = (ReplacementJob(work, group, layout, seed, below) for group in groups(work, CONFORMERS))
        found = sorted(one for some in run(find_candidates, jobs) for one in some)
        if len(found) >= missing:
            return found[:missing]
        likely *= 2
