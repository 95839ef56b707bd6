"""Shard a small model with DeepSpeed on this rank, save, restore and disturb it; what happened goes into JSON files.

Started by test_zero.py once for every rank of several worlds at a time; argument: a folder that all share. Worlds of
different size hand their states to each other through it.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unimol_scale.checkpoints.run.shares import MEAN, MOMENT, MOMENTUM, SQUARE, WEIGHT
from unimol_scale.data.dataset import DataConfig
from unimol_scale.engine.parallel import matrix_exchange
from unimol_scale.engine.parallel.deepspeed_model import DeepSpeedModel
from unimol_scale.engine.parallel.ranks import Ranks, leave_ranks, start_ranks
from unimol_scale.engine.run.run_config import PretrainConfig, ZeroConfig
from unimol_scale.engine.run.train_config import TrainConfig
from unimol_scale.model.fused.dropping import NOTHING
from unimol_scale.model.fused.launching import kernels_switched, launches_seen_by
from unimol_scale.model.layers import Linear, TwoTrackLayer
from unimol_scale.model.native.library import torch_only
from unimol_scale.model.node_masks import NodeMasks
from unimol_scale.model.presets import ModelConfig, preset

ROWS, BEFORE, AFTER, RATE, DECAY = 8, 2, 3, 3e-3, 0.75
WEIGHT_DECAY, CLIP = 0.1, 0.5
KINDS = (WEIGHT, MOMENT, SQUARE, MOMENTUM, MEAN)
# Parameters that a step does not use, by its parity.
UNUSED = (("heads.1.weight",), ("heads.0.weight", "heads.0.bias"))
STAGES = (0, 1, 2, 3)
WORLDS = (1, 2, 4)
KERNELS = "muon-kernels"
IN_FP32 = ("fp32", "muon", KERNELS)
# Variants of the same code in one world only: bf16, with the optimizer in host memory, with gradients summed in fp32.
# Those with Muon have another module, which has hidden matrices. Triton's kernels, interpreted, use weights of several
# modules at once, which stage 3 must have fetched and gathered gradients of.
CASES = {
    1: [*itertools.product(STAGES, ["fp32", "muon"])],
    2: [
        *itertools.product(STAGES, ["fp32", "bf16", "muon", "muon-bf16"]),
        *itertools.product((1, 2, 3), ["offloaded", "accumulated"]),
        *itertools.product((2, 3), ["muon-offloaded"]),
        (3, KERNELS),
    ],
    4: [*itertools.product(STAGES, ["fp32"])],
}
# Small enough that the matrices are worked on in several rounds.
ROUND_ELEMENTS = 100
# Small enough that stage 3 has several sub-groups, and parameters both whole and cut.
_ZERO = {"sub_group_size": 40, "stage3_param_persistence_threshold": 8}
SETTINGS: dict[str, dict[str, object]] = {
    "fp32": {"zero_optimization": _ZERO},
    "bf16": {"zero_optimization": _ZERO},
    "offloaded": {"zero_optimization": {**_ZERO, "offload_optimizer": {"device": "cpu"}}},
    "muon": {"zero_optimization": _ZERO},
    KERNELS: {"zero_optimization": _ZERO},
    "muon-bf16": {"zero_optimization": _ZERO},
    "muon-offloaded": {"zero_optimization": {**_ZERO, "offload_optimizer": {"device": "cpu"}}},
    "accumulated": {"zero_optimization": _ZERO, "data_types": {"grad_accum_dtype": "fp32"}},
}


class Toy(nn.Module):
    """Sizes that no number of ranks divides, and two heads of which a step uses one."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.inner = Linear(5, 7)
        self.heads = nn.ModuleList([Linear(7, 1), Linear(7, 1, bias=False)])

    def forward(self, sample: tuple[Tensor, Tensor, int]) -> dict[str, Tensor]:
        x_R5, y_R, head = sample
        hidden_R7 = torch.tanh(self.inner(x_R5.to(self.scale.dtype)))
        found_R = (self.heads[head](hidden_R7) * self.scale).float().squeeze(-1)
        return {"loss": (found_R - y_R).square().sum()}


class Tracks(nn.Module):
    """A two-track layer on five nodes, and two heads of which a step uses one.

    Args:
        by_kernels: whether the masks ask for Triton's kernels, as those of a batch on a GPU do.
    """

    def __init__(self, by_kernels: bool = False) -> None:
        super().__init__()
        self.dropping = NOTHING if by_kernels else None
        config = ModelConfig(
            layers=1, atom_width=6, heads=2, ffn_width=7, pair_width=5, pair_hidden=3, dropout=0.0,
            attention_dropout=0.0, triangle_dropout=0.0,
        )  # fmt: skip
        self.inner = Linear(2, config.atom_width)
        self.pairs = Linear(2, config.pair_width)
        self.layer = TwoTrackLayer(config)
        self.heads = nn.ModuleList([Linear(11, 1), Linear(11, 1, bias=False)])

    def forward(self, sample: tuple[Tensor, Tensor, int]) -> dict[str, Tensor]:
        x_R5, y_R, head = sample
        dtype = self.inner.bias.dtype

        def seen(x: Tensor) -> Tensor:
            return torch.stack([x.sin(), x.cos()], dim=-1).to(dtype)  # never small, which a layer norm would magnify

        atom_R5D, pair_R55P = self.inner(seen(x_R5)), self.pairs(seen(x_R5.unsqueeze(1) - 2 * x_R5.unsqueeze(2)))
        masks = NodeMasks.of(torch.ones_like(x_R5, dtype=torch.bool), torch.full_like(y_R, 5.0), atom_R5D.dtype)
        masks = dataclasses.replace(masks, dropping=self.dropping)
        atom_R5D, pair_R55P = self.layer(atom_R5D, pair_R55P, masks)
        both_RX = torch.cat([atom_R5D.tanh().mean(1), pair_R55P.tanh().mean((1, 2))], dim=-1)
        return {"loss": (self.heads[head](both_RX).float().squeeze(-1) - y_R).square().sum()}


def rows(step: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(step)
    return torch.randn(ROWS, 5, generator=draw), torch.randn(ROWS, generator=draw)


def build(folder: Path, stage: int, variant: str, ranks: Ranks, seed: int = 0) -> DeepSpeedModel:
    precision: Literal["fp32", "bf16"] = "fp32" if variant in IN_FP32 else "bf16"
    muon = variant.startswith("muon")
    file = folder / f"{variant}-{ranks.world_size}-{ranks.rank}.json"
    file.write_text(json.dumps(SETTINGS[variant]))
    config = PretrainConfig(
        size="0.03M",
        output=folder,
        data=DataConfig(path=folder),
        model=preset("0.03M"),
        seed=seed,
        train=TrainConfig(
            precision=precision,
            warmup_steps=0,
            ema_decay=DECAY,
            weight_decay=WEIGHT_DECAY,
            gradient_clip=CLIP,
            optimizer="muon" if muon else "adamw",
        ),
        zero=ZeroConfig(stage=stage, config=file),
    )
    tracks = functools.partial(Tracks, by_kernels=variant == KERNELS)
    return DeepSpeedModel(tracks if muon else Toy, config, ranks)


@contextlib.contextmanager
def computed_by(variant: str) -> Iterator[None]:
    """Compute with interpreted kernels or, as elsewhere on a CPU, without."""
    if variant != KERNELS:
        yield
        return
    started: set[str] = set()
    with torch_only(), kernels_switched(True), launches_seen_by(lambda name, *_: started.add(name)):
        yield
    assert any("joint_kernels" in name for name in started), started


def add_gradients(model: DeepSpeedModel, ranks: Ranks, step: int, spoil: float = 1.0, finish: bool = True) -> float:
    """Two micro-batches a rank where there are rows for it; return the global loss."""
    x_R5, y_R = (rows_of[ranks.rank :: ranks.world_size] for rows_of in rows(step))
    total, size = 0.0, max(1, len(y_R) // 2)
    for start in range(0, len(y_R), size):
        loss = model.forward((x_R5[start : start + size], y_R[start : start + size], step % 2))["loss"] / ROWS
        model.backward(loss * spoil, last=finish and start + size >= len(y_R))
        total += loss.item()
    return ranks.sum({"loss": total})["loss"]


def do_step(model: DeepSpeedModel, ranks: Ranks, step: int) -> tuple[float, float]:
    """Return the loss and the norm of the gradient."""
    found = add_gradients(model, ranks, step), model.step(RATE)
    model.ema_update(DECAY)
    return found


def gives_gradients(model: DeepSpeedModel, ranks: Ranks) -> bool:
    """Return whether gradients that are computed elsewhere make the norm that ``backward`` makes, on every rank."""
    if not model.has_whole_weights:
        return True
    add_gradients(model, ranks, 4)
    norm = model.step(0.0)
    x_R5, y_R = (rows_of[ranks.rank :: ranks.world_size] for rows_of in rows(4))
    loss = model.module((x_R5, y_R, 0))["loss"] / ROWS
    model.add_gradients(torch.autograd.grad(loss, list(model.module.parameters()), allow_unused=True))
    given = model.step(0.0)
    return all(
        ranks.gather(
            abs(given - norm) < (1e-5 if next(model.module.parameters()).dtype == torch.float32 else 2e-2) * norm
        )
    )


@torch.no_grad()
def validate(model: DeepSpeedModel, ranks: Ranks) -> float:
    x_R5, y_R = rows(99)
    share = slice(ranks.rank, None, ranks.world_size)
    return ranks.sum({"loss": model.forward((x_R5[share], y_R[share], 0))["loss"].item()})["loss"]


def full_state(model: DeepSpeedModel, ranks: Ranks, kind: str = WEIGHT) -> dict[str, Tensor]:
    """Return parameter name → whole fp32 tensor, on every rank."""
    mine = [
        (fragment.name, fragment.start, fragment.states[kind].clone())
        for fragment in model.fragments()
        if kind in fragment.states
    ]
    whole = {
        name: torch.full(tuple(getattr(parameter, "ds_shape", parameter.shape)), float("nan"))
        for name, parameter in model.module.named_parameters()
    }
    for name, start, values in itertools.chain.from_iterable(ranks.gather(mine)):
        whole[name].view(-1)[start : start + len(values)] = values
    return whole


def bits(model: DeepSpeedModel) -> dict[str, Tensor]:
    return {
        f"{fragment.name}|{fragment.start}|{kind}": values.clone()
        for fragment in model.fragments()
        for kind, values in fragment.states.items()
    }


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


class States:
    """The states that the worlds exchange."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, model: DeepSpeedModel, case: str, ranks: Ranks) -> None:
        path = self._folder / f"{case}-{ranks.rank}.safetensors"
        temporary = path.with_suffix(".part")
        save_file({key: values.contiguous() for key, values in bits(model).items()}, temporary)
        temporary.rename(path)

    def whole(self, case: str, world: int) -> dict[str, Tensor]:
        """Return "name|kind" → all elements; every element is in one file exactly."""
        runs: dict[str, dict[int, Tensor]] = {}
        for rank in range(world):
            path = self._folder / f"{case}-{rank}.safetensors"
            while not path.exists():
                time.sleep(0.05)
            for key, values in load_file(path).items():
                name, start, kind = key.split("|")
                assert int(start) not in runs.setdefault(f"{name}|{kind}", {}), f"{key} is there twice"
                runs[f"{name}|{kind}"][int(start)] = values
        whole = {}
        for key, parts in runs.items():
            starts = sorted(parts)
            ends = [start + len(parts[start]) for start in starts]
            assert [0, *ends[:-1]] == starts, f"{key} has gaps or overlaps: {starts} {ends}"
            whole[key] = torch.cat([parts[start] for start in starts])
        return whole


def first_run(folder: Path, states: States, case: str, stage: int, variant: str, ranks: Ranks) -> dict[str, object]:
    """Train without disturbance; write the state on the way."""
    model = build(folder, stage, variant, ranks)
    report: dict[str, object] = {"initial": {k: v.flatten().tolist() for k, v in full_state(model, ranks).items()}}
    mean = full_state(model, ranks)
    losses, unused = [], []
    for step in range(BEFORE + AFTER):
        if step == BEFORE:
            states.write(model, case, ranks)
        moments = {
            name: values for name, values in full_state(model, ranks, MOMENT).items() if name in UNUSED[step % 2]
        }
        losses.append(do_step(model, ranks, step))
        now = full_state(model, ranks, MOMENT)
        unused.append(all(torch.allclose(now[name], 0.9 * moments[name], rtol=1e-5) for name in moments))
        weights = full_state(model, ranks)
        mean = {name: DECAY * mean[name] + (1.0 - DECAY) * weights[name] for name in weights}
    report["unused_got_nothing"] = all(unused)
    before = bits(model)
    plain, found = validate(model, ranks), full_state(model, ranks, MEAN)
    with model.averaged_weights():
        averaged = validate(model, ranks)
    report["mean_is_as_computed"] = all(torch.allclose(mean[name], found[name], atol=1e-6) for name in found)
    again = validate(model, ranks)
    report["mean_left_no_trace"] = all(ranks.gather(same(before, bits(model)) and again == plain))
    expected = plain
    if ranks.is_main:
        toy = (Tracks() if variant.startswith("muon") else Toy()).to(next(model.module.parameters()).dtype)
        toy.load_state_dict(found)
        x_R5, y_R = rows(99)
        expected = toy((x_R5, y_R, 0))["loss"].item()
    report |= {"averaged": averaged, "averaged_expected": expected, "plain": plain}
    report |= {"losses": losses, "steps": model.optimizer_steps, "final": weights_of(model, ranks)}
    return report


def weights_of(model: DeepSpeedModel, ranks: Ranks) -> dict[str, list[float]]:
    return {name: values.flatten().tolist() for name, values in full_state(model, ranks).items()}


def second_run(model: DeepSpeedModel, whole: dict[str, Tensor], ranks: Ranks) -> dict[str, object]:
    """Restore a state into a model that is somewhere else; drop gradients and spoil one; then train on."""
    do_step(model, ranks, 7)
    add_gradients(model, ranks, 8)
    model.restore(lambda name, kind, start, stop: whole[f"{name}|{kind}"][start:stop], BEFORE)
    report: dict[str, object] = {}
    report["exact"] = all(
        torch.equal(values.flatten(), whole[f"{name}|{kind}"])
        for kind in KINDS
        for name, values in full_state(model, ranks, kind).items()
        if f"{name}|{kind}" in whole or kind not in (MOMENT, SQUARE, MOMENTUM)
    )
    report["gradients_can_be_given"] = gives_gradients(model, ranks)
    model.restore(lambda name, kind, start, stop: whole[f"{name}|{kind}"][start:stop], BEFORE)
    before = bits(model)
    add_gradients(model, ranks, 8)
    model.drop_gradients()
    # The gradient is spoilt on the last rank only.
    add_gradients(model, ranks, 9, spoil=float("nan") if ranks.rank == ranks.world_size - 1 else 1.0)
    norm = model.step(RATE)
    untouched = same(before, bits(model)) and model.optimizer_steps == BEFORE
    report["norms_when_spoilt"] = [str(value) for value in ranks.gather(norm)]
    report["untouched"] = all(ranks.gather(untouched))
    add_gradients(model, ranks, 8, finish=False)
    model.drop_gradients()
    report["losses"] = [do_step(model, ranks, step) for step in range(BEFORE, BEFORE + AFTER)]
    return report | {"steps": model.optimizer_steps, "final": weights_of(model, ranks)}


def elsewhere(world: int, stage: int, variant: str) -> tuple[int, int, str]:
    """Return world, stage and variant of a state to take up that was written in another way."""
    if variant in ("offloaded", "accumulated"):
        return world, stage, "bf16"
    if variant == "muon-offloaded":
        return world, stage, "muon-bf16"
    if variant == KERNELS:
        return world, (stage + 1) % 4, "muon"
    if variant in ("bf16", "muon-bf16"):
        return world, (stage + 1) % 4, variant
    worlds = [other for other in WORLDS if (stage, variant) in CASES[other]]
    return worlds[(worlds.index(world) + 1) % len(worlds)], (stage + 1) % 4, variant


def main(folder: Path) -> None:
    ranks = start_ranks()
    torch.set_num_threads(1)
    matrix_exchange.ROUND_ELEMENTS = ROUND_ELEMENTS
    world, states, results = ranks.world_size, States(folder), {}
    for stage, variant in CASES[world]:
        case = f"{variant}-{stage}-{world}"
        with computed_by(variant):
            results[case] = {"first": first_run(folder, states, case, stage, variant, ranks)}
    for stage, variant in CASES[world]:
        case = f"{variant}-{stage}-{world}"
        other, from_stage, from_variant = elsewhere(world, stage, variant)
        source = f"{from_variant}-{from_stage}-{other}"
        model = build(folder, stage, variant, ranks, seed=1)
        with computed_by(variant):
            results[case]["again"] = second_run(model, states.whole(case, world), ranks)
            results[case]["from_other"] = {"source": source, **second_run(model, states.whole(source, other), ranks)}
    if ranks.is_main:
        (folder / f"results-{world}.json").write_text(json.dumps(results))
    leave_ranks()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
