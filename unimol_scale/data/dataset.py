"""From a configuration and a store to the loaders of training and validation. Reading never touches RDKit."""

from dataclasses import dataclass
from pathlib import Path

from unimol_scale.data.loader import Corruption, SampleT, StepLoader
from unimol_scale.data.molecule_reader import Conformers, Hydrogens, MoleculeReader
from unimol_scale.data.steps.buckets import Buckets
from unimol_scale.data.steps.order import Order
from unimol_scale.data.steps.planner import StepPlanner, ValidationPlanner
from unimol_scale.errors import ConfigError, StoreError
from unimol_scale.store.remote import DEFAULT_CACHE, DEFAULT_CACHE_BYTES, is_url, open_remote_store
from unimol_scale.store.shards import Store, open_store

REMOTE_WINDOW = 16
# Padded pairs of a micro-batch if they are neither set nor derived from a device's memory.
DEFAULT_MAX_PAIRS = 40_000
# Validation has its own seed, independent of the run's, so that runs with different seeds see the same corruptions.
VALIDATION_SEED = 20_240_614


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How batches are made from a store.

    Attributes:
        path: directory or URL of the store.
        max_pairs: upper limit on the padded pairs Σ(n+1)² of one micro-batch, virtual node included; it bounds memory.
            None: as many as fit in the memory of the GPU, or 40,000 without one.
        buckets: round the shapes of training micro-batches up to a few, by padding and molecules without atoms, so that
            the same shapes come again. The loss and its gradient do not change.
        conformers: which conformer of a molecule an epoch uses: ``random``, ``in_turn`` or ``first``.
        hydrogens: ``as_stored``; ``keep`` requires a store with hydrogens as atoms; ``drop`` leaves them out.
        labels: names of the store's labels to put into the batches.
        shuffle_window: number of shards among which molecules are shuffled; an epoch reads one such window after
            another. None: all shards. A store behind a URL always uses windows; see ``window``.
        cache_dir: directory on a local disk for the shards of a store behind a URL.
        cache_bytes: upper limit on the bytes of these shards; all ranks and workers of a machine share them.
        workers: loader processes per rank; 0 loads in the rank itself.
        prefetch: micro-batches that each worker prepares ahead.
        validation_molecules: upper limit on the number of validation molecules that are scored.
        validation_repeats: corruptions per validation molecule; more make the loss less noisy.
    """

    path: str
    max_pairs: int | None = None
    buckets: bool = False
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
        """``max_pairs``, or its default if it is not set."""
        return DEFAULT_MAX_PAIRS if self.max_pairs is None else self.max_pairs

    @property
    def shapes(self) -> Buckets | None:
        """The shapes that training micro-batches are padded to; None if ``buckets`` is off."""
        return Buckets(max_pairs=self.pair_budget) if self.buckets else None

    @property
    def window(self) -> int | None:
        """``shuffle_window``, or ``REMOTE_WINDOW`` for a store behind a URL if it is not set."""
        return REMOTE_WINDOW if self.shuffle_window is None and is_url(self.path) else self.shuffle_window


def open_store_of(config: DataConfig) -> Store:
    """Open the store on disk or behind a URL.

    Raises:
        StoreError: missing, unfinished or unreadable.
        ConfigError: the cache is too small for the shards among which molecules are shuffled.
    """
    if not is_url(config.path):
        return open_store(config.path)
    store = open_remote_store(config.path, config.cache_dir, config.cache_bytes)
    assert config.window is not None
    largest = sorted((shard.bytes for split in store.manifest.splits.values() for shard in split.shards), reverse=True)
    if (needed := sum(largest[: config.window])) > config.cache_bytes:
        raise ConfigError(
            f"data.cache_bytes {config.cache_bytes:,} is too small for the {config.window} shards of "
            f"data.shuffle_window ({needed:,} bytes); raise data.cache_bytes or lower data.shuffle_window"
        )
    return store


def order_of(config: DataConfig, reader: MoleculeReader, *, batch_size: int, seed: int) -> Order:
    """Return the order in which a split is read."""
    rows = [shard.rows for shard in reader.split.entry.shards]
    return Order(rows, batch_size=batch_size, seed=seed, window=config.window)


def reader_of(config: DataConfig, split: str) -> MoleculeReader:
    """Return the reader of a split.

    Raises:
        StoreError: the store is missing, unfinished or damaged, or the split has no molecules.
        ConfigError: the store lacks something that the configuration asks for.
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
        config: data settings.
        corruption: corruption of the objective.
        batch_size: molecules of a step over all ranks.
        seed: seed of the run.
        rank: rank of this process.
        world_size: number of ranks.
        at_once: micro-batches that a rank computes side by side.

    Raises:
        StoreError: the store is missing, unfinished or damaged, or has no training molecules.
        ConfigError: the global batch does not divide among the ranks.
    """
    if batch_size % world_size:
        raise ConfigError(f"train.global_batch_size {batch_size} is not a multiple of the {world_size} ranks")
    reader = reader_of(config, "train")
    order = order_of(config, reader, batch_size=batch_size, seed=seed)
    planner = StepPlanner(
        reader, order, world_size=world_size, max_pairs=config.pair_budget, at_once=at_once, buckets=config.shapes
    )
    return StepLoader(
        planner, reader, corruption, rank=rank, seed=seed, workers=config.workers, prefetch=config.prefetch
    )


def validation_loader(
    config: DataConfig, corruption: Corruption[SampleT], *, rank: int, world_size: int
) -> StepLoader[SampleT]:
    """Return the loader of validation. Its step r applies corruption r to the fixed validation molecules.

    Raises:
        StoreError: the store is missing, unfinished or damaged, or has no validation molecules.
    """
    reader = reader_of(config, "valid")
    batch_size = min(config.validation_molecules, len(reader))
    order = order_of(config, reader, batch_size=batch_size, seed=VALIDATION_SEED)
    planner = ValidationPlanner(reader, order, world_size=world_size, max_pairs=config.pair_budget)
    return StepLoader(
        planner, reader, corruption, rank=rank, seed=VALIDATION_SEED, workers=config.workers, prefetch=config.prefetch
    )
