"""From a corrupted batch of integers and coordinates to the model's first atom and pair representations.

Shapes: B molecules, A atoms (padded), N = A + 1 nodes (virtual node first), D atom channels, P pair channels, S = 5
hops of a path, K kinds of bonds, M = S·K, R pairs of atoms, G Gaussians. Distances, their affine map and the Gaussian
kernel are computed in fp32 in any precision of the run: near 8 Å, steps of bf16 are as wide as the kernel's spacing.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimol_scale.data import vocabulary as vocab
from unimol_scale.data.relations import path_bonds
from unimol_scale.errors import StoreError
from unimol_scale.model.fused.fused_encodings import FusedAtomEncodingFunction, FusedPairEncodingFunction
from unimol_scale.model.fused.launching import MAX_NODES, suits_tables
from unimol_scale.model.kernels import GaussianKernelFunction
from unimol_scale.model.layers import Embedding, linear_parameters
from unimol_scale.model.native.functions import NativeAtomEncodingFunction, NativePairEncodingFunction
from unimol_scale.model.native.library import suits, suits_nodes
from unimol_scale.model.presets import ModelConfig
from unimol_scale.model.track_updates import count_nodes
from unimol_scale.store.schema import ATOM_VOCABULARIES, BOND_VOCABULARIES

# Bits of ``ModelInput.shown_BAA``: relations of a pair of atoms that enter the pair track.
SHOWN_PATH, SHOWN_EDGE, SHOWN_DISTANCE = 1, 2, 4
# Constants that the C code needs to encode atoms and pairs as the functions below do.
_ATOM_NUMBERS = (
    vocab.DEGREE_OFFSET, vocab.ATOM_FEATURE_OFFSET, vocab.ATOM_FEATURE_STRIDE, vocab.HIDDEN, vocab.RAW_HIDDEN
)  # fmt: skip
_PAIR_NUMBERS = (
    vocab.NO_BOND, vocab.BOND_FEATURE_OFFSET - 1, vocab.BOND_FEATURE_STRIDE, vocab.HIDDEN,
    vocab.PATH_OFFSET, vocab.PATH_HIDDEN,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelInput:
    """The backbone's input for a batch, after corruption. Padding atoms have token 0.

    Attributes:
        token_BA: uint8, atomic number, ``TOKEN_MASK`` or 0.
        atom_features_BA8: uint8, raw codes of the store, or ``RAW_HIDDEN``.
        degree_BA: uint8, number of bonds inside the molecule's graph, or ``RAW_HIDDEN``.
        bond_features_BAA3: uint8, 0 where there is no bond, otherwise raw code + 1.
        path_BAA: int16, shortest path in bonds, ``PATH_UNREACHABLE`` between fragments.
        hidden_B: bool, true for molecules whose atom, bond, degree and path features are all hidden.
        coordinates_BA3: fp32, Å; not read by a model without geometry.
        shown_BAA: uint8, bits ``SHOWN_…`` of the relations of each pair that enter the pair track; None: all of them.
        path_bonds_BAAS: uint8, ``relations.path_bonds`` of the molecules, read only by a model with ``edges: path``.
            None: such a model computes them itself on the CPU, and has to wait for its device.
    """

    token_BA: Tensor
    atom_features_BA8: Tensor
    degree_BA: Tensor
    bond_features_BAA3: Tensor
    path_BAA: Tensor
    hidden_B: Tensor
    coordinates_BA3: Tensor
    shown_BAA: Tensor | None = None
    path_bonds_BAAS: Tensor | None = None

    @property
    def valid_BA(self) -> Tensor:
        """Bool, true at real atoms."""
        return self.token_BA != vocab.TOKEN_PADDING


def check_input(batch: ModelInput) -> None:
    """Refuse an external batch whose integers have no embedding; batches from stores need no such check.

    Raises:
        StoreError: a token, feature, degree or path is out of its vocabulary, a molecule has no atoms or more than the
            path vocabulary allows, or a coordinate is not finite; the message names the molecule's position in the
            batch.
    """
    sizes_B = batch.valid_BA.sum(1)
    atom_8 = torch.tensor([len(values) for values in ATOM_VOCABULARIES.values()])
    bond_3 = torch.tensor([len(values) for values in BOND_VOCABULARIES.values()])
    max_degree = vocab.NUM_DEGREE_CODES - 1 - vocab.DEGREE_OFFSET
    ranges = (
        ("number of atoms", sizes_B, 1, vocab.MAX_PATH + 1),
        ("atomic number", batch.token_BA, 0, vocab.TOKEN_MASK),
        ("degree", batch.degree_BA, 0, max_degree),
        ("shortest path", batch.path_BAA, 0, vocab.PATH_UNREACHABLE),
        *_by_feature(batch.atom_features_BA8, list(ATOM_VOCABULARIES), atom_8 - 1),
        *_by_feature(batch.bond_features_BAA3, list(BOND_VOCABULARIES), bond_3),
    )
    for name, values, low, high in ranges:
        wrong = (values < low) | (values > high)
        if wrong.any():
            index = wrong.nonzero()[0].tolist()
            shown = f"{low} to {high - 1} and the mask {high}" if name == "atomic number" else f"{low} to {high}"
            raise StoreError(
                f"molecule {index[0]} of the batch: {name} {int(values[tuple(index)])} at {index[1:]} is out of range "
                f"(valid: {shown})"
            )
    finite_BA = torch.isfinite(batch.coordinates_BA3).all(-1) | ~batch.valid_BA
    if not finite_BA.all():
        molecule, atom = (~finite_BA).nonzero()[0].tolist()
        raise StoreError(f"molecule {molecule} of the batch: the coordinates of atom {atom} are not finite")


def _by_feature(values: Tensor, names: list[str], highest: Tensor) -> list[tuple[str, Tensor, int, int]]:
    return [(f"feature {name}", values[..., k], 0, int(highest[k])) for k, name in enumerate(names)]


def encode_atom_features(batch: ModelInput) -> Tensor:
    """Return the reference's integers [B, A, 8], int64: raw code v of feature k → v + 3 + 16k, hidden 1, padding 0."""
    k_8 = torch.arange(vocab.NUM_ATOM_FEATURES, device=batch.token_BA.device)
    code_BA8 = batch.atom_features_BA8.long() + vocab.ATOM_FEATURE_OFFSET + vocab.ATOM_FEATURE_STRIDE * k_8
    hidden_BA8 = batch.hidden_B[:, None, None] | (batch.atom_features_BA8 == vocab.RAW_HIDDEN)
    code_BA8 = torch.where(hidden_BA8, vocab.HIDDEN, code_BA8)
    return code_BA8 * batch.valid_BA.unsqueeze(-1)


def encode_degree(batch: ModelInput) -> Tensor:
    """Return the reference's integers [B, A], int64: degree + 2, hidden 1, padding 0."""
    hidden_BA = batch.hidden_B[:, None] | (batch.degree_BA == vocab.RAW_HIDDEN)
    code_BA = torch.where(hidden_BA, vocab.HIDDEN, batch.degree_BA.long() + vocab.DEGREE_OFFSET)
    return code_BA * batch.valid_BA


def encode_bonds(batch: ModelInput) -> Tensor:
    """Return the reference's integers [B, A, A, 3], int64: code v of feature k → v + 4 + 16k, no bond 2, hidden 1."""
    k_3 = torch.arange(vocab.NUM_BOND_FEATURES, device=batch.token_BA.device)
    stored_BAA3 = batch.bond_features_BAA3.long()
    code_BAA3 = stored_BAA3 - 1 + vocab.BOND_FEATURE_OFFSET + vocab.BOND_FEATURE_STRIDE * k_3
    code_BAA3 = torch.where(stored_BAA3 == 0, vocab.NO_BOND, code_BAA3)
    code_BAA3 = torch.where(batch.hidden_B[:, None, None, None], vocab.HIDDEN, code_BAA3)
    return code_BAA3 * _valid_pairs(batch).unsqueeze(-1)


def encode_bond_kinds(device: torch.device) -> Tensor:
    """Return the reference's integers [K, 3], int64, for every kind of bond; kind 0 is no bond, and the last is hidden.

    They are computed on the device, which would otherwise wait for a table from the host.
    """
    _, num_stereos, num_conjugated = (len(words) for words in BOND_VOCABULARIES.values())
    kind_K = torch.arange(vocab.NUM_BOND_KINDS, device=device) - 1  # see ``relations.bond_kinds``
    stereo_K, conjugated_K = kind_K // num_conjugated % num_stereos, kind_K % num_conjugated
    feature_K3 = torch.stack([kind_K // (num_stereos * num_conjugated), stereo_K, conjugated_K], dim=1)
    k_3 = torch.arange(vocab.NUM_BOND_FEATURES, device=device)
    code_K3 = feature_K3 + vocab.BOND_FEATURE_OFFSET + vocab.BOND_FEATURE_STRIDE * k_3
    code_K3[0] = vocab.NO_BOND
    return F.pad(code_K3, (0, 0, 0, 1), value=vocab.HIDDEN)


def with_path_bonds(batch: ModelInput) -> ModelInput:
    """Return a batch with the bonds along its paths, computing them if they are missing."""
    if batch.path_bonds_BAAS is not None:
        return batch
    kind_BAAS = path_bonds(batch.bond_features_BAA3.cpu().numpy(), batch.path_BAA.cpu().numpy())
    return replace(batch, path_bonds_BAAS=torch.from_numpy(kind_BAAS).to(batch.path_BAA.device))


def encode_path_bonds(batch: ModelInput) -> tuple[Tensor, Tensor]:
    """Return the kind of each hop, int32 [B, A, A, S], and its weight in the mean over hops, fp32 [B, A, A, S].

    A pair without a path, and an atom with itself, has one hop of kind 0 (no bond); in a hidden molecule the hop has
    the hidden kind. Positions beyond the end of a path have weight 0, and so does all padding.
    """
    kind_BAAS = with_path_bonds(batch).path_bonds_BAAS
    assert kind_BAAS is not None
    first_S = torch.arange(kind_BAAS.shape[-1], device=kind_BAAS.device) == 0
    hidden_B111 = batch.hidden_B[:, None, None, None]
    kind_BAAS = torch.where(hidden_B111, vocab.NUM_BOND_KINDS * first_S.int(), kind_BAAS.int())
    counted_BAAS = (kind_BAAS > 0) | first_S
    share_BAAS = counted_BAAS * _valid_pairs(batch).unsqueeze(-1) / counted_BAAS.sum(-1, keepdim=True)
    return kind_BAAS, share_BAAS


def encode_paths(batch: ModelInput) -> Tensor:
    """Return the reference's integers [B, A, A], int64: distance + 1, hidden 511, padding 0."""
    code_BAA = torch.where(batch.hidden_B[:, None, None], vocab.PATH_HIDDEN, batch.path_BAA.long() + vocab.PATH_OFFSET)
    return code_BAA * _valid_pairs(batch)


def encode_pair_types(batch: ModelInput, kind: str) -> tuple[Tensor, Tensor]:
    """Return the codes that select the distance map: [B, A] for the pair's first atom, [B, A] for its second.

    ``element`` takes the token as corrupted, so that a masked atom's element cannot be read off its distances;
    ``chirality`` takes the first encoded atom feature, as the public reference does. Both int64, 0 at padding.
    """
    type_BA = batch.token_BA.long() if kind == "element" else encode_atom_features(batch)[..., 0]
    valid_BA = batch.valid_BA
    first_BA = (type_BA + vocab.PAIR_TYPE_FIRST_OFFSET) * valid_BA
    return first_BA, (type_BA + vocab.PAIR_TYPE_SECOND_OFFSET) * valid_BA


def _valid_pairs(batch: ModelInput) -> Tensor:
    return batch.valid_BA[:, :, None] & batch.valid_BA[:, None, :]


def pairwise_distances(coordinates_BA3: Tensor) -> Tensor:
    """Return |r_i − r_j| [B, A, A] in Å, fp32, with a finite gradient on the diagonal (where it is exactly zero)."""
    delta_BAA3 = coordinates_BA3.float()[:, :, None] - coordinates_BA3.float()[:, None, :]
    square_BAA = delta_BAA3.square().sum(-1)
    # √ has an infinite slope at zero: replace zeros by ones for the root, and subtract them from the result.
    zero_BAA = square_BAA == 0
    distance_BAA: Tensor = torch.where(zero_BAA, 0.0, square_BAA.masked_fill(zero_BAA, 1.0).sqrt())
    return distance_BAA


class AtomEncoding(nn.Module):
    """Sum of token, feature and degree embeddings; a learned vector for the virtual node."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D = config.atom_width
        self.token = Embedding(vocab.NUM_TOKENS, D, padding_idx=0)
        self.features = Embedding(vocab.NUM_ATOM_CODES, D, padding_idx=0)
        self.degree = Embedding(vocab.NUM_DEGREE_CODES, D, padding_idx=0)
        self.virtual_node = Embedding(1, D)

    def forward(self, batch: ModelInput) -> Tensor:
        """Return [B, N, D]."""
        tables = (self.token.weight, self.degree.weight, self.features.weight, self.virtual_node.weight)
        if suits_nodes(*tables):
            codes = (batch.token_BA, batch.degree_BA, batch.atom_features_BA8, batch.hidden_B)
            native: Tensor = NativeAtomEncodingFunction.apply(codes, _ATOM_NUMBERS, *tables)  # type: ignore[no-untyped-call]
            return native
        B, A = batch.token_BA.shape
        if suits_tables(B * (A + 1), *tables):
            codes = (batch.token_BA, batch.degree_BA, batch.atom_features_BA8, batch.hidden_B.view(torch.uint8))
            fused: Tensor = FusedAtomEncodingFunction.apply(codes, *tables)  # type: ignore[no-untyped-call]
            return fused
        atom_BAD = self.token(batch.token_BA.long()) + self.degree(encode_degree(batch))
        atom_BAD = atom_BAD + self.features(encode_atom_features(batch)).sum(dim=2)
        virtual_B1D = self.virtual_node(batch.token_BA.new_zeros(B, 1, dtype=torch.long))
        return torch.cat([virtual_B1D, atom_BAD], dim=1)


class GaussianKernel(nn.Module):
    """Distances, transformed per pair type, expanded in fixed Gaussians and projected to the pair width."""

    centres_G: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        G = config.gaussians
        self.pair_type = config.pair_type
        # The map starts as the identity: each of a pair's two codes contributes half of the factor.
        self.scale = Embedding(vocab.NUM_PAIR_TYPES, 1, padding_idx=0, fill=0.5)
        self.shift = Embedding(vocab.NUM_PAIR_TYPES, 1, padding_idx=0, fill=0.0)
        self.hidden_weight, self.hidden_bias = linear_parameters(G, G, "he")
        self.out_weight, self.out_bias = linear_parameters(config.pair_width, G)
        self.max_distance = config.kernel_max_distance
        self.spacing = config.kernel_max_distance / (G - 1)
        self.register_buffer("centres_G", self._centres(G), persistent=False)

    def _centres(self, count: int) -> Tensor:
        # linspace, because DeepSpeed's construction context casts the result of torch.tensor to bf16, but not that of
        # linspace.
        return torch.linspace(0, self.max_distance, count, dtype=torch.float32)

    def reset_centres(self) -> None:
        """Compute the centres again, for a module that was built on the meta device."""
        self.centres_G = self._centres(len(self.centres_G)).to(self.out_weight.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "GaussianKernel":
        """Let ``.to``, ``.bfloat16`` and the like move the centres, but never change their dtype."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.centres_G.dtype != torch.float32:
            self.centres_G = self._centres(len(self.centres_G)).to(self.centres_G.device)
        return self

    def mapped_distances(self, batch: ModelInput) -> Tensor:
        """Return the distances after the affine map of their pair type, fp32 [B, A, A]."""
        first_BA, second_BA = encode_pair_types(batch, self.pair_type)
        scale_BAA = self.scale(first_BA).abs().float() + self.scale(second_BA).abs().float().transpose(1, 2)
        shift_BAA = self.shift(first_BA).float() + self.shift(second_BA).float().transpose(1, 2)
        mapped_BAA: Tensor = scale_BAA * pairwise_distances(batch.coordinates_BA3) + shift_BAA
        return mapped_BAA

    def forward(self, batch: ModelInput) -> Tensor:
        """Return [B, A, A, P]."""
        mapped_BAA = self.mapped_distances(batch)
        out_RP: Tensor = GaussianKernelFunction.apply(  # type: ignore[no-untyped-call]
            mapped_BAA.reshape(-1), self.centres_G, self.spacing,
            self.hidden_weight, self.hidden_bias, self.out_weight, self.out_bias,
        )  # fmt: skip
        return out_RP.view(*mapped_BAA.shape, -1)


class PairEncoding(nn.Module):
    """Mean of the bond-feature embeddings, plus path embedding, plus distance kernel; one vector for virtual pairs.

    With ``edges: path`` the first term is the mean over the hops s of w_s ∘ (mean of the bond-feature embeddings of hop
    s), with learned w_s that start at one. (In MoleBlend's public code w_s is a matrix between its attention heads.)
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        P = config.pair_width
        self.bonds = Embedding(vocab.NUM_BOND_CODES, P, padding_idx=0)
        if config.edges == "path":
            self.hop_scale_SP = nn.Parameter(torch.ones(vocab.NUM_HOPS, P))
        self.edges = config.edges
        self.path = Embedding(vocab.NUM_PATH_CODES, P, padding_idx=0)
        self.distance = GaussianKernel(config) if config.geometry else None
        self.virtual_pair = Embedding(1, P)

    def forward(self, batch: ModelInput) -> Tensor:
        """Return [B, N, N, P]."""
        if self._suits_one_pass(batch):
            return self._in_one_pass(batch)
        B, A = batch.token_BA.shape
        if self._suits_fused(batch):
            return self._fused(batch)
        bonds_BAAP = self._of_path(batch) if self.edges == "path" else self.bonds(encode_bonds(batch)).mean(dim=3)
        pair_BAAP = _shown(batch, SHOWN_EDGE, bonds_BAAP)
        pair_BAAP = pair_BAAP + _shown(batch, SHOWN_PATH, self.path(encode_paths(batch)))
        if self.distance is not None:
            pair_BAAP = pair_BAAP + _shown(batch, SHOWN_DISTANCE, self.distance(batch))
        virtual_P = self.virtual_pair(batch.token_BA.new_zeros(1, dtype=torch.long))
        pair_BNNP: Tensor = virtual_P.expand(B, A + 1, A + 1, -1).clone()
        pair_BNNP[:, 1:, 1:] = pair_BAAP
        return pair_BNNP

    def _suits_one_pass(self, batch: ModelInput) -> bool:
        return (
            self.distance is not None
            and self.edges == "bond"
            and suits(self.path.weight, self.distance.hidden_weight)
            and not batch.coordinates_BA3.requires_grad
        )

    def _suits_fused(self, batch: ModelInput) -> bool:
        kernel = self.distance
        return (
            kernel is not None
            and self.edges == "bond"
            and kernel.pair_type == "element"
            and batch.shown_BAA is None
            and batch.token_BA.shape[1] < MAX_NODES
            and suits_tables(len(batch.token_BA) * (batch.token_BA.shape[1] + 1) ** 2, *self._weights(kernel))
            and not batch.coordinates_BA3.requires_grad
        )

    def _fused(self, batch: ModelInput) -> Tensor:
        kernel = self.distance
        assert kernel is not None
        hidden_B = batch.hidden_B.view(torch.uint8)
        codes = (batch.token_BA, batch.bond_features_BAA3, batch.path_BAA, hidden_B)
        known = (batch.coordinates_BA3.float(), kernel.centres_G)
        pair_BNNP: Tensor = FusedPairEncodingFunction.apply(codes, known, kernel.spacing, *self._weights(kernel))  # type: ignore[no-untyped-call]
        return pair_BNNP

    def _weights(self, kernel: GaussianKernel) -> tuple[Tensor, ...]:
        return (
            kernel.hidden_weight, kernel.hidden_bias, kernel.out_weight, kernel.out_bias,
            self.bonds.weight, self.path.weight, kernel.scale.weight, kernel.shift.weight, self.virtual_pair.weight,
        )  # fmt: skip

    def _in_one_pass(self, batch: ModelInput) -> Tensor:
        kernel = self.distance
        assert kernel is not None
        types = [types_BA.int() for types_BA in encode_pair_types(batch, kernel.pair_type)]
        shown_BAA = batch.path_BAA.new_empty(0) if batch.shown_BAA is None else batch.shown_BAA
        codes = (batch.bond_features_BAA3, batch.path_BAA, shown_BAA, batch.hidden_B, *types)
        known = (batch.coordinates_BA3.float(), kernel.centres_G, kernel.centres_G.new_full((1,), kernel.spacing))
        nodes_B = count_nodes(F.pad(batch.valid_BA, (1, 0), value=True))
        pair_BNNP: Tensor = NativePairEncodingFunction.apply(  # type: ignore[no-untyped-call]
            nodes_B, known, codes, _PAIR_NUMBERS, *self._weights(kernel)
        )
        return pair_BNNP

    def _of_path(self, batch: ModelInput) -> Tensor:
        """Return the mean over the bonds along a path, [B, A, A, P], without tensors over several hops or features."""
        kind_KP = self.bonds(encode_bond_kinds(batch.token_BA.device)).mean(dim=1)
        table_MP = (self.hop_scale_SP.unsqueeze(1) * kind_KP).flatten(0, 1)
        kind_BAAS, share_BAAS = encode_path_bonds(batch)
        row_BAAS = kind_BAAS + len(kind_KP) * torch.arange(kind_BAAS.shape[-1], device=kind_BAAS.device).int()
        mean_RP = F.embedding_bag(
            row_BAAS.flatten(0, 2), table_MP, mode="sum", per_sample_weights=share_BAAS.flatten(0, 2).to(table_MP.dtype)
        )
        return mean_RP.view(*row_BAAS.shape[:3], -1)


def _shown(batch: ModelInput, relation: int, embedded_BAAP: Tensor) -> Tensor:
    """Return the embeddings where that relation is shown, and exact zeros without a gradient elsewhere."""
    if batch.shown_BAA is None:
        return embedded_BAAP
    return torch.where((batch.shown_BAA & relation).bool().unsqueeze(-1), embedded_BAAP, 0.0)
