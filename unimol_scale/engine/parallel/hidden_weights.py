"""Lists the hidden weight matrices of the layers by track, and which matrices each stored weight contains.

Muon (arXiv 2502.16982) makes the update of a *matrix* orthogonal, so it has to know what is one linear map. The layers
store several maps in one weight where one matrix product computes them all; this file separates them. The rest of a
model (embeddings, the distance kernel, norms, biases and heads) contains no hidden matrix.

Shapes: D atom channels, P pair channels, H heads, h hidden pair channels, F hidden atom channels; a weight holds K
matrices of R rows and C columns each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from unimol_scale.model.layers import TwoTrackLayer

Track = Literal["atom", "pair"]

# Weight of a layer → its track and the number of maps whose rows are stacked in it; None: a bilinear map.
_LAYER: Mapping[str, tuple[Track, int | None]] = {
    "attention.qkv_weight": ("atom", 3),  # [3D, D]: queries, keys, values
    "attention.out_weight": ("atom", 1),  # [D, D]
    "ffn.up_weight": ("atom", 1),  # [F, D]
    "ffn.down_weight": ("atom", 1),  # [D, F]
    "attention.pair_weight": ("pair", 1),  # [H, P]
    "outer_product.project_weight": ("pair", 2),  # [2h, D]: both factors
    "outer_product.weight": ("pair", None),  # [h, h·P]
    "triangle.project_weight": ("pair", 4),  # [4h, P]: values of a and b, then their gates
    "triangle.out_weight": ("pair", 1),  # [P, h]
    "triangle.gate_weight": ("pair", 1),  # [P, P]
    "pair_ffn.up_weight": ("pair", 1),  # [P, P]
    "pair_ffn.down_weight": ("pair", 1),  # [P, P]
}


@dataclass(frozen=True, kw_only=True)
class HiddenWeight:
    """A stored weight that consists of K matrices of equal shape.

    The weight of an outer product is stored as [h, h·P], with row c and column (d, p), so that one matrix product
    suffices. Its linear map takes the h² products a_c·b_d to P channels: one matrix [P, h²], as in the public reference
    and in AlphaFold's outer product mean.

    Attributes:
        track: track that the weight is counted under, as in ``accounting.count_parameters``.
        shape: [rows, columns] as stored.
        stacked: number of matrices whose rows are stacked; None: the weight of an outer product.
    """

    track: Track
    shape: tuple[int, int]
    stacked: int | None

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """K, R and C."""
        rows, columns = self.shape
        if self.stacked is None:
            return 1, columns // rows, rows * rows
        return self.stacked, rows // self.stacked, columns

    def split(self, weight: Tensor) -> Tensor:
        """Return the matrices [K, R, C] of a weight, or of any tensor of the same size, flat or not."""
        if self.stacked is not None:
            return weight.reshape(self.matrix_shape)
        _, P, _ = self.matrix_shape
        h = self.shape[0]
        return weight.reshape(h, h, P).permute(2, 0, 1).reshape(1, P, h * h)

    def join(self, matrices_KRC: Tensor) -> Tensor:
        """Return the weight, flat [rows · columns], from its matrices."""
        if self.stacked is not None:
            return matrices_KRC.reshape(-1)
        _, P, _ = self.matrix_shape
        h = self.shape[0]
        return matrices_KRC.reshape(P, h, h).permute(1, 2, 0).reshape(-1)


def hidden_weights(
    module: nn.Module, shapes: Mapping[str, Sequence[int]], tracks: Sequence[Track] = ("atom", "pair")
) -> dict[str, HiddenWeight]:
    """Return parameter name → its matrices, for all two-track layers in a module.

    Args:
        module: a module that contains ``TwoTrackLayer`` at any depth.
        shapes: parameter name → its full shape, which a sharded parameter does not know.
        tracks: tracks to include.
    """
    found = {}
    for prefix, part in module.named_modules():
        if not isinstance(part, TwoTrackLayer):
            continue
        for suffix, (track, stacked) in _LAYER.items():
            name = f"{prefix}.{suffix}" if prefix else suffix
            if track in tracks:
                rows, columns = shapes[name]
                found[name] = HiddenWeight(track=track, shape=(rows, columns), stacked=stacked)
    return found
