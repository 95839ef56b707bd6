"""Runs a model on the batch of a reference, and compares every output with that of the reference.

Differences are relative: the largest absolute difference divided by the largest absolute value of the reference.
Padding, where values are arbitrary, is left out. Integers must be equal.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from unimol_scale.checkpoints.reference import Array, Reference
from unimol_scale.data.transfer import to_device
from unimol_scale.errors import CheckpointError, nearest
from unimol_scale.model import encodings
from unimol_scale.model.accounting import DENOISE_HEADS
from unimol_scale.model.encodings import ModelInput, pairwise_distances
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.model.official.released_weights import to_official
from unimol_scale.objectives.base import total_loss
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseObjective

DEFAULT_TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 5e-2}
WEIGHTS = {"token": 1.0, "coordinate": 1.0, "distance": 1.0}  # weights of the loss terms in the reference
LOSSES = {"masked_token_loss": "token", "coord_loss": "coordinate", "dist_loss": "distance"}
# Gradients that are zero by symmetry (that of a bias added to every key) are rounding noise on both sides. Differences
# of norms are therefore divided by at least this fraction of the largest norm. In bf16 all small gradients are noisy:
# rounding the weights changes the gradient of the distance map, a sum over all pairs whose terms cancel, by 8 %.
# Therefore all differences are divided by the largest norm there.
GRADIENT_FLOOR = {torch.float32: 5e-3, torch.bfloat16: 1.0}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Difference of one output from the reference.

    Attributes:
        output: name of the output.
        value: relative difference; for integers, how many are unequal; None if the reference lacks this output.
        exact: whether the value must be 0.
        note: where the difference is largest.
    """

    output: str
    value: float | None
    exact: bool = False
    note: str = ""

    def within(self, tolerance: float) -> bool:
        """Return whether the difference is within the tolerance; True if the reference lacks this output."""
        return self.value is None or self.value <= (0.0 if self.exact else tolerance)  # False for NaN


def cast_parameters(model: HeadedModel, dtype: torch.dtype) -> HeadedModel:
    """Cast the parameters in place, as a training engine does; the centres of the Gaussian kernel are not cast."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def compare(model: HeadedModel, reference: Reference) -> list[Difference]:
    """Compare every integer, output, loss and gradient norm of a reference with that of the model, in this order.

    Args:
        model: the model, in evaluation mode; the comparison uses the dtype and device of its parameters. Its gradients
            are overwritten.
        reference: the return value of ``read_reference``.

    Raises:
        CheckpointError: the model does not have the heads of a released one, the shape of an output differs, or the
            gradient norms belong to other tensors.
    """
    if model.heads != DENOISE_HEADS:
        raise CheckpointError(f"only a model with the heads of Uni-Mol2 can be compared; this one has {model.heads}")
    reference = replace(reference, sample=to_device(reference.sample, next(model.parameters()).device))
    return [
        *_compare_integers(model, reference),
        *_compare_outputs(model, reference),
        *_compare_losses(model, reference),
    ]


def _codes(batch: ModelInput, pair_type: str) -> dict[str, Tensor]:
    first_BA, second_BA = encodings.encode_pair_types(batch, pair_type)
    pairs_BAA = batch.valid_BA[:, :, None] & batch.valid_BA[:, None]
    types = (first_BA[:, :, None].expand(pairs_BAA.shape), second_BA[:, None].expand(pairs_BAA.shape))
    return {
        "atom_feat": encodings.encode_atom_features(batch),
        "degree": encodings.encode_degree(batch),
        "edge_feat": encodings.encode_bonds(batch),
        "shortest_path": encodings.encode_paths(batch),
        "pair_type": torch.stack(types, dim=-1) * pairs_BAA[..., None],
    }


def _compare_integers(model: HeadedModel, reference: Reference) -> Iterator[Difference]:
    batch = reference.sample.input
    sizes = batch.valid_BA.sum(1).tolist()
    codes = {name: code.cpu().numpy() for name, code in _codes(batch, model.backbone.config.pair_type).items()}
    for name, code in codes.items():
        atom_axes = 1 if name in ("atom_feat", "degree") else 2
        unequal, note, seen = 0, "", False
        if name in reference.batch:
            seen = True
            unequal += _unequal(code, reference.batch[name], f"batch/{name}")
            note = "in the batch" if unequal else ""
        for index, size in enumerate(sizes):
            if (key := f"{index}/{name}") in reference.features:
                seen = True
                if extra := _unequal(code[index][(slice(size),) * atom_axes], reference.features[key], key):
                    note = note or f"in the features of molecule {index}"
                    unequal += extra
        yield Difference(output=f"integers {name}", value=float(unequal) if seen else None, exact=True, note=note)


def _unequal(found: Array, expected: Array, name: str) -> int:
    if found.shape != expected.shape:
        raise CheckpointError(f"the reference's {name} has shape {expected.shape}, the batch needs {found.shape}")
    return int((found != expected).sum())


def _compare_outputs(model: HeadedModel, reference: Reference) -> Iterator[Difference]:
    sample = reference.sample
    with torch.no_grad():
        found = model.backbone(sample.input)
        logits_MV = model.token_head(found.atom_BND[:, 1:][sample.masked_BA])
        predicted_BA3 = model.coordinate_head(found, sample.input.coordinates_BA3)
    nodes_BN, atoms_BA = found.valid_BN, sample.input.valid_BA
    everything_M = torch.ones(len(logits_MV), dtype=torch.bool, device=logits_MV.device)
    outputs = {
        "x": ("atom representation (x)", found.atom_BND, nodes_BN),
        "pair": ("pair representation (pair)", found.pair_BNNP, nodes_BN[:, :, None] & nodes_BN[:, None]),
        "logits_masked": ("masked-token logits", logits_MV, everything_M),
        "coord": ("coordinates (coord)", predicted_BA3, atoms_BA),
        "distance": (
            "distances (distance)", pairwise_distances(predicted_BA3), atoms_BA[:, :, None] & atoms_BA[:, None],
        ),
    }  # fmt: skip
    for key, (label, value, real) in outputs.items():
        if key not in reference.outputs:
            yield Difference(output=label, value=None)
            continue
        expected = reference.outputs[key]
        if tuple(value.shape) != expected.shape:
            raise CheckpointError(
                f"the reference's {key!r} has shape {expected.shape}, this model returns {tuple(value.shape)}"
            )
        if not real.any():
            yield Difference(output=label, value=0.0, note="empty")
            continue
        real = real.cpu()
        mine = value.cpu().double()[real].numpy()
        theirs = expected.astype(np.float64)[real.numpy()]
        error = np.abs(mine - theirs)
        first = int(real.nonzero()[int(error.reshape(len(error), -1).max(1).argmax())][0])
        note = f"molecule {first}" if key != "logits_masked" else f"masked token {first}"
        yield Difference(output=label, value=_ratio(float(error.max()), float(np.abs(theirs).max())), note=note)


def _compare_losses(model: HeadedModel, reference: Reference) -> Iterator[Difference]:
    sample, norms = reference.sample, reference.gradient_norms
    model.zero_grad(set_to_none=True)
    with torch.set_grad_enabled(norms is not None):
        sums = DenoiseObjective(DenoiseConfig()).score(model, sample)
        loss = total_loss(sums, sample.counts, WEIGHTS)
    found = {name: sums[term].item() / max(sample.counts[term], 1.0) for name, term in LOSSES.items()}
    for name, value in {"loss": loss.item(), **found}.items():
        if name in reference.outputs:
            expected = float(reference.outputs[name])
            yield Difference(output=name, value=_ratio(abs(value - expected), abs(expected)))
        else:
            yield Difference(output=name, value=None)
    if norms is None:
        yield Difference(output="gradient norms", value=None)
        return
    torch.autograd.backward(loss)
    yield _compare_gradients(model, norms)


def _compare_gradients(model: HeadedModel, norms: Mapping[str, float]) -> Difference:
    state = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
    gradients = to_official(state, model.backbone.config, constants=False)
    for name in norms:
        if name not in gradients:
            raise CheckpointError(f"the reference has a gradient norm of {name!r}; {nearest(name, gradients)}")
    for name in gradients:
        if name not in norms:
            raise CheckpointError(f"the reference has no gradient norm of the tensor {name!r}")
    floor = GRADIENT_FLOOR[next(model.parameters()).dtype] * max(norms.values())
    differences = {
        name: _ratio(abs(gradient.double().norm().item() - norms[name]), max(norms[name], floor))
        for name, gradient in gradients.items()
    }
    worst = max(differences, key=lambda name: math.inf if math.isnan(differences[name]) else differences[name])
    label = f"gradient norms of {len(gradients)} tensors"
    return Difference(output=label, value=differences[worst], note=worst)


def _ratio(error: float, scale: float) -> float:
    if error == 0.0:
        return 0.0
    return error / scale if scale else math.inf
