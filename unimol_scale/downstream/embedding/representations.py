"""Computes representations of molecules, in the order of the rows, with the loader of pretraining.

Shapes: R rows, C conformers of all rows, B molecules of a micro-batch, n atoms of one molecule, A (padded), D atom
channels, V channels of a molecule's vector, P pair channels, L layers, H heads.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from unimol_scale.data.input_views import Inputs, InputsSeen
from unimol_scale.data.loader import StepLoader
from unimol_scale.data.steps.order import InOrder
from unimol_scale.data.steps.planner import OneSizePlanner, StepPlanner
from unimol_scale.data.transfer import to_device
from unimol_scale.downstream.compute import explain_full_memory, map_concurrently, pair_budget
from unimol_scale.downstream.config import Pooling
from unimol_scale.downstream.data.batches import LabelledSample, RowReader, SampleMaker
from unimol_scale.downstream.data.inputs import check_conformers, choose_inputs, require_conformers
from unimol_scale.downstream.embedding.pooling import inner_depths, pool
from unimol_scale.errors import ConfigError, nearest
from unimol_scale.model.backbone import Representation, TwoTrackBackbone
from unimol_scale.model.encodings import ModelInput
from unimol_scale.store.schema import Float32, Int64
from unimol_scale.store.shards import StoreSplit

Kind = Literal["molecule", "atom", "pair", "attention"]

# Rows per step: enough for micro-batches of molecules of similar size, few enough for the results to fit in memory.
_TOGETHER: dict[Kind, int] = {"molecule": 1024, "atom": 1024, "pair": 32, "attention": 8}
_PREFETCH = 8


@dataclass(frozen=True, kw_only=True)
class RepresentationConfig:
    """Settings of a representation.

    Attributes:
        kind: ``molecule`` [V], ``atom`` [n, D], ``pair`` [n, n, P] or ``attention`` [n, n, L·H]. Atoms and pairs
            exclude the virtual node and are in the order of the store's canonical SMILES. Attention scores are the
            inputs of each head's softmax, q·k/√d plus the head's bias for the pair, with the query q of the first atom
            and the key k of the second; channel l·H + h is head h of layer l, counted from 0.
        pooling: how atoms become the vector of a molecule, and how many channels V it has; see ``pool``.
        inputs: what the model sees; None: the richest input that it was pretrained on, or everything that it can see.
        max_pairs: largest number of padded pairs Σ(n+1)² in a micro-batch, which limits the memory used; None: a number
            that suits the device.
        workers: number of loader processes; 0 prepares batches in the main process.
        conformers: largest number of conformers per molecule whose representations are averaged. Their atoms are in the
            same order, so atoms and pairs can be averaged too. With ``mean``, the mean over atoms is the
            molecule's vector.
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
    seen: InputsSeen | None = None,
    drop_hydrogens: bool = False,
) -> Iterator[list[Float32]]:
    """Yield the representations of rows in their order, some rows at a time.

    The result of a row does not depend on the other rows, except for rounding. Outputs of released models
    (``normalize_by: padded``) depend on padding, so their micro-batches hold molecules of a single size; an
    implementation that pads returns different values.

    Args:
        backbone: the model in evaluation mode; it computes on the device and in the dtype of its parameters.
        split: split of a store that holds the molecules.
        position_R: position of each row's molecule in the split, int64.
        config: the kind of representation.
        seen: the inputs that the model was pretrained on, whose form is used; None if they are not known.
        drop_hydrogens: remove hydrogens that are atoms in the store, for a model that sees only heavy atoms.

    Yields:
        The arrays of the next rows, float32.

    Raises:
        ConfigError: 3D was requested but the model sees no geometry, or a molecule exceeds ``max_pairs``.
        StoreError: 3D was requested but the store has only 2D depictions.
        RunError: memory is full.
    """
    assert not backbone.training, "dropout would change the result"
    chosen = choose_inputs(config.inputs, backbone.config, seen)
    check_conformers(config.conformers, chosen.inputs)
    if chosen.inputs != "2d":
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
        SampleMaker(view=chosen.view, model=backbone.config),
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
    left: list[Float32] = []  # conformers of a row whose other conformers are in the next step
    first = 0
    for _, parts in itertools.groupby(done, key=lambda part: part[0]):
        arrays = {place: array for _, places, some in parts for place, array in zip(places, some, strict=True)}
        left += [arrays[place] for place in sorted(arrays)]
        means, used = _means(left, row_C[first : first + len(left) + 1])
        if means:
            yield means
        left, first = left[used:], first + used


def _means(arrays: Sequence[Float32], row_C: Int64) -> tuple[list[Float32], int]:
    """Return the means over conformers of the rows that are complete, and the number of conformers used.

    Args:
        arrays: representations of the first conformers, in order.
        row_C: the row of each of these conformers and of the next one, if there is one, int64.
    """
    last_C = np.flatnonzero(np.diff(row_C, append=-1)) + 1  # index after the conformers of each row
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
    backbone: TwoTrackBackbone,
    split: StoreSplit,
    position_R: Int64,
    config: RepresentationConfig,
    *,
    seen: InputsSeen | None = None,
) -> list[Float32]:
    """Return the representations of all rows; see ``represent``."""
    return list(itertools.chain.from_iterable(represent(backbone, split, position_R, config, seen=seen)))


@explain_full_memory
@torch.inference_mode()
def _represented(backbone: TwoTrackBackbone, sample: LabelledSample, config: RepresentationConfig) -> list[Float32]:
    device = next(backbone.parameters()).device
    shown, num_atoms_B = to_device(sample.input, device), sample.input.valid_BA.sum(1).tolist()
    if config.kind == "attention":
        return _attention(backbone, shown, num_atoms_B)
    inner = inner_depths(backbone.config, config.pooling) if config.kind == "molecule" else ()
    seen: Representation = backbone(shown, inner=inner)
    if config.kind == "molecule":
        return list(_array(pool(seen, config.pooling)))
    if config.kind == "atom":
        atom_BAD = _array(seen.atom_BND[:, 1:])
        return [atom_BAD[at, :n].copy() for at, n in enumerate(num_atoms_B)]
    pair_BAAP = _array(seen.pair_BNNP[:, 1:, 1:])
    return [pair_BAAP[at, :n, :n].copy() for at, n in enumerate(num_atoms_B)]


def _attention(backbone: TwoTrackBackbone, shown: ModelInput, num_atoms_B: Sequence[int]) -> list[Float32]:
    """Return the scores [n, n, L·H] of every molecule; the device holds those of one layer at a time."""
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
