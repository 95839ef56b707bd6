"""The denoising model in textbook form, with which model_step.py compares the model.

Source: the formulas of arXiv 2406.14969 and of its public reference. One module per formula, without regard to
speed: the outer product is materialised and mapped by one Linear (recomputed in the backward pass, as the reference
does), q, k, v and the triangle's maps are separate, masks and relative positions are materialised per head. Parameters
have the released names, so ``load_state_dict(to_official(...))`` makes it the same function as ``DenoiseModel``; a test
compares loss and gradients. Integer encodings and losses are the project's own. No dropout: it must be 0 in
both. Imports model/encodings.py and objectives/denoise.py.

Shapes: B molecules, A atoms, N = A + 1 nodes (virtual node first), D atom channels, P pair channels, H heads, h hidden
pair channels, d channels of one head, M masked atoms.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unimol_scale.data import vocabulary as vocab
from unimol_scale.model.encodings import (
    ModelInput,
    encode_atom_features,
    encode_bonds,
    encode_degree,
    encode_pair_types,
    encode_paths,
)
from unimol_scale.model.presets import ModelConfig
from unimol_scale.objectives.denoise import DenoiseSample, coordinate_loss, distance_loss

# The reference's constants.
OUTER_PRODUCT_EPSILON = 1e-3
REFERENCE_PI = 3.14159


class AtomFeature(nn.Module):
    """Sum of token, degree and feature embeddings; a learned vector in front for the virtual node."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.atom_encoder = nn.Embedding(vocab.NUM_ATOM_CODES, config.atom_width, padding_idx=0)
        self.degree_encoder = nn.Embedding(vocab.NUM_DEGREE_CODES, config.atom_width, padding_idx=0)
        self.vnode_encoder = nn.Embedding(1, config.atom_width)

    def forward(self, batch: ModelInput, token_BAD: Tensor) -> Tensor:
        """Return [B, N, D]."""
        atom_BAD = token_BAD + self.degree_encoder(encode_degree(batch))
        atom_BAD = atom_BAD + self.atom_encoder(encode_atom_features(batch)).sum(dim=-2)
        virtual_B1D = self.vnode_encoder.weight.unsqueeze(0).repeat(len(atom_BAD), 1, 1)
        return torch.cat([virtual_B1D, atom_BAD], dim=1)


class EdgeFeature(nn.Module):
    """Mean of the bond-feature embeddings plus path embedding plus distance kernel; one vector for virtual pairs."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.edge_encoder = nn.Embedding(vocab.NUM_BOND_CODES, config.pair_width, padding_idx=0)
        self.shorest_path_encoder = nn.Embedding(vocab.NUM_PATH_CODES, config.pair_width, padding_idx=0)
        self.vnode_virtual_distance = nn.Embedding(1, config.pair_width)

    def forward(self, batch: ModelInput, distance_BAAP: Tensor) -> Tensor:
        """Return [B, N, N, P]."""
        B, A = batch.token_BA.shape
        pair_BAAP = self.edge_encoder(encode_bonds(batch)).mean(dim=-2)
        pair_BAAP = pair_BAAP + self.shorest_path_encoder(encode_paths(batch)) + distance_BAAP
        virtual = self.vnode_virtual_distance.weight
        column_BA1P = virtual.view(1, 1, 1, -1).expand(B, A, 1, -1)
        row_B1NP = virtual.view(1, 1, 1, -1).expand(B, 1, A + 1, -1)
        return torch.cat([row_B1NP, torch.cat([column_BA1P, pair_BAAP], dim=2)], dim=1)


class GaussianLayer(nn.Module):
    """Normal densities of the mapped distance around fixed centres."""

    mean: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pair_type = config.pair_type
        self.std = config.kernel_max_distance / (config.gaussians - 1)
        self.register_buffer("mean", torch.linspace(0, config.kernel_max_distance, config.gaussians))
        self.mul = nn.Embedding(vocab.NUM_PAIR_TYPES, 1, padding_idx=0)
        self.bias = nn.Embedding(vocab.NUM_PAIR_TYPES, 1, padding_idx=0)

    def forward(self, batch: ModelInput, distance_BAA: Tensor) -> Tensor:
        """Return [B, A, A, G]."""
        first_BA, second_BA = encode_pair_types(batch, self.pair_type)
        A = first_BA.shape[1]
        types_BAA2 = torch.stack(
            [first_BA.unsqueeze(2).expand(-1, A, A), second_BA.unsqueeze(1).expand(-1, A, A)], dim=-1
        )
        mul_BAA1 = self.mul(types_BAA2).abs().sum(dim=-2)
        bias_BAA1 = self.bias(types_BAA2).sum(dim=-2)
        x_BAAG = (mul_BAA1 * distance_BAA.unsqueeze(-1) + bias_BAA1).expand(-1, -1, -1, len(self.mean))
        norm = math.sqrt(2 * REFERENCE_PI) * self.std
        return torch.exp(-0.5 * ((x_BAAG - self.mean) / self.std) ** 2) / norm


class NonLinear(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.layer1 = nn.Linear(width, width)
        self.layer2 = nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out]."""
        mapped: Tensor = self.layer2(F.gelu(self.layer1(x)))
        return mapped


class DistanceKernel(nn.Module):
    """Gaussian kernel of the distances, mapped to the pair width."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gaussian = GaussianLayer(config)
        self.out_proj = NonLinear(config.gaussians, config.pair_width)

    def forward(self, batch: ModelInput) -> Tensor:
        """Return [B, A, A, P]."""
        distance_BAA = (batch.coordinates_BA3.unsqueeze(2) - batch.coordinates_BA3.unsqueeze(1)).norm(dim=-1)
        mapped: Tensor = self.out_proj(self.gaussian(batch, distance_BAA))
        return mapped


def split_heads(x_BND: Tensor, heads: int) -> Tensor:
    """Return [B, H, N, d], contiguous."""
    B, N, _ = x_BND.shape
    return x_BND.view(B, N, heads, -1).transpose(1, 2).contiguous()


class Attention(nn.Module):
    """softmax(q·kᵀ/√d + Linear(pair) + mask)·v."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, self.heads = config.atom_width, config.heads
        self.linear_q = nn.Linear(D, D, bias=False)
        self.linear_k = nn.Linear(D, D, bias=False)
        self.linear_v = nn.Linear(D, D, bias=False)
        self.linear_bias = nn.Linear(config.pair_width, config.heads)
        self.linear_o = nn.Linear(D, D)

    def forward(self, atom_BND: Tensor, pair_BNNP: Tensor, mask_BHNN: Tensor) -> Tensor:
        """Return [B, N, D]; ``mask_BHNN`` is −inf at padded keys."""
        q, k, v = (split_heads(f(atom_BND), self.heads) for f in (self.linear_q, self.linear_k, self.linear_v))
        logits_BHNN = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-2, -1))
        bias_BHNN = self.linear_bias(pair_BNNP).permute(0, 3, 1, 2).contiguous()
        weights_BHNN = torch.softmax(logits_BHNN + mask_BHNN + bias_BHNN, dim=-1)
        mixed_BND = torch.matmul(weights_BHNN, v).transpose(1, 2).reshape(atom_BND.shape)
        out: Tensor = self.linear_o(mixed_BND)
        return out


class FeedForward(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, hidden)
        self.linear_2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        out: Tensor = self.linear_2(F.gelu(self.linear_1(x)))
        return out


class OuterProduct(nn.Module):
    """z_ij = (W·vec(a_i ⊗ b_j) + c) / (ε + m_i m_j), with a_i ⊗ b_j materialised: [B, N, N, h²]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        h = config.pair_hidden
        self.linear_in = nn.Linear(config.atom_width, 2 * h)
        self.linear_out = nn.Linear(h * h, config.pair_width)

    def forward(self, atom_BND: Tensor, mask_BN1: Tensor) -> Tensor:
        """Return [B, N, N, P]; ``mask_BN1`` is n^-1/2 at real nodes."""
        a_BNh, b_BNh = (self.linear_in(atom_BND) * mask_BN1).chunk(2, dim=-1)
        norm_BNN1 = 1.0 / (OUTER_PRODUCT_EPSILON + mask_BN1.unsqueeze(2) * mask_BN1.unsqueeze(1))
        mapped_BNNP: Tensor = checkpoint(self.map_outer_product, a_BNh, b_BNh, use_reentrant=False)
        return mapped_BNNP * norm_BNN1

    def map_outer_product(self, a_BNh: Tensor, b_BNh: Tensor) -> Tensor:
        """Return [B, N, N, P]."""
        outer_BNNhh = a_BNh[:, :, None, :, None] * b_BNh[:, None, :, None, :]
        mapped_BNNP: Tensor = self.linear_out(outer_BNNhh.flatten(-2))
        return mapped_BNNP


class TriangleMultiplication(nn.Module):
    """Linear(LN(Σ_k a_ik b_jk + Σ_k a_ki b_kj)) · Linear(pair)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        P, h = config.pair_width, config.pair_hidden
        self.linear_ab_p = nn.Linear(P, 2 * h)
        self.linear_ab_g = nn.Linear(P, 2 * h)
        self.linear_g = nn.Linear(P, P)
        self.linear_z = nn.Linear(h, P)
        self.layer_norm_out = nn.LayerNorm(h)

    def forward(self, pair_BNNP: Tensor, mask_BNN1: Tensor) -> Tensor:
        """Return [B, N, N, P]; ``mask_BNN1`` is n^-1/2 at pairs of real nodes."""
        gate_BNNP: Tensor = self.linear_g(pair_BNNP)
        ab_BNNk = self.linear_ab_p(pair_BNNP) * mask_BNN1 * torch.sigmoid(self.linear_ab_g(pair_BNNP))
        a_BNNh, b_BNNh = ab_BNNk.chunk(2, dim=-1)
        outgoing_BhNN = torch.matmul(a_BNNh.permute(0, 3, 1, 2), b_BNNh.permute(0, 3, 2, 1))
        incoming_BhNN = torch.matmul(a_BNNh.permute(0, 3, 2, 1), b_BNNh.permute(0, 3, 1, 2))
        x_BNNh = (outgoing_BhNN + incoming_BhNN).permute(0, 2, 3, 1)
        x_BNNP: Tensor = self.linear_z(self.layer_norm_out(x_BNNh))
        return x_BNNP * gate_BNNP


class EncoderLayer(nn.Module):
    """Pre-norm residual layer of five branches."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, P = config.atom_width, config.pair_width
        self.self_attn_layer_norm = nn.LayerNorm(D)
        self.self_attn = Attention(config)
        self.final_layer_norm = nn.LayerNorm(D)
        self.ffn = FeedForward(D, config.ffn_width)
        self.x_layer_norm_opm = nn.LayerNorm(D)
        self.opm = OuterProduct(config)
        self.pair_layer_norm_trimul = nn.LayerNorm(P)
        self.pair_tri_mul = TriangleMultiplication(config)
        self.pair_layer_norm_ffn = nn.LayerNorm(P)
        self.pair_ffn = FeedForward(P, P)

    def forward(
        self, atom_BND: Tensor, pair_BNNP: Tensor, mask_BHNN: Tensor, scaled_BN1: Tensor, scaled_BNN1: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return atoms [B, N, D] and pairs [B, N, N, P]; masks as the branches take them."""
        atom_BND = atom_BND + self.self_attn(self.self_attn_layer_norm(atom_BND), pair_BNNP, mask_BHNN)
        atom_BND = atom_BND + self.ffn(self.final_layer_norm(atom_BND))
        pair_BNNP = pair_BNNP + self.opm(self.x_layer_norm_opm(atom_BND), scaled_BN1)
        pair_BNNP = pair_BNNP + self.pair_tri_mul(self.pair_layer_norm_trimul(pair_BNNP), scaled_BNN1)
        pair_BNNP = pair_BNNP + self.pair_ffn(self.pair_layer_norm_ffn(pair_BNNP))
        return atom_BND, pair_BNNP


class Encoder(nn.Module):
    """Norms of the input and the stack of layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.layer_norm = nn.LayerNorm(config.atom_width)
        self.pair_layer_norm = nn.LayerNorm(config.pair_width)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))

    def forward(self, atom_BND: Tensor, pair_BNNP: Tensor, valid_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Return atoms [B, N, D] and pairs [B, N, N, P]; ``valid_BN`` is true at real nodes."""
        count_B = valid_BN.sum(1).float()
        if self.config.normalize_by == "padded":
            count_B = torch.full_like(count_B, valid_BN.shape[1])
        scale_B11 = count_B.rsqrt()[:, None, None]
        valid_BN1 = valid_BN.unsqueeze(-1).float()
        mask_BHNN = key_mask(valid_BN, self.config.heads)
        scaled_BNN1 = (valid_BN1 * valid_BN1.transpose(1, 2) * scale_B11).unsqueeze(-1)
        atom_BND, pair_BNNP = self.layer_norm(atom_BND), self.pair_layer_norm(pair_BNNP)
        for layer in self.layers:
            atom_BND, pair_BNNP = layer(atom_BND, pair_BNNP, mask_BHNN, valid_BN1 * scale_B11, scaled_BNN1)
        return atom_BND, pair_BNNP


def key_mask(valid_BN: Tensor, heads: int) -> Tensor:
    """Return −inf at padded keys, 0 elsewhere, for each head and query: [B, H, N, N]."""
    B, N = valid_BN.shape
    mask_BHNN = torch.zeros(B, heads, N, N, device=valid_BN.device)
    return mask_BHNN.masked_fill(~valid_BN[:, None, None, :], -math.inf)


class MaskLMHead(nn.Module):
    """Logits of the element behind a masked token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.atom_width)
        self.dense = nn.Linear(config.atom_width, config.atom_width)
        self.weight = nn.Parameter(torch.zeros(vocab.NUM_TOKENS, config.atom_width))
        self.bias = nn.Parameter(torch.zeros(vocab.NUM_TOKENS))

    def forward(self, atom_MD: Tensor) -> Tensor:
        """Return [M, 128]."""
        return F.linear(F.gelu(self.dense(self.layer_norm(atom_MD))), self.weight, self.bias)


class MovementHead(nn.Module):
    """r + Σ_j attention_ij·(r_j − r_i)·v_j, all heads projected to one number for each axis."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, self.heads = config.atom_width, config.heads
        self.layer_norm = nn.LayerNorm(D)
        self.pair_layer_norm = nn.LayerNorm(config.pair_width)
        self.q_proj = nn.Linear(D, D, bias=False)
        self.k_proj = nn.Linear(D, D, bias=False)
        self.v_proj = nn.Linear(D, D, bias=False)
        self.linear_bias = nn.Linear(config.pair_width, config.heads)
        self.force_proj1 = nn.Linear(D, 1, bias=False)

    def forward(self, atom_BAD: Tensor, pair_BAAP: Tensor, valid_BA: Tensor, r_BA3: Tensor) -> Tensor:
        """Return coordinates [B, A, 3], Å."""
        B, A, D = atom_BAD.shape
        atom_BAD, pair_BAAP = self.layer_norm(atom_BAD), self.pair_layer_norm(pair_BAAP)
        q, k, v = (split_heads(f(atom_BAD), self.heads) for f in (self.q_proj, self.k_proj, self.v_proj))
        logits_BHAA = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-2, -1))
        bias_BHAA = self.linear_bias(pair_BAAP).permute(0, 3, 1, 2).contiguous()
        weights_BHAA = torch.softmax(logits_BHAA + bias_BHAA + key_mask(valid_BA, self.heads), dim=-1)
        delta_BAA3 = r_BA3.unsqueeze(1) - r_BA3.unsqueeze(2)
        weighted_BHAA3 = weights_BHAA.unsqueeze(-1) * delta_BAA3.unsqueeze(1)
        moved_BH3Ad = torch.matmul(weighted_BHAA3.permute(0, 1, 4, 2, 3), v.unsqueeze(2))
        moved_BA3D = moved_BH3Ad.permute(0, 3, 2, 1, 4).reshape(B, A, 3, D)
        force_BA3: Tensor = self.force_proj1(moved_BA3D).squeeze(-1)
        return r_BA3 + force_BA3


class TextbookModel(nn.Module):
    """The same function of a ``DenoiseSample`` as ``DenoiseModel``, in fp32."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab.NUM_TOKENS, config.atom_width, padding_idx=0)
        self.atom_feature = AtomFeature(config)
        self.edge_feature = EdgeFeature(config)
        self.se3_invariant_kernel = DistanceKernel(config)
        self.encoder = Encoder(config)
        self.lm_head = MaskLMHead(config)
        self.movement_pred_head = MovementHead(config)

    def forward(self, sample: DenoiseSample) -> dict[str, Tensor]:
        """Return the sum of each loss term over the micro-batch."""
        batch = sample.input
        valid_BA = batch.valid_BA
        atom_BND = self.atom_feature(batch, self.embed_tokens(batch.token_BA.long()))
        pair_BNNP = self.edge_feature(batch, self.se3_invariant_kernel(batch))
        atom_BND, pair_BNNP = self.encoder(atom_BND, pair_BNNP, F.pad(valid_BA, (1, 0), value=True))
        atom_BAD, pair_BAAP = atom_BND[:, 1:], pair_BNNP[:, 1:, 1:]
        logits_MV = self.lm_head(atom_BAD[sample.masked_BA])
        predicted_BA3 = self.movement_pred_head(atom_BAD, pair_BAAP, valid_BA, batch.coordinates_BA3)
        target_M = sample.atomic_number_BA[sample.masked_BA].long()
        return {
            "token": F.cross_entropy(logits_MV, target_M, reduction="sum"),
            "coordinate": coordinate_loss(predicted_BA3, sample.clean_BA3, valid_BA),
            "distance": distance_loss(predicted_BA3, sample.clean_BA3, valid_BA),
        }
