"""Turns rows of a table into labelled micro-batches, with the loader of pretraining.

Shapes: M rows of the table, R of them read here, B in a micro-batch, L targets, C conformers of all rows.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unimol_scale.data import corrupt
from unimol_scale.data.batch import MoleculeBatch, collate
from unimol_scale.data.corrupt import STREAM_CONFORMER
from unimol_scale.data.steps.micro_batches import Int32, Int64
from unimol_scale.data.hydrogens import drop_hydrogens, heavy_counts
from unimol_scale.data.loader import StepLoader
from unimol_scale.data.steps.order import InOrder, Order
from unimol_scale.data.steps.planner import StepPlanner
from unimol_scale.data.steps.random_streams import MoleculeKeys
from unimol_scale.data.input_views import InputView
from unimol_scale.downstream.config import FinetuneTrainConfig
from unimol_scale.downstream.compute import pair_budget
from unimol_scale.downstream.data.inputs import clean_input
from unimol_scale.engine.parallel.ranks import Ranks
from unimol_scale.errors import ConfigError
from unimol_scale.model.encodings import ModelInput
from unimol_scale.model.presets import ModelConfig
from unimol_scale.store.schema import Float64
from unimol_scale.store.shards import StoreSplit

_PREFETCH = 8
# Number of rows that are divided into micro-batches together if their order does not matter; more need less padding.
_READ_TOGETHER = 1024


@dataclass(frozen=True, kw_only=True)
class LabelledSample:
    """One micro-batch.

    Attributes:
        input: input of the model.
        label_BL: labels, float64, in the units of the table; NaN for missing ones.
        row_B: row of the reader that each molecule comes from, int64.
        clean_BA3: coordinates before noise, float32, Å; None: the coordinates in ``input`` have no noise.
    """

    input: ModelInput
    label_BL: Tensor
    row_B: Tensor
    clean_BA3: Tensor | None = None


class RowReader:
    """Reads rows. Each row has labels and refers to a molecule of a store; several rows may share a molecule.

    Args:
        split: split of the store that holds the molecules.
        position_R: position of each row's molecule in the split, int64.
        labels_RL: labels, float64, NaN for missing ones.
        drop_hydrogens: remove hydrogens that are atoms in the store, for a model that sees only heavy atoms.
        conformers: 1 reads the first conformer of a molecule. With a larger number, every epoch reads one of the first
            ``conformers`` (or all, if there are fewer), drawn by seed, epoch and row.
        conformer_R: the conformer to read for each row in every epoch, int64; None: see ``conformers``.
    """

    def __init__(
        self,
        split: StoreSplit,
        position_R: Int64,
        labels_RL: Float64,
        *,
        drop_hydrogens: bool = False,
        conformers: int = 1,
        conformer_R: Int64 | None = None,
    ) -> None:
        assert len(position_R) == len(labels_RL) > 0
        assert position_R.min() >= 0, "a skipped row has no molecule"
        assert conformers >= 1, "a molecule has a conformer"
        self._split = split
        self._position_R = position_R
        self._drops = drop_hydrogens
        self.conformers = conformers
        self._conformer_R = conformer_R
        self.labels_RL = labels_RL

    def __len__(self) -> int:
        return len(self._position_R)

    @property
    def largest(self) -> int:
        """Number of atoms of the largest molecule, including hydrogens if they are stored."""
        return int(self._split.sizes(self._position_R)[0].max())

    def num_atoms(self, molecule_B: Int64) -> Int32:
        """Return the number of atoms of each row, int32 [B]."""
        if self._drops:
            return heavy_counts(self._split.gather(self._position_R[molecule_B]))
        return self._split.sizes(self._position_R[molecule_B])[0]

    def prefetch(self, shards: Sequence[int]) -> None:
        """Do nothing: tables are small, and their molecules are stored on this machine."""

    def read(self, keys: MoleculeKeys) -> MoleculeBatch:
        """Return rows as a padded batch, each with one conformer."""
        columns = self._split.gather(self._position_R[keys.molecule_B], self._chosen(keys))
        if self._drops:
            columns = drop_hydrogens(columns)
        return collate(dataclasses.replace(columns, labels=self.labels_RL[keys.molecule_B]))

    def _chosen(self, keys: MoleculeKeys) -> Int64 | None:
        """Return the conformer to read for each row, int64 [B]; None: the first one."""
        if self._conformer_R is not None:
            return self._conformer_R[keys.molecule_B]
        if self.conformers == 1:
            return None
        num_conformers_B = self._num_conformers(self._position_R[keys.molecule_B])
        chosen_B: Int64 = np.floor(keys.uniform(STREAM_CONFORMER, 1)[:, 0] * num_conformers_B).astype(np.int64)
        return chosen_B

    def _num_conformers(self, position_B: Int64) -> Int32:
        return np.minimum(self._split.sizes(position_B)[1], self.conformers)

    def every_conformer(self) -> tuple["RowReader", Int64]:
        """Return a reader whose rows are the conformers of these rows, and the row of each conformer, int64 [C].

        A reader of one conformer per row returns itself.
        """
        if self.conformers == 1 or self._conformer_R is not None:
            return self, np.arange(len(self), dtype=np.int64)
        num_conformers_R = self._num_conformers(self._position_R).astype(np.int64)
        row_C = np.repeat(np.arange(len(self), dtype=np.int64), num_conformers_R)
        first_R = np.cumsum(num_conformers_R) - num_conformers_R
        reader = RowReader(
            self._split,
            self._position_R[row_C],
            self.labels_RL[row_C],
            drop_hydrogens=self._drops,
            conformer_R=np.arange(len(row_C), dtype=np.int64) - first_R[row_C],
        )
        return reader, row_C


@dataclass(frozen=True, kw_only=True)
class SampleMaker:
    """Turns clean molecules into samples, as a corruption does in pretraining. It is pickled for loader processes.

    Attributes:
        view: how molecules are shown to the model.
        model: dimensions of the model.
        noise_std: standard deviation of Gaussian noise on every coordinate, Å, drawn anew in every epoch; 0: none.
    """

    view: InputView
    model: ModelConfig
    noise_std: float = 0.0

    def __call__(self, batch: MoleculeBatch, keys: MoleculeKeys, step: int) -> LabelledSample:
        """Return the molecules as the model sees them, with their labels."""
        clean_BA3 = None
        if self.noise_std:
            clean_BA3 = torch.from_numpy(batch.coordinates_BA3)
            noised_BA3 = corrupt.add_noise(
                keys, batch.coordinates_BA3, batch.valid_BA, self.noise_std, corrupt.STREAM_NOISY_NODES
            )
            batch = dataclasses.replace(batch, coordinates_BA3=noised_BA3)
        return LabelledSample(
            input=clean_input(batch, self.view, self.model),
            label_BL=torch.from_numpy(batch.labels_BL),
            row_B=torch.from_numpy(keys.molecule_B),
            clean_BA3=clean_BA3,
        )


def steps_per_epoch(config: FinetuneTrainConfig, rows: int) -> int:
    """Return the steps in which so many training rows are seen once."""
    return -(-rows // config.batch_size)


def training_batches(
    reader: RowReader,
    make_sample: SampleMaker,
    config: FinetuneTrainConfig,
    seed: int,
    device: torch.device,
    at_once: int = 1,
    ranks: Ranks | None = None,
) -> StepLoader[LabelledSample]:
    """Return the loader of training steps: epochs in random order, as in pretraining.

    Args:
        reader: reader of the training rows.
        make_sample: turns rows into samples.
        config: settings of the training.
        seed: seed of the order of rows, and of random numbers in samples.
        device: device that computes.
        at_once: number of micro-batches that are computed side by side and wait for one another.
        ranks: ranks that share the micro-batches of a step; None: this process computes all of them.

    Raises:
        ConfigError: ``max_pairs`` is too small for the largest molecule, or a step has fewer molecules than ranks.
    """
    rank, world_size = (0, 1) if ranks is None else (ranks.rank, ranks.world_size)
    max_pairs = pair_budget(config.max_pairs, device, reader.largest)
    batch_size = min(config.batch_size, len(reader))  # a step must not see a row several times
    batch_size -= batch_size % world_size  # every rank has as many micro-batches
    if batch_size < 1:
        raise ConfigError(f"a step has at most {config.batch_size} molecules, too few for {world_size} ranks")
    order = Order([len(reader)], batch_size=batch_size, seed=seed)
    planner = StepPlanner(reader, order, world_size=world_size, max_pairs=max_pairs, at_once=at_once)
    return _loader(planner, reader, make_sample, workers=config.workers, seed=seed, rank=rank)


def each_row_once(
    reader: RowReader, make_sample: SampleMaker, max_pairs: int | None, device: torch.device
) -> Iterator[LabelledSample]:
    """Yield every row once, with one conformer, in micro-batches of molecules of similar size.

    Raises:
        ConfigError: ``max_pairs`` is too small for the largest molecule.
    """
    order = InOrder(len(reader), _READ_TOGETHER)
    budget = pair_budget(max_pairs, device, reader.largest)
    planner = StepPlanner(reader, order, world_size=1, max_pairs=budget)
    loader = _loader(planner, reader, make_sample, workers=0, seed=0)
    for samples in loader.steps(0, order.num_steps):
        yield from samples


def each_conformer_once(
    reader: RowReader, make_sample: SampleMaker, max_pairs: int | None, device: torch.device
) -> Iterator[LabelledSample]:
    """Yield every conformer of every row once; ``row_B`` is the row, which occurs once for each of its conformers.

    Raises:
        ConfigError: ``max_pairs`` is too small for the largest molecule.
    """
    conformers, row_C = reader.every_conformer()
    for sample in each_row_once(conformers, make_sample, max_pairs, device):
        yield dataclasses.replace(sample, row_B=torch.from_numpy(row_C[sample.row_B.numpy()]))


def repeated_samples(
    reader: RowReader, make_sample: SampleMaker, max_pairs: int | None, device: torch.device
) -> Iterable[LabelledSample]:
    """Return the samples of ``each_conformer_once`` for repeated passes: in memory if rows have one conformer.

    Raises:
        ConfigError: ``max_pairs`` is too small for the largest molecule.
    """
    if reader.conformers == 1:
        return list(each_conformer_once(reader, make_sample, max_pairs, device))
    return _ReadAgain(lambda: each_conformer_once(reader, make_sample, max_pairs, device))


@dataclass(frozen=True)
class _ReadAgain:
    """Samples that are read again in every pass."""

    read: Callable[[], Iterator[LabelledSample]]

    def __iter__(self) -> Iterator[LabelledSample]:
        return self.read()


def _loader(
    planner: StepPlanner, reader: RowReader, make_sample: SampleMaker, *, workers: int, seed: int, rank: int = 0
) -> StepLoader[LabelledSample]:
    return StepLoader(planner, reader, make_sample, rank=rank, seed=seed, workers=workers, prefetch=_PREFETCH)
