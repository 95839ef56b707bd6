"""Computes representations of molecules, in the order of the rows, with the loader of pretraining.

Shapes: R rows, B molecules of a micro-batch, n atoms of one molecule, A (padded), D atom channels, P pair channels,
L layers, H heads.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from unimol_scale.data.loader import StepLoader
from unimol_scale.data.steps.order import InOrder
from unimol_scale.data.steps.planner import OneSizePlanner, StepPlanner
from unimol_scale.data.transfer import to_device
from unimol_scale.downstream.compute import explain_full_memory, map_concurrently, pair_budget
from unimol_scale.downstream.config import Inputs, Pooling
from unimol_scale.downstream.data.batches import LabelledSample, RowReader, SampleMaker
from unimol_scale.downstream.data.inputs import require_conformers, resolve_inputs
from unimol_scale.downstream.embedding.pooling import pool
from unimol_scale.errors import ConfigError, nearest
from unimol_scale.model.backbone import Representation, TwoTrackBackbone
from unimol_scale.model.encodings import ModelInput
from unimol_scale.store.schema import Float32, Int64
from unimol_scale.store.shards import StoreSplit

Kind = Literal["molecule", "atom", "pair", "attention"]

# Rows of a step: enough for micro-batches of molecules of similar size, few enough for the results to fit in memory.
_TOGETHER: dict[Kind, int] = {"molecule": 1024, "atom": 1024, "pair": 32, "attention": 8}
_PREFETCH = 8


@dataclass(frozen=True, kw_only=True)
class RepresentationConfig:
    """Settings of a representation.

    Attributes:
        kind: ``molecule`` [D], ``atom`` [n, D], ``pair`` [n, n, P] or ``attention`` [n, n, L·H]. Atoms and pairs come
            without the virtual node, in the order of the store's canonical SMILES. Attention is what each head takes
            the softmax of, q·k/√d plus the head's bias for the pair, of the first atom's query and the second one's
            key; channel l·H + h is head h of layer l, from 0.
        pooling: how atoms become one vector of the molecule.
        inputs: what the model sees; None: everything it can.
        max_pairs: most padded pairs Σ(n+1)² of one micro-batch: the memory budget. None: what suits the device.
        workers: loader processes; 0 prepares batches in this one.
    """

    kind: Kind = "molecule"
    pooling: Pooling = "mean"
    inputs: Inputs | None = None
    max_pairs: int | None = None
    workers: int = 0

    def __post_init__(self) -> None:
        for name, value, valid in (
            ("kind", self.kind, get_args(Kind)),
            ("pooling", self.pooling, get_args(Pooling)),
            ("inputs", self.inputs, (None, *get_args(Inputs))),
        ):
            if value not in valid:
                raise ConfigError(f"unknown {name} {value!r}; {nearest(str(value), filter(None, valid))}")
        if self.max_pairs is not None and self.max_pairs < 1:
            raise ConfigError(f"max_pairs must be at least 1, got {self.max_pairs}")
        if self.workers < 0:
            raise ConfigError(f"workers must not be negative, got {self.workers}")


def represent(
    backbone: TwoTrackBackbone,
    split: StoreSplit,
    position_R: Int64,
    config: RepresentationConfig,
    *,
    drop_hydrogens: bool = False,
) -> Iterator[list[Float32]]:
    """Yield the representations of rows, in their order, some rows at a time.

    The result of a row does not depend on the other rows, except for rounding. Outputs of released models
    (``normalize_by: padded``) depend on padding, so a micro-batch has molecules of one size only; an implementation
    that pads gives other values.

    Args:
        backbone: in evaluation mode; it computes on the device and in the dtype of its parameters.
        split: of a store.
        position_R: int64, position in the split of the molecule of each row.
        config: which representation.
        drop_hydrogens: remove hydrogens that the store has as atoms, since molecules from SMILES have none.

    Yields:
        For each of the next rows its array, fp32.

    Raises:
        ConfigError: 3D was asked for and the model sees no geometry, or a molecule exceeds ``max_pairs``.
        StoreError: 3D was asked for and the store has 2D depictions only.
        RunError: memory is full.
    """
    assert not backbone.training, "dropout would change the result"
    inputs = resolve_inputs(config.inputs, backbone.config)
    if inputs != "2d":
        require_conformers(split)
    if not len(position_R):
        return
    reader = RowReader(split, position_R, np.empty((len(position_R), 0)), drop_hydrogens=drop_hydrogens)
    order = InOrder(len(reader), _TOGETHER[config.kind])
    planner_type = OneSizePlanner if backbone.config.normalize_by == "padded" else StepPlanner
    max_pairs = pair_budget(config.max_pairs, next(backbone.parameters()).device, reader.largest)
    planner = planner_type(reader, order, world_size=1, max_pairs=max_pairs)
    loader: StepLoader[LabelledSample] = StepLoader(
        planner,
        reader,
        SampleMaker(inputs=inputs, model=backbone.config),
        rank=0,
        seed=0,
        workers=config.workers,
        prefetch=_PREFETCH,
    )
    samples = ((step, sample) for step, cut in enumerate(loader.steps(0, order.num_steps)) for sample in cut)

    def work(one: tuple[int, LabelledSample]) -> tuple[int, list[int], list[Float32]]:
        step, sample = one
        return step, sample.row_B.tolist(), _represented(backbone, sample, config)

    done = map_concurrently(work, samples, next(backbone.parameters()).device)
    for _, parts in itertools.groupby(done, key=lambda part: part[0]):
        arrays = {row: array for _, rows, some in parts for row, array in zip(rows, some, strict=True)}
        yield [arrays[row] for row in sorted(arrays)]


def represent_all(
    backbone: TwoTrackBackbone, split: StoreSplit, position_R: Int64, config: RepresentationConfig
) -> list[Float32]:
    """Return the representations of all rows; see ``represent``."""
    return list(itertools.chain.from_iterable(represent(backbone, split, position_R, config)))


@explain_full_memory
@torch.inference_mode()
def _represented(backbone: TwoTrackBackbone, sample: LabelledSample, config: RepresentationConfig) -> list[Float32]:
    device = next(backbone.parameters()).device
    shown, num_atoms_B = to_device(sample.input, device), sample.input.valid_BA.sum(1).tolist()
    if config.kind == "attention":
        return _attention(backbone, shown, num_atoms_B)
    seen: Representation = backbone(shown)
    if config.kind == "molecule":
        return list(_array(pool(seen, config.pooling)))
    if config.kind == "atom":
        atom_BAD = _array(seen.atom_BND[:, 1:])
        return [atom_BAD[at, :n].copy() for at, n in enumerate(num_atoms_B)]
    pair_BAAP = _array(seen.pair_BNNP[:, 1:, 1:])
    return [pair_BAAP[at, :n, :n].copy() for at, n in enumerate(num_atoms_B)]


def _attention(backbone: TwoTrackBackbone, shown: ModelInput, num_atoms_B: Sequence[int]) -> list[Float32]:
    """Return [n, n, L·H] of every molecule; the device holds the scores of one layer at a time."""
    H, layer = backbone.config.heads, itertools.count()
    arrays = [np.empty((n, n, backbone.config.layers * H), np.float32) for n in num_atoms_B]

    def keep(score_BHNN: Tensor) -> None:
        first = next(layer) * H
        score_BAAH = _array(score_BHNN[:, :, 1:, 1:].permute(0, 2, 3, 1))
        for array, score_AAH, n in zip(arrays, score_BAAH, num_atoms_B, strict=True):
            array[:, :, first : first + H] = score_AAH[:n, :n]

    backbone(shown, keep)
    return arrays


def _array(tensor: Tensor) -> Float32:
    array: Float32 = tensor.float().cpu().numpy()
    return array
