"""From a configuration and a store to the loaders of training and validation. Reading never touches RDKit."""

from dataclasses import dataclass
from pathlib import Path

from unimol_scale.data.loader import Corruption, SampleT, StepLoader
from unimol_scale.data.steps.order import Order
from unimol_scale.data.steps.planner import StepPlanner, ValidationPlanner
from unimol_scale.data.molecule_reader import Conformers, Hydrogens, MoleculeReader
from unimol_scale.errors import ConfigError, StoreError
from unimol_scale.store.remote import DEFAULT_CACHE, DEFAULT_CACHE_BYTES, is_url, open_remote_store
from unimol_scale.store.shards import Store, open_store

REMOTE_WINDOW = 16
# Padded pairs of a micro-batch where they are neither set nor chosen from a device's memory.
DEFAULT_MAX_PAIRS = 40_000
# Validation draws from its own seed, whatever the run's: runs of different seeds are scored on the same corruptions.
VALIDATION_SEED = 20_240_614


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How batches are made from a store.

    Attributes:
        path: the store: a directory, or the URL of one.
        max_pairs: most padded pairs Σ(n+1)² of one micro-batch, virtual node included: the memory budget. None: a run
            on GPUs takes as many as their memory holds, any other 40,000.
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
    max_pairs: int | None = None
    conformers: Conformers = "random"
    hydrogens: Hydrogens = "as_stored"
    labels: tuple[str, ...] = ()
    shuffle_window: int | None = None
    cache_dir: Path = DEFAULT_CACHE
    cache_bytes: int = DEFAULT_CACHE_BYTES
    workers: int = 1
    prefetch: int = 8
    validation_molecules: int = 10_000
    validation_repeats: int = 1

    def __post_init__(self) -> None:
        if self.shuffle_window is not None and self.shuffle_window < 1:
            raise ConfigError(f"data.shuffle_window must be at least 1, got {self.shuffle_window}")
        if self.max_pairs is not None and self.max_pairs < 1:
            raise ConfigError(f"data.max_pairs must be at least 1, got {self.max_pairs}")
        for name in ("cache_bytes", "prefetch", "validation_molecules", "validation_repeats"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name} must be at least 1, got {getattr(self, name)}")
        if self.workers < 0:
            raise ConfigError(f"data.workers must not be negative, got {self.workers}")

    @property
    def pair_budget(self) -> int:
        """``max_pairs``, or what it is where nobody has chosen it."""
        return DEFAULT_MAX_PAIRS if self.max_pairs is None else self.max_pairs

    @property
    def window(self) -> int | None:
        """``shuffle_window``, which is ``REMOTE_WINDOW`` for a store behind a URL unless it is set."""
        return REMOTE_WINDOW if self.shuffle_window is None and is_url(self.path) else self.shuffle_window


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
    at_once: int = 1,
) -> StepLoader[SampleT]:
    """Return the loader of training steps.

    Args:
        config: of the data.
        corruption: of the objective.
        batch_size: molecules of a step, of all ranks.
        seed: of the run.
        rank: of this process.
        world_size: ranks.
        at_once: micro-batches that a rank computes side by side.

    Raises:
        StoreError: the store is missing, unfinished, damaged or has no training molecules.
        ConfigError: the global batch does not divide among the ranks.
    """
    if batch_size % world_size:
        raise ConfigError(f"train.global_batch_size {batch_size} is not a multiple of the {world_size} ranks")
    reader = reader_of(config, "train")
    order = order_of(config, reader, batch_size=batch_size, seed=seed)
    planner = StepPlanner(reader, order, world_size=world_size, max_pairs=config.pair_budget, at_once=at_once)
    return StepLoader(
        planner, reader, corruption, rank=rank, seed=seed, workers=config.workers, prefetch=config.prefetch
    )


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
    planner = ValidationPlanner(reader, order, world_size=world_size, max_pairs=config.pair_budget)
    return StepLoader(
        planner, reader, corruption, rank=rank, seed=VALIDATION_SEED, workers=config.workers, prefetch=config.prefetch
    )
