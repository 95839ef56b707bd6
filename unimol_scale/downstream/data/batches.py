"""Turns rows of a table into labelled micro-batches, with the loader of pretraining.

Shapes: M rows of the table, R of them read here, B in a micro-batch, L targets.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unimol_scale.data import corrupt
from unimol_scale.data.batch import MoleculeBatch, collate
from unimol_scale.data.steps.micro_batches import Int32, Int64
from unimol_scale.data.hydrogens import drop_hydrogens, heavy_counts
from unimol_scale.data.loader import StepLoader
from unimol_scale.data.steps.order import InOrder, Order
from unimol_scale.data.steps.planner import StepOrder, StepPlanner
from unimol_scale.data.steps.random_streams import MoleculeKeys
from unimol_scale.downstream.config import FinetuneTrainConfig, Inputs
from unimol_scale.downstream.compute import pair_budget
from unimol_scale.downstream.data.inputs import clean_input
from unimol_scale.model.encodings import ModelInput
from unimol_scale.model.presets import ModelConfig
from unimol_scale.store.schema import Float64
from unimol_scale.store.shards import StoreSplit

_PREFETCH = 8
# Rows that are cut into micro-batches together where their order does not matter; more rows need less padding.
_READ_TOGETHER = 1024


@dataclass(frozen=True, kw_only=True)
class LabelledSample:
    """One micro-batch.

    Attributes:
        input: what the model sees.
        label_BL: fp64, in the units of the table; NaN where missing.
        row_B: int64, row of the reader that each molecule is of.
        clean_BA3: float32, Å, the coordinates before noise; None: ``input`` has them without noise.
    """

    input: ModelInput
    label_BL: Tensor
    row_B: Tensor
    clean_BA3: Tensor | None = None


class RowReader:
    """Reads rows: each has a molecule of a store and labels of its own; several rows may have the same molecule.

    Args:
        split: of the store.
        position_R: int64, position in the split of the molecule of each row.
        labels_RL: NaN where missing.
        drop_hydrogens: remove hydrogens that the store has as atoms, since molecules from SMILES have none.
    """

    def __init__(
        self, split: StoreSplit, position_R: Int64, labels_RL: Float64, *, drop_hydrogens: bool = False
    ) -> None:
        assert len(position_R) == len(labels_RL) > 0
        assert position_R.min() >= 0, "a skipped row has no molecule"
        self._split = split
        self._position_R = position_R
        self._drops = drop_hydrogens
        self.labels_RL = labels_RL

    def __len__(self) -> int:
        return len(self._position_R)

    @property
    def largest(self) -> int:
        """Atoms of the largest molecule, with hydrogens if they are stored."""
        return int(self._split.sizes(self._position_R)[0].max())

    def num_atoms(self, molecule_B: Int64) -> Int32:
        """Return the atoms of rows, int32 [B]."""
        if self._drops:
            return heavy_counts(self._split.gather(self._position_R[molecule_B]))
        return self._split.sizes(self._position_R[molecule_B])[0]

    def prefetch(self, shards: Sequence[int]) -> None:
        """Do nothing: tables are small, and their molecules are on this machine."""

    def read(self, keys: MoleculeKeys) -> MoleculeBatch:
        """Return rows with their first conformers, padded."""
        columns = self._split.gather(self._position_R[keys.molecule_B])
        if self._drops:
            columns = drop_hydrogens(columns)
        return collate(dataclasses.replace(columns, labels=self.labels_RL[keys.molecule_B]))


@dataclass(frozen=True, kw_only=True)
class SampleMaker:
    """Turns clean molecules into samples, as a corruption does in pretraining. It is pickled for loader processes.

    Attributes:
        inputs: what the model sees.
        model: dimensions of the model.
        noise_std: of Gaussian noise on every coordinate, Å, another one in every epoch; 0: none.
    """

    inputs: Inputs
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
            input=clean_input(batch, self.inputs, self.model),
            label_BL=torch.from_numpy(batch.labels_BL),
            row_B=torch.from_numpy(keys.molecule_B),
            clean_BA3=clean_BA3,
        )


def training_batches(
    reader: RowReader, make_sample: SampleMaker, config: FinetuneTrainConfig, seed: int, device: torch.device
) -> StepLoader[LabelledSample]:
    """Return the loader of training steps: epochs in random order, as in pretraining.

    Raises:
        ConfigError: ``max_pairs`` does not hold the largest molecule.
    """
    max_pairs = pair_budget(config.max_pairs, device, reader.largest)
    batch_size = min(config.batch_size, len(reader))  # a step must not see a row several times
    order = Order([len(reader)], batch_size=batch_size, seed=seed)
    return _loader(reader, make_sample, order, max_pairs=max_pairs, workers=config.workers, seed=seed)


def each_row_once(
    reader: RowReader, make_sample: SampleMaker, max_pairs: int | None, device: torch.device
) -> Iterator[LabelledSample]:
    """Yield every row once, in micro-batches of molecules of similar size.

    Raises:
        ConfigError: ``max_pairs`` does not hold the largest molecule.
    """
    order = InOrder(len(reader), _READ_TOGETHER)
    budget = pair_budget(max_pairs, device, reader.largest)
    loader = _loader(reader, make_sample, order, max_pairs=budget, workers=0, seed=0)
    for samples in loader.steps(0, order.num_steps):
        yield from samples


def _loader(
    reader: RowReader, make_sample: SampleMaker, order: StepOrder, *, max_pairs: int, workers: int, seed: int
) -> StepLoader[LabelledSample]:
    planner = StepPlanner(reader, order, world_size=1, max_pairs=max_pairs)
    return StepLoader(planner, reader, make_sample, rank=0, seed=seed, workers=workers, prefetch=_PREFETCH)
