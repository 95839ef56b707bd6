"""Molecules that take the place of those of a validation split that got no conformer. Imports Arrow and NumPy.

A split of a number of molecules, drawn at random, is the molecules with the smallest hashes. Where conformers of some
fail, the split goes on with the next smallest: it is the one of a set that never had the failed molecules.
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
    """A record for training that may go to validation; compares by the hash, then by the key."""

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
    """Return the records for training whose hash is below the limit, in any order."""
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
    """Return the records to bring a random split to the number of molecules that was asked for, smallest hash first.

    Args:
        work: directory of the build, in which all conformers are made.
        wanted: molecules that the split is to have.
        num_kept: molecules that were selected for the store, with and without conformers.
        layout: of the records.
        seed: of the build.
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
            f"curate.valid_count is {wanted:,}, and so few molecules got a conformer that none would be left to train "
            "on; failures.parquet has the reasons"
        )
    # Hashes are spread evenly: this limit has those of the split, and most probably enough beyond them.
    likely = wanted + 2 * missing + 10 * math.isqrt(wanted) + 100
    while True:
        below = min(1 << SCORE_BITS, (likely << SCORE_BITS) // num_kept)
        jobs = (ReplacementJob(work, group, layout, seed, below) for group in groups(work, CONFORMERS))
        found = sorted(one for some in run(find_candidates, jobs) for one in some)
        if len(found) >= missing:
            return found[:missing]
        likely *= 2
