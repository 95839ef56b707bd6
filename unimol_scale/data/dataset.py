"""Steps of training and batches of validation, read from a store, corrupted by an objective, loaded ahead by workers.

An item of the dataset is one micro-batch, addressed by (step, slot): workers may prepare them in any order and the
result is the same. Reading never touches RDKit.
"""

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from unimol_scale.data.batch import MoleculeBatch
from unimol_scale.data.cuts import Int32, Int64, MicroBatchPlan, check_budget, plan_micro_batches
from unimol_scale.data.order import Order
from unimol_scale.data.reader import Conformers, Hydrogens, MoleculeReader
from unimol_scale.data.streams import MoleculeKeys
from unimol_scale.data.transfer import Packed, pack
from unimol_scale.errors import ConfigError, RunError, StoreError
from unimol_scale.store.remote import is_url, open_remote_store
from unimol_scale.store.shards import Store, open_store

SampleT = TypeVar("SampleT")
# What an objective does to a clean batch at a step.
Corruption = Callable[[MoleculeBatch, MoleculeKeys, int], SampleT]
# Molecules [G] of a step, their epochs [G], and how they are cut.
StepPlan = tuple[Int64, Int64, MicroBatchPlan]
# Steps whose plan is remembered: the loader asks for a step some steps before the trainer does.
PLANS_KEPT = 32
REMOTE_WINDOW = 16
# Shards that the background knows to be needed next; it fetches as many as the cache holds.
SHARDS_AHEAD = 1024
# What torch says when a worker was killed rather than raised.
_DEAD_WORKER = "DataLoader worker (pid"
MAX_DEATHS = 5
# Validation draws from its own seed, whatever the run's: runs of different seeds are scored on the same corruptions.
VALIDATION_SEED = 20_240_614


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How batches are made from a store.

    Attributes:
        path: the store: a directory, or the URL of one.
        max_pairs: most padded pairs Σ(n+1)² of one micro-batch, virtual node included: the memory budget.
        conformers: which one of a molecule an epoch sees: ``random``, ``in_turn`` or ``first``.
        hydrogens: ``as_stored``; ``keep`` demands a store that has them as atoms; ``drop`` leaves them out.
        labels: names of the store's labels that go into the batches.
        shuffle_window: shards among which an epoch's order is random, one such window after another; None: all of
            them at once. Stores behind a URL always have one; see ``window``.
        cache_dir: directory on a local disk for shards of stores behind a URL.
        cache_bytes: most bytes of them that are kept; the ranks and workers of a machine share them.
        workers: loader processes of each rank; 0 loads in the rank itself.
        prefetch: micro-batches each worker prepares ahead.
        validation_molecules: most molecules of the validation split that are scored.
        validation_repeats: corruptions of each validation molecule; more make the loss less noisy.
    """

    path: str
    max_pairs: int = 40_000
    conformers: Conformers = "random"
    hydrogens: Hydrogens = "as_stored"
    labels: tuple[str, ...] = ()
    shuffle_window: int | None = None
    cache_dir: Path = Path("~/.cache/unimol-scale")
    cache_bytes: int = 20 * 2**30
    workers: int = 1
    prefetch: int = 8
    validation_molecules: int = 10_000
    validation_repeats: int = 1

    def __post_init__(self) -> None:
        if self.shuffle_window is not None and self.shuffle_window < 1:
            raise ConfigError(f"data.shuffle_window must be at least 1, got {self.shuffle_window}")
        for name in ("max_pairs", "cache_bytes", "prefetch", "validation_molecules", "validation_repeats"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name} must be at least 1, got {getattr(self, name)}")
        if self.workers < 0:
            raise ConfigError(f"data.workers must not be negative, got {self.workers}")

    @property
    def window(self) -> int | None:
        """``shuffle_window``, which is ``REMOTE_WINDOW`` for a store behind a URL unless it is set."""
        return REMOTE_WINDOW if self.shuffle_window is None and is_url(self.path) else self.shuffle_window


class MicroBatchDataset(Dataset[Packed[SampleT]], Generic[SampleT]):
    """Micro-batches of one rank, addressed by (step, slot).

    Args:
        reader: of the molecules.
        corruption: of the objective.
        plan: step → molecules, epochs and micro-batch plan; pure.
        rank: of this process.
        seed: of the run, for corruptions.
    """

    def __init__(
        self,
        reader: MoleculeReader,
        corruption: Corruption[SampleT],
        plan: "StepPlanner",
        rank: int,
        seed: int,
    ) -> None:
        self._reader = reader
        self._corruption = corruption
        self._plan = plan
        self._rank = rank
        self._seed = seed

    def __getitem__(self, address: tuple[int, int]) -> Packed[SampleT]:
        """Return micro-batch ``slot`` of ``step``: gathered, padded and corrupted."""
        step, slot = address
        molecule_G, epoch_G, plan = self._plan(step)
        members = plan.of_rank(self._rank)[slot]
        keys = MoleculeKeys(seed=self._seed, epoch_B=epoch_G[members], molecule_B=molecule_G[members])
        return pack(self._corruption(self._reader.read(keys), keys, step))


class StepPlanner:
    """The pure map step → (molecules, epochs, micro-batches) of one split; remembers the last steps it planned."""

    def __init__(self, reader: MoleculeReader, order: Order, *, world_size: int, max_pairs: int) -> None:
        check_budget(reader.largest, max_pairs)  # now rather than later
        self._reader = reader
        self._order = order
        self._world_size = world_size
        self._max_pairs = max_pairs
        self._planned: dict[int, tuple[StepPlan, Int32]] = {}

    @property
    def num_molecules(self) -> int:
        """Molecules in the split."""
        return len(self._reader)

    def prefetch(self, step: int) -> None:
        """Tell the store which shards are needed from a step on."""
        self._reader.split.prefetch(self._order.shards(step, SHARDS_AHEAD))

    def __call__(self, step: int) -> StepPlan:
        """Return the molecules [G], their epochs [G] and the micro-batch plan of a step."""
        return self._sized(step)[0]

    def num_atoms_of(self, step: int) -> Int32:
        """Return the atoms of the molecules of a step, [G]."""
        return self._sized(step)[1]

    def _sized(self, step: int) -> tuple[StepPlan, Int32]:
        if step not in self._planned:
            if len(self._planned) == PLANS_KEPT:
                del self._planned[min(self._planned)]
            molecule_G, epoch_G = self._molecules(step)
            num_atoms_G = self._reader.num_atoms(molecule_G)
            plan = plan_micro_batches(num_atoms_G, self._world_size, self._max_pairs)
            self._planned[step] = (molecule_G, epoch_G, plan), num_atoms_G
        return self._planned[step]

    def _molecules(self, step: int) -> tuple[Int64, Int64]:
        return self._order.molecules(step)


class ValidationPlanner(StepPlanner):
    """The same map for validation: step r is corruption r of a fixed choice of molecules."""

    def prefetch(self, step: int) -> None:
        """Tell the store which shards validation needs: the same at every step."""
        super().prefetch(0)

    def _molecules(self, step: int) -> tuple[Int64, Int64]:
        molecule_G, _ = super()._molecules(0)
        return molecule_G, np.full(len(molecule_G), step, dtype=np.int64)


class _Addresses(Sampler[tuple[int, int]]):
    """The micro-batches of consecutive steps, in order."""

    def __init__(self, planner: StepPlanner, first: int, last: int) -> None:
        self._planner, self._first, self._last = planner, first, last

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for step in range(self._first, self._last):
            self._planner.prefetch(step)
            yield from ((step, slot) for slot in range(self._planner(step)[2].per_rank))


class StepLoader(Generic[SampleT]):
    """Iterates over steps; each is the list of this rank's micro-batches, prepared ahead by worker processes."""

    def __init__(
        self,
        config: DataConfig,
        planner: StepPlanner,
        reader: MoleculeReader,
        corruption: Corruption[SampleT],
        *,
        rank: int,
        seed: int,
    ) -> None:
        self._config = config
        self.planner = planner
        self._dataset = MicroBatchDataset(reader, corruption, planner, rank, seed)

    def steps(self, first: int, last: int) -> Iterator[list[SampleT]]:
        """Yield the micro-batches of the steps first, …, last − 1.

        A worker process that is killed from outside costs nothing but time: what it had in hand is prepared again.

        Raises:
            RunError: workers die again and again at the same micro-batch.
        """
        step, deaths = first, 0
        while step < last:
            samples = iter(self._loader(step, last))
            try:
                while step < last:
                    yield [next(samples).unpack() for _ in range(self.planner(step)[2].per_rank)]
                    step, deaths = step + 1, 0
            except RuntimeError as error:
                if _DEAD_WORKER not in str(error):
                    raise
                deaths += 1
                if deaths == MAX_DEATHS:
                    raise RunError(
                        f"loader processes died {deaths} times at step {step}: {error}. If memory ran out, lower "
                        "data.workers or data.prefetch"
                    ) from error
                warnings.warn(f"a loader process died at step {step} and is replaced: {error}", stacklevel=2)

    def _loader(self, first: int, last: int) -> DataLoader[Packed[SampleT]]:
        workers = self._config.workers
        if workers:
            _start_loader_server()
        return DataLoader(
            self._dataset,
            batch_size=None,
            sampler=_Addresses(self.planner, first, last),
            num_workers=workers,
            prefetch_factor=self._config.prefetch if workers else None,
            pin_memory=torch.cuda.is_available(),
            multiprocessing_context="forkserver" if workers else None,
            worker_init_fn=_end_with_rank,
        )


def _start_loader_server() -> None:
    """Start the process that loader processes are forked from, deaf to the signals that stop a run.

    A batch system sends them to every process, and the rank has a state to save first. Its children are deaf as well;
    they end with their rank: see ``_end_with_rank``.
    """
    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        forkserver.ensure_running()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_with_rank(worker: int) -> None:
    """Let this loader process end when its rank is gone, however the rank ended.

    torch's own watch asks for the parent process, which is the server here; and the server lives as long as one of its
    children does, since each of them holds the pipe by whose end it would know.
    """
    rank = multiprocessing.parent_process()  # whoever asked the server for this process
    assert rank is not None, "loader processes are not forked from the rank itself"

    def watch() -> None:
        rank.join()
        os._exit(1)

    threading.Thread(target=watch, name="end with the rank", daemon=True).start()


def open_store_of(config: DataConfig) -> Store:
    """Open the store on disk or behind a URL.

    Raises:
        StoreError: missing, unfinished or unreadable.
        ConfigError: the cache does not hold the shards among which molecules are shuffled.
    """
    if not is_url(config.path):
        return open_store(config.path)
    store = open_remote_store(config.path, config.cache_dir, config.cache_bytes)
    assert config.window is not None
    largest = sorted((shard.bytes for split in store.manifest.splits.values() for shard in split.shards), reverse=True)
    if (needed := sum(largest[: config.window])) > config.cache_bytes:
        raise ConfigError(
            f"data.cache_bytes {config.cache_bytes:,} does not hold the {config.window} shards of data.shuffle_window "
            f"({needed:,} bytes); raise the one or lower the other"
        )
    return store


def order_of(config: DataConfig, reader: MoleculeReader, *, batch_size: int, seed: int) -> Order:
    """Return the order in which a split is read."""
    rows = [shard.rows for shard in reader.split.entry.shards]
    return Order(rows, batch_size=batch_size, seed=seed, window=config.window)


def reader_of(config: DataConfig, split: str) -> MoleculeReader:
    """Return the reader of a split.

    Raises:
        StoreError: the store is missing, unfinished, damaged or the split has no molecules.
        ConfigError: the store lacks what is asked for.
    """
    store = open_store_of(config)
    reader = MoleculeReader(
        store, split, conformers=config.conformers, hydrogens=config.hydrogens, labels=config.labels
    )
    if not len(reader):
        raise StoreError(f"the store at {store.location} has no {split} molecules; build a larger one")
    return reader


def training_loader(
    config: DataConfig,
    corruption: Corruption[SampleT],
    *,
    batch_size: int,
    seed: int,
    rank: int,
    world_size: int,
) -> StepLoader[SampleT]:
    """Return the loader of training steps.

    Raises:
        StoreError: the store is missing, unfinished, damaged or has no training molecules.
        ConfigError: the global batch does not divide among the ranks.
    """
    if batch_size % world_size:
        raise ConfigError(f"train.global_batch_size {batch_size} is not a multiple of the {world_size} ranks")
    reader = reader_of(config, "train")
    order = order_of(config, reader, batch_size=batch_size, seed=seed)
    planner = StepPlanner(reader, order, world_size=world_size, max_pairs=config.max_pairs)
    return StepLoader(config, planner, reader, corruption, rank=rank, seed=seed)


def validation_loader(
    config: DataConfig, corruption: Corruption[SampleT], *, rank: int, world_size: int
) -> StepLoader[SampleT]:
    """Return the loader of validation; its step r is corruption r of the fixed validation molecules.

    Raises:
        StoreError: the store is missing, unfinished, damaged or has no validation molecules.
    """
    reader = reader_of(config, "valid")
    batch_size = min(config.validation_molecules, len(reader))
    order = order_of(config, reader, batch_size=batch_size, seed=VALIDATION_SEED)
    planner = ValidationPlanner(reader, order, world_size=world_size, max_pairs=config.max_pairs)
    return StepLoader(config, planner, reader, corruption, rank=rank, seed=VALIDATION_SEED)
