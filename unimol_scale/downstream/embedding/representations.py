"""Computes representations of molecules, in the order of the rows, with the loader of pretraining.

Shapes: R rows, C conformers of all rows, B molecules of a micro-batch, n atoms of one molecule, A (padded), D atom
channels, P pair channels.
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
from unimol_scale.downstream.data.inputs import check_conformers, require_conformers, resolve_inputs
from unimol_scale.downstream.embedding.pooling import pool
from unimol_scale.errors import ConfigError, nearest
from unimol_scale.model.backbone import Representation, TwoTrackBackbone
from unimol_scale.store.schema import Float32, Int64
from unimol_scale.store.shards import StoreSplit

Kind = Literal["molecule", "atom", "pair"]

# Rows of a step: enough for micro-batches of molecules of similar size, few enough for the results to fit in memory.
_TOGETHER: dict[Kind, int] = {"molecule": 1024, "atom": 1024, "pair": 32}
_PREFETCH = 8


@dataclass(frozen=True, kw_only=True)
class RepresentationConfig:
    """Settings of a representation.

    Attributes:
        kind: ``molecule`` [D], ``atom`` [n, D] or ``pair`` [n, n, P]. Atoms and pairs come without the virtual node, in
            the order of the store's canonical SMILES.
        pooling: how atoms become one vector of the molecule.
        inputs: what the model sees; None: everything it can.
        max_pairs: most padded pairs Σ(n+1)² of one micro-batch: the memory budget. None: what suits the device.
        workers: loader processes; 0 prepares batches in this one.
        conformers: most of a molecule whose representations are averaged. They have the same atoms in the same order,
            so atoms and pairs are averaged as molecules are, and the mean of the atoms stays the molecule's vector.
    """

    kind: Kind = "molecule"
    pooling: Pooling = "mean"
    inputs: Inputs | None = None
    max_pairs: int | None = None
    workers: int = 0
    conformers: int = 1

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
        if self.conformers < 1:
            raise ConfigError(f"conformers must be at least 1, got {self.conformers}")


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
        drop_hydrogens: remove hydrogens that the store has as atoms, for a model that sees heavy atoms only.

    Yields:
        For each of the next rows its array, fp32.

    Raises:
        ConfigError: 3D was asked for and the model sees no geometry, or a molecule exceeds ``max_pairs``.
        StoreError: 3D was asked for and the store has 2D depictions only.
        RunError: memory is full.
    """
    assert not backbone.training, "dropout would change the result"
    inputs = resolve_inputs(config.inputs, backbone.config)
    check_conformers(config.conformers, inputs)
    if inputs != "2d":
        require_conformers(split)
    if not len(position_R):
        return
    unlabelled = np.empty((len(position_R), 0))
    rows = RowReader(split, position_R, unlabelled, drop_hydrogens=drop_hydrogens, conformers=config.conformers)
    reader, row_C = rows.every_conformer()
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
    left: list[Float32] = []  # conformers of a row whose others are in the next step
    first = 0
    for _, parts in itertools.groupby(done, key=lambda part: part[0]):
        arrays = {place: array for _, places, some in parts for place, array in zip(places, some, strict=True)}
        left += [arrays[place] for place in sorted(arrays)]
        means, used = _means(left, row_C[first : first + len(left) + 1])
        if means:
            yield means
        left, first = left[used:], first + used


def _means(arrays: Sequence[Float32], row_C: Int64) -> tuple[list[Float32], int]:
    """Return the mean over conformers of each row of which all conformers are there, and the conformers used.

    Args:
        arrays: of the first conformers, in their order.
        row_C: int64, the row of each of these conformers and of the next one, if there is one.
    """
    last_C = np.flatnonzero(np.diff(row_C, append=-1)) + 1  # behind the conformers of each row
    means: list[Float32] = []
    used = 0
    for end in last_C[last_C <= len(arrays)].tolist():
        means.append(_mean(arrays[used:end]))
        used = end
    return means, used


def _mean(arrays: Sequence[Float32]) -> Float32:
    if len(arrays) == 1:
        return arrays[0]
    mean: Float32 = np.stack(arrays).mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def represent_all(
    backbone: TwoTrackBackbone, split: StoreSplit, position_R: Int64, config: RepresentationConfig
) -> list[Float32]:
    """Return the representations of all rows; see ``represent``."""
    return list(itertools.chain.from_iterable(represent(backbone, split, position_R, config)))


@explain_full_memory
@torch.inference_mode()
def _represented(backbone: TwoTrackBackbone, sample: LabelledSample, config: RepresentationConfig) -> list[Float32]:
    device = next(backbone.parameters()).device
    seen: Representation = backbone(to_device(sample.input, device))
    if config.kind == "molecule":
        return list(_array(pool(seen, config.pooling)))
    num_atoms_B = sample.input.valid_BA.sum(1).tolist()
    if config.kind == "atom":
        atom_BAD = _array(seen.atom_BND[:, 1:])
        return [atom_BAD[at, :n].copy() for at, n in enumerate(num_atoms_B)]
    pair_BAAP = _array(seen.pair_BNNP[:, 1:, 1:])
    return [pair_BAAP[at, :n, :n].copy() for at, n in enumerate(num_atoms_B)]


def _array(tensor: Tensor) -> Float32:
    array: Float32 = tensor.float().cpu().numpy()
    return array
