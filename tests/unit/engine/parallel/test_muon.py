"""Muon's matrices, its step against torch's own, and who works on what; ``test_zero.py`` has it on real ranks."""

import math
from collections.abc import Collection, Mapping

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from unimol_scale.checkpoints.run.shares import MOMENTUM
from unimol_scale.engine.parallel import matrix_exchange
from unimol_scale.engine.parallel.hidden_weights import HiddenWeight, hidden_weights
from unimol_scale.engine.parallel.matrix_exchange import MatrixExchange, Run
from unimol_scale.engine.parallel.muon import MuonAdamW, orthogonalised
from unimol_scale.engine.parallel.ranks import Ranks
from unimol_scale.model.accounting import count_hidden, count_parameters, orthogonalisation_flops
from unimol_scale.model.backbone import TwoTrackBackbone
from unimol_scale.model.layers import TwoTrackLayer
from unimol_scale.model.presets import preset

CPU = torch.device("cpu")
RATE, DECAY = 0.01, 0.1


class OneOf(Ranks):
    """One of several ranks, all of which are asked in turn: what they hold is known before."""

    held: tuple[list[Run], ...] = ()

    def gather(self, value: object) -> list[object]:
        return [*self.held]


def weights_of(module: nn.Module, *tracks: str) -> dict[str, HiddenWeight]:
    shapes = {name: tuple(weight.shape) for name, weight in module.named_parameters()}
    return hidden_weights(module, shapes, tracks or ("atom", "pair"))


def started(
    matrices: Mapping[str, nn.Parameter],
    stacked: int | None = 1,
    dtype: torch.dtype = torch.float32,
    pair: Collection[str] = (),
    pair_rate: float = 1.0,
):
    """Return the optimizer of some matrices on the only rank, at stage 0; ``pair`` names those of the pair track."""
    optimizer = MuonAdamW(
        matrices.values(), [nn.Parameter(torch.zeros(1))], lr=RATE, betas=(0.9, 0.99), weight_decay=DECAY,
        pair_rate=pair_rate, momentum=0.95, iterations=5, dtype=dtype,
    )  # fmt: skip
    weights = {
        name: HiddenWeight(track="pair" if name in pair else "atom", shape=tuple(weight.shape), stacked=stacked)
        for name, weight in matrices.items()
    }
    runs = [Run(name=n, start=0, length=w.numel(), flat=k, offset=0) for k, (n, w) in enumerate(matrices.items())]
    rank = OneOf(rank=0, world_size=1, device=CPU)
    object.__setattr__(rank, "held", (runs,))
    for weight in matrices.values():
        optimizer.state[weight] = {MOMENTUM: torch.zeros_like(weight, requires_grad=False)}
    optimizer.start(MatrixExchange(runs, weights, rank), weights, list(matrices.values()))
    return optimizer


@pytest.mark.parametrize("size", ["0.03M", "0.5M", "1.1B"])
def test_every_matrix_of_a_layer_is_muons_and_nothing_else_of_the_model(size: str) -> None:
    with torch.device("meta"):
        backbone = TwoTrackBackbone(preset(size, layers=2))
    found = weights_of(backbone)
    in_layers = {n for n, p in backbone.named_parameters() if n.startswith("layers.") and p.dim() == 2}
    assert set(found) == in_layers
    count = count_parameters(preset(size, layers=2))
    shares = {"atom": count.atom_track, "pair": count.pair_track}
    for track, all_of_track in shares.items():
        of_track = weights_of(backbone, track)
        elements = sum(math.prod(weight.shape) for weight in of_track.values())
        assert elements == sum(math.prod(weight.matrix_shape) for weight in of_track.values())
        assert elements == count_hidden(preset(size, layers=2), [track])
        # Nearly all of a track; the rest are its norms and biases.
        assert 0.8 * all_of_track < elements < all_of_track
    assert len(found) == sum(len(weights_of(backbone, track)) for track in shares)


def test_a_matrix_is_the_linear_map_that_the_layer_computes() -> None:
    torch.manual_seed(0)
    layer = TwoTrackLayer(preset("0.03M"))
    weights = weights_of(layer)
    h, P = 4, 12
    # The outer product: h² products of two nodes' channels, mapped to P channels.
    a_h, b_h, stored = torch.randn(h), torch.randn(h), layer.outer_product.weight
    expected = torch.einsum("c,d,cdp->p", a_h, b_h, stored.view(h, h, P))
    (matrix,) = weights["outer_product.weight"].split(stored)
    assert torch.allclose(matrix @ torch.outer(a_h, b_h).flatten(), expected, atol=1e-6)
    assert matrix.shape == (P, h * h)
    # Stacked maps: each of them by itself.
    queries, keys, values = weights["attention.qkv_weight"].split(layer.attention.qkv_weight)
    x = torch.randn(16)
    assert torch.allclose(torch.cat([queries @ x, keys @ x, values @ x]), layer.attention.qkv_weight @ x, atol=1e-6)
    assert [weights[f"triangle.{name}_weight"].matrix_shape for name in ("project", "out", "gate")] == [
        (4, h, P),
        (1, P, h),
        (1, P, P),
    ]
    for name, weight in weights.items():
        tensor = layer.get_parameter(name)
        assert torch.equal(weight.join(weight.split(tensor)).view_as(tensor), tensor), name


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon to compare with")
@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (16, 16)])
def test_a_step_is_that_of_torch_with_the_size_of_adamws(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    optimizer = started({"w": ours}, dtype=torch.bfloat16)
    reference = torch.optim.Muon(
        [theirs], lr=RATE, weight_decay=DECAY, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(3):
        before, gradient = ours.detach().clone(), torch.randn(shape)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        reference.step()
        moved = ours.detach() - (1 - RATE * DECAY) * before
        # The root mean square of AdamW's is 0.2 to 0.4 times the learning rate, whatever the shape.
        assert moved.square().mean().sqrt() == pytest.approx(0.2 * RATE, rel=0.25)
    assert torch.allclose(ours, theirs, atol=2e-2 * RATE)


def test_the_pair_track_may_have_a_rate_of_its_own() -> None:
    torch.manual_seed(0)
    start, gradient = torch.zeros(12, 20), torch.randn(12, 20)
    weights = {name: nn.Parameter(start.clone()) for name in ("atom", "pair")}
    optimizer = started(weights, pair=["pair"], pair_rate=0.25)
    for weight in weights.values():
        weight.grad = gradient.clone()
    optimizer.step()
    assert weights["atom"].abs().min() > 0
    torch.testing.assert_close(weights["pair"], 0.25 * weights["atom"])


def test_a_step_in_fp32_makes_the_singular_values_alike_and_zeros_stay_zeros() -> None:
    torch.manual_seed(0)
    matrices_KRC = torch.randn(4, 10, 30) * torch.tensor([1e-6, 1.0, 1e6, 0.0]).view(4, 1, 1)
    for found in (orthogonalised(matrices_KRC, 5), orthogonalised(matrices_KRC.mT, 5).mT):
        values_KR = torch.linalg.svdvals(found[:3])
        assert ((values_KR > 0.6) & (values_KR < 1.3)).all()
        assert not found[3].any()
        # The same singular vectors: the product with the original is symmetric.
        product = found[1] @ matrices_KRC[1].T
        assert torch.allclose(product, product.T, atol=1e-4)


def test_the_work_is_counted() -> None:
    config = preset("0.2M")
    weights = weights_of(TwoTrackBackbone(config), "pair")
    with FlopCounterMode(display=False) as counter:
        for weight in weights.values():
            orthogonalised(weight.split(torch.randn(weight.shape)), 5)
    assert orthogonalisation_flops(config, ["pair"], 5) == counter.get_total_flops()


def test_before_it_is_started_nothing_moves() -> None:
    # DeepSpeed does a step while it is built.
    weight = nn.Parameter(torch.ones(3, 3))
    optimizer = MuonAdamW(
        [weight], [nn.Parameter(torch.ones(2))], lr=RATE, betas=(0.9, 0.99), weight_decay=DECAY, momentum=0.95,
        iterations=5, dtype=torch.float32,
    )  # fmt: skip
    for parameter in (weight, optimizer.param_groups[0]["params"][0]):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert (weight == 1).all()
    assert not optimizer.state


def test_ranks_share_the_work_evenly_in_rounds_that_all_agree_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix_exchange, "ROUND_ELEMENTS", 120)
    world, size = 3, 20
    weights = {f"w{k}": HiddenWeight(track="pair", shape=(4, 5), stacked=1) for k in range(30)}
    # As at stage 2: one concatenation, cut into three with no regard for matrices.
    held: list[list[Run]] = [[] for _ in range(world)]
    for rank, k in ((rank, k) for rank in range(world) for k in range(30)):
        start, stop = max(rank * 201, k * size), min((rank + 1) * 201, (k + 1) * size)
        if start < stop:
            run = Run(name=f"w{k}", start=start - k * size, length=stop - start, flat=1, offset=start - rank * 201)
            held[rank].append(run)
    plans = []
    for rank in range(world):
        this = OneOf(rank=rank, world_size=world, device=CPU)
        object.__setattr__(this, "held", tuple(held))
        exchange = MatrixExchange(held[rank], weights, this)
        plans.append(exchange.rounds([1]))
        assert not exchange.rounds([0])  # a tensor of AdamW's
    assert plans[0] == plans[1] == plans[2]
    assert [len(round_.owners) for round_ in plans[0]] == [18, 12]
    for round_ in plans[0]:
        assert len({len(round_.owned_by(rank)) for rank in range(world)}) == 1
