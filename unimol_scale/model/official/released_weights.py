"""The public Uni-Mol2 checkpoint format: its tensor names and layouts, to and from this model's.

Source: the names and shapes of the released files (``shorest_path_encoder`` is spelt as there). Our model fuses weights
that are always used together (q, k, v; the value and gate maps of the triangle update) and stores the outer product's
map in the layout of its two-step evaluation. Conversions are exact both ways; ``released_file.py`` reads the files.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from unimol_scale.errors import CheckpointError, ConfigError
from unimol_scale.model.presets import ModelConfig

Tensors = Mapping[str, Tensor]
# A buffer of the public model that is a constant here.
GAUSSIAN_CENTRES = "se3_invariant_kernel.gaussian.mean"
# Name of a dimension in a released file's configuration → its name here.
DIMENSIONS = {
    "encoder_layers": "layers",
    "encoder_embed_dim": "atom_width",
    "encoder_attention_heads": "heads",
    "encoder_ffn_embed_dim": "ffn_width",
    "pair_embed_dim": "pair_width",
    "pair_hidden_dim": "pair_hidden",
}
# Options that a released file does not state because its reader knows them; a model that differs cannot be exported.
FIXED = {
    "gaussians": 128,
    "kernel_max_distance": 9.0,
    "normalize_by": "padded",
    "pair_type": "chirality",
    "edges": "bond",
}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How one of our tensors is stored in a released file.

    Attributes:
        ours: name in a ``HeadedModel``.
        theirs: names in a released file, in the order in which ``join`` takes them.
        join: converts theirs into ours.
        split: converts ours into theirs.
    """

    ours: str
    theirs: tuple[str, ...]
    join: Callable[[list[Tensor]], Tensor]
    split: Callable[[Tensor], list[Tensor]]


def _same(ours: str, theirs: str) -> Rule:
    return Rule(ours=ours, theirs=(theirs,), join=lambda parts: parts[0], split=lambda whole: [whole])


def _stacked(ours: str, theirs: tuple[str, ...]) -> Rule:
    count = len(theirs)
    return Rule(ours=ours, theirs=theirs, join=torch.cat, split=lambda whole: list(whole.chunk(count)))


def _affine(ours: str, theirs: str) -> list[Rule]:
    return [_same(f"{ours}.{kind}", f"{theirs}.{kind}") for kind in ("weight", "bias")]


def _owned(ours: str, theirs: str) -> list[Rule]:
    """Rules for a weight and bias that a fused module of ours owns itself."""
    return [_same(f"{ours}_{kind}", f"{theirs}.{kind}") for kind in ("weight", "bias")]


def _outer_product(ours: str, theirs: str, config: ModelConfig) -> Rule:
    h, P = config.pair_hidden, config.pair_width

    def join(parts: list[Tensor]) -> Tensor:
        return parts[0].reshape(P, h, h).permute(1, 2, 0).reshape(h, h * P)

    def split(whole: Tensor) -> list[Tensor]:
        return [whole.reshape(h, h, P).permute(2, 0, 1).reshape(P, h * h)]

    return Rule(ours=ours, theirs=(theirs,), join=join, split=split)


def rules(config: ModelConfig) -> list[Rule]:
    """Return one rule for each parameter of the denoising model."""
    kernel = "backbone.pair_encoding.distance"
    coordinate, movement = "coordinate_head", "movement_pred_head"
    found = [
        _same("backbone.atom_encoding.token.weight", "embed_tokens.weight"),
        _same("backbone.atom_encoding.features.weight", "atom_feature.atom_encoder.weight"),
        _same("backbone.atom_encoding.degree.weight", "atom_feature.degree_encoder.weight"),
        _same("backbone.atom_encoding.virtual_node.weight", "atom_feature.vnode_encoder.weight"),
        _same("backbone.pair_encoding.bonds.weight", "edge_feature.edge_encoder.weight"),
        _same("backbone.pair_encoding.path.weight", "edge_feature.shorest_path_encoder.weight"),
        _same("backbone.pair_encoding.virtual_pair.weight", "edge_feature.vnode_virtual_distance.weight"),
        _same(f"{kernel}.scale.weight", "se3_invariant_kernel.gaussian.mul.weight"),
        _same(f"{kernel}.shift.weight", "se3_invariant_kernel.gaussian.bias.weight"),
        *_owned(f"{kernel}.hidden", "se3_invariant_kernel.out_proj.layer1"),
        *_owned(f"{kernel}.out", "se3_invariant_kernel.out_proj.layer2"),
        *_affine("backbone.atom_norm", "encoder.layer_norm"),
        *_affine("backbone.pair_norm", "encoder.pair_layer_norm"),
        *_affine("token_head.norm", "lm_head.layer_norm"),
        *_affine("token_head.dense", "lm_head.dense"),
        *_affine("token_head.out", "lm_head"),
        *_owned(f"{coordinate}.atom_norm", f"{movement}.layer_norm"),
        *_owned(f"{coordinate}.pair_norm", f"{movement}.pair_layer_norm"),
        *_owned(f"{coordinate}.pair", f"{movement}.linear_bias"),
        _stacked(f"{coordinate}.qkv_weight", tuple(f"{movement}.{name}_proj.weight" for name in "qkv")),
        Rule(
            ours=f"{coordinate}.force",
            theirs=(f"{movement}.force_proj1.weight",),
            join=lambda parts: parts[0].reshape(-1),
            split=lambda whole: [whole.reshape(1, -1)],
        ),
    ]
    for index in range(config.layers):
        found += _layer_rules(f"backbone.layers.{index}", f"encoder.layers.{index}", config)
    return found


def _layer_rules(ours: str, theirs: str, config: ModelConfig) -> list[Rule]:
    attention, triangle = f"{theirs}.self_attn", f"{theirs}.pair_tri_mul"
    gated = tuple(f"{triangle}.linear_ab_{kind}" for kind in "pg")
    return [
        *_owned(f"{ours}.attention.norm", f"{theirs}.self_attn_layer_norm"),
        _stacked(f"{ours}.attention.qkv_weight", tuple(f"{attention}.linear_{name}.weight" for name in "qkv")),
        *_owned(f"{ours}.attention.pair", f"{attention}.linear_bias"),
        *_owned(f"{ours}.attention.out", f"{attention}.linear_o"),
        *_owned(f"{ours}.ffn.norm", f"{theirs}.final_layer_norm"),
        *_owned(f"{ours}.ffn.up", f"{theirs}.ffn.linear_1"),
        *_owned(f"{ours}.ffn.down", f"{theirs}.ffn.linear_2"),
        *_owned(f"{ours}.outer_product.norm", f"{theirs}.x_layer_norm_opm"),
        *_owned(f"{ours}.outer_product.project", f"{theirs}.opm.linear_in"),
        _outer_product(f"{ours}.outer_product.weight", f"{theirs}.opm.linear_out.weight", config),
        _same(f"{ours}.outer_product.bias", f"{theirs}.opm.linear_out.bias"),
        *_owned(f"{ours}.triangle.norm", f"{theirs}.pair_layer_norm_trimul"),
        _stacked(f"{ours}.triangle.project_weight", tuple(f"{name}.weight" for name in gated)),
        _stacked(f"{ours}.triangle.project_bias", tuple(f"{name}.bias" for name in gated)),
        *_owned(f"{ours}.triangle.inner", f"{triangle}.layer_norm_out"),
        *_owned(f"{ours}.triangle.out", f"{triangle}.linear_z"),
        *_owned(f"{ours}.triangle.gate", f"{triangle}.linear_g"),
        *_owned(f"{ours}.pair_ffn.norm", f"{theirs}.pair_layer_norm_ffn"),
        *_owned(f"{ours}.pair_ffn.up", f"{theirs}.pair_ffn.linear_1"),
        *_owned(f"{ours}.pair_ffn.down", f"{theirs}.pair_ffn.linear_2"),
    ]


def infer_config(tensors: Tensors, heads: int | None = None) -> ModelConfig:
    """Return the dimensions of a released model from the shapes of its tensors.

    Args:
        tensors: released name → tensor.
        heads: number of attention heads, if the file states it; otherwise taken from the pair-bias map.

    Raises:
        CheckpointError: a tensor that determines a dimension is missing or has another rank.
    """
    layers = {int(m.group(1)) for name in tensors if (m := re.match(r"encoder\.layers\.(\d+)\.", name))}
    if layers and (gaps := sorted(set(range(max(layers))) - layers)):
        raise CheckpointError(
            f"the tensors 'encoder.layers.{gaps[0]}.*' are missing, although layer {max(layers)} is present"
        )
    needed = {
        "encoder.layers.0.ffn.linear_1.weight": 2,
        "encoder.layers.0.opm.linear_in.weight": 2,
        "encoder.layers.0.self_attn.linear_bias.weight": 2,
    }
    for name, rank in needed.items():
        if name not in tensors:
            raise CheckpointError(f"the tensor {name!r} is missing; this is not a released Uni-Mol2 checkpoint")
        if tensors[name].dim() != rank:
            raise CheckpointError(f"the tensor {name!r} has shape {tuple(tensors[name].shape)}, expected {rank} axes")
    ffn_width, atom_width = tensors["encoder.layers.0.ffn.linear_1.weight"].shape
    bias_heads, pair_width = tensors["encoder.layers.0.self_attn.linear_bias.weight"].shape
    try:
        return ModelConfig(
            layers=len(layers),
            atom_width=atom_width,
            heads=heads or bias_heads,
            ffn_width=ffn_width,
            pair_width=pair_width,
            pair_hidden=tensors["encoder.layers.0.opm.linear_in.weight"].shape[0] // 2,
            normalize_by="padded",
            pair_type="chirality",
        )
    except ConfigError as error:
        raise CheckpointError(f"the tensors describe no valid model: {error}") from error


def from_official(tensors: Tensors, template: Tensors, config: ModelConfig) -> dict[str, Tensor]:
    """Return released tensors under our names and layouts, ready for ``load_state_dict``.

    Args:
        tensors: released name → tensor.
        template: state of the model to load into; only its shapes count, so the meta device will do.
        config: configuration of that model.

    Raises:
        CheckpointError: a tensor is missing, surplus, of another shape, not floating point or not finite; the message
            names it.
    """
    expected = _released_shapes(template, config)
    for name, shape in expected.items():
        if name not in tensors:
            raise CheckpointError(f"the tensor {name!r} is missing")
        if tuple(tensors[name].shape) != shape:
            raise CheckpointError(f"the tensor {name!r} has shape {tuple(tensors[name].shape)}, expected {shape}")
        check_values(name, tensors[name])
    surplus = sorted(set(tensors) - set(expected) - {GAUSSIAN_CENTRES})
    if surplus:
        raise CheckpointError(f"{len(surplus)} tensors do not belong to the model; the first is {surplus[0]!r}")
    centres = tensors.get(GAUSSIAN_CENTRES)
    if centres is not None:
        ours = torch.linspace(0, config.kernel_max_distance, config.gaussians)
        if centres.shape != ours.shape or not torch.allclose(centres.float(), ours, atol=1e-2):
            raise CheckpointError(f"the tensor {GAUSSIAN_CENTRES!r} is not linspace(0, {config.kernel_max_distance})")
    return {rule.ours: rule.join([tensors[name] for name in rule.theirs]).contiguous() for rule in rules(config)}


def to_official(state: Tensors, config: ModelConfig, constants: bool = True) -> dict[str, Tensor]:
    """Return the tensors of a ``HeadedModel`` with both heads under the released names and layouts.

    Args:
        state: state of the model; gradients by parameter name work too.
        config: configuration of the model.
        constants: add the released model's buffers.

    Raises:
        CheckpointError: a tensor is missing; the message names it.
    """
    released: dict[str, Tensor] = {}
    for rule in rules(config):
        if rule.ours not in state:
            raise CheckpointError(f"the tensor {rule.ours!r} is missing")
        for name, part in zip(rule.theirs, rule.split(state[rule.ours]), strict=True):
            released[name] = part.contiguous()
    if constants:
        released[GAUSSIAN_CENTRES] = torch.linspace(0, config.kernel_max_distance, config.gaussians)
    return released


def check_values(name: str, tensor: Tensor) -> None:
    """Refuse a weight with values that are not finite floating-point numbers.

    Raises:
        CheckpointError: the message names the tensor and its first such value.
    """
    if not tensor.is_floating_point():
        raise CheckpointError(f"the tensor {name!r} holds {tensor.dtype}, expected floating point")
    finite = torch.isfinite(tensor).flatten()
    if not finite.all():
        first = int((~finite).nonzero()[0])
        bad = int((~finite).sum())
        value = tensor.flatten()[first].item()
        raise CheckpointError(
            f"the tensor {name!r} has {bad} values that are not finite, the first is {value} at {first}"
        )


def released_dimensions(config: ModelConfig) -> dict[str, int]:
    """Return the dimensions under the names of a released file's configuration.

    Raises:
        CheckpointError: a released file cannot describe this model; the message names the options that differ.
    """
    other = [
        f"{name}={getattr(config, name)} (not {value})"
        for name, value in FIXED.items()
        if getattr(config, name) != value
    ]
    if other:
        raise CheckpointError(f"the released format cannot express a model with {', '.join(other)}; use safetensors")
    return {theirs: getattr(config, ours) for theirs, ours in DIMENSIONS.items()}


def check_dimensions(config: ModelConfig, stated: Mapping[str, object]) -> None:
    """Compare the dimensions that a released file states, if any, with those of its tensors.

    Raises:
        CheckpointError: they differ; the message names the dimension.
    """
    for theirs, found in released_dimensions(config).items():
        if stated.get(theirs, found) != found:
            raise CheckpointError(f"the file says {theirs} {stated[theirs]}, but its tensors have {found}")


def _released_shapes(template: Tensors, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return released name → shape for a model whose state, on any device, is ``template``."""
    return {
        name: tuple(part.shape)
        for rule in rules(config)
        for name, part in zip(rule.theirs, rule.split(template[rule.ours]), strict=True)
    }
