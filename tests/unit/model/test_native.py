"""The C kernels of both tracks against those of torch in fp64, and where a machine has them or has them not."""

import contextlib
import copy
import dataclasses
import logging
import math

import pytest
import torch

from tests.helpers.molecules import random_columns
from tests.helpers.random_keys import keys
from unimol_scale.data.batch import collate
from unimol_scale.model import kernels
from unimol_scale.model.layers import FeedForward, OuterProduct, PairBiasedAttention
from unimol_scale.model.native import library
from unimol_scale.model.native.library import suits, suits_nodes, torch_only
from unimol_scale.model.node_masks import NodeMasks
from unimol_scale.model.presets import ModelConfig, preset
from unimol_scale.model.track_updates import channel_first_linear, feed_forward, triangle
from unimol_scale.objectives.base import PretrainingModel, Sample
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseObjective

# Nodes, pair and hidden channels: whole vectors or not, several blocks of rows or a part of one.
SHAPES = [(1, 12, 4), (9, 24, 8), (11, 48, 12), (33, 80, 16), (4, 7, 3), (20, 170, 20)]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, requires_grad=True)


def assert_same_function(function, arguments) -> None:
    """Equal values and gradients, C in fp32 and torch in fp64, of every argument that has one."""
    assert suits(arguments[0]), "there is a C compiler where this is tested"
    direction = None
    results = []
    for dtype in (torch.float64, torch.float32):
        inputs = [x.detach().to(dtype).requires_grad_(x.requires_grad) for x in arguments]
        y = function(*inputs)
        assert ("Native" in type(y.grad_fn).__name__) == (dtype == torch.float32)
        direction = torch.randn(y.shape) if direction is None else direction
        wanted = [x for x in inputs if x.requires_grad]
        results.append([y, *torch.autograd.grad(y, wanted, direction.to(dtype))])
    for expected, found in zip(*results, strict=True):
        scale = max(expected.abs().max().item(), 1.0)
        assert (found - expected).abs().max().item() < 3e-6 * scale


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize(("N", "P", "h"), SHAPES)
def test_feed_forward(N, P, h, residual):
    H = P + h
    arguments = (random(2, N, N, P), random(P), random(P), random(H, P), random(H), random(P, H), random(P))
    assert_same_function(lambda *a: feed_forward(*a, residual=residual, dropout=0.0), arguments)


# Atom and pair channels, heads, hidden pair channels: whole vectors or not, heads of one vector, of parts, of several.
WIDTHS = [
    (16, 12, 1, 4),
    (48, 24, 3, 8),
    (20, 7, 4, 3),
    (96, 48, 2, 12),
    (176, 80, 11, 16),
    (256, 32, 16, 8),
    (80, 20, 2, 20),
]
NODES = [[1], [5, 1, 9], [46, 2, 17, 33, 24, 8], [16, 16, 16]]


def branch_of(module: type, width: tuple[int, int, int, int]) -> torch.nn.Module:
    D, P, heads, h = width
    config = ModelConfig(
        layers=1, atom_width=D, heads=heads, ffn_width=D + 8, pair_width=P, pair_hidden=h, attention_dropout=0.0
    )
    made = FeedForward(D, D + 8, 1.0, 0.0) if module is FeedForward else module(config)
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made


def update_of(branch: torch.nn.Module, atom_BND, pair_BNNP, masks: NodeMasks, residual: bool) -> torch.Tensor:
    if isinstance(branch, FeedForward):
        return branch(atom_BND, masks, residual=residual)
    return branch(atom_BND, pair_BNNP, masks, residual=residual)


@pytest.mark.parametrize("nodes", NODES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("module", [PairBiasedAttention, FeedForward, OuterProduct])
def test_branches_of_molecules_of_all_sizes(module, width, nodes):
    residual = len(nodes) != 1
    B, N = len(nodes), max(nodes)
    valid_BN = torch.arange(N) < torch.tensor(nodes)[:, None]
    atom_BND, pair_BNNP = torch.randn(B, N, width[0]), torch.randn(B, N, N, width[1])
    branch, direction, results = branch_of(module, width), None, []
    for dtype in (torch.float64, torch.float32):
        masks = NodeMasks.of(valid_BN, valid_BN.sum(1).float().to(dtype), dtype)
        inputs = [x.to(dtype).requires_grad_() for x in (atom_BND, pair_BNNP)]
        made = copy.deepcopy(branch).to(dtype)
        y = update_of(made, *inputs, masks, residual)
        assert ("Native" in type(y.grad_fn).__name__) == (dtype == torch.float32)
        real = valid_BN.unsqueeze(-1) if y.dim() == 3 else (valid_BN[:, :, None] & valid_BN[:, None]).unsqueeze(-1)
        direction = torch.randn(y.shape) * real if direction is None else direction
        gradients = torch.autograd.grad(y, [*inputs, *made.parameters()], direction.to(dtype), allow_unused=True)
        assert y.isfinite().all()
        results.append([y * real, *gradients])
    names = ["y", "atoms", "pairs", *(name for name, _ in branch.named_parameters())]
    for name, expected, found in zip(names, *results, strict=True):
        assert (expected is None) == (found is None)
        if expected is not None:
            scale = max(expected.abs().max().item(), 1.0)
            small = 5e-5 if name == "pair_bias" else 5e-6  # moves a softmax as a whole: only rounding
            assert (found - expected).abs().max().item() < small * scale, name
    for found, padding in ((results[1][1], ~valid_BN), (results[1][2], ~(valid_BN[:, :, None] & valid_BN[:, None]))):
        assert found is None or (found[padding] == 0).all()


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize(("N", "P", "h"), SHAPES)
def test_triangle(N, P, h, residual):
    scale = torch.rand(2, 1, N, N)
    scale[1, :, N // 2 :] = 0.0
    scale[1, ..., N // 2 :] = 0.0
    gain = P**-0.5
    arguments = (
        random(2, N, N, P), scale, random(P), random(P), (gain * random(4 * h, P)).detach().requires_grad_(),
        random(4 * h), random(h), random(h), random(P, h), random(P), random(P, P), random(P),
    )  # fmt: skip
    assert_same_function(lambda *a: triangle(*a, residual=residual), arguments)


@pytest.mark.parametrize(("N", "P", "h"), SHAPES)
def test_channel_first_linear(N, P, h):
    assert_same_function(channel_first_linear, (random(2, N, N, P), random(h, P), random(h)))


def model_and_sample(shown: bool) -> tuple[PretrainingModel, Sample]:
    """A model of two layers, and molecules of which one fills no node that others need."""
    config = preset("0.1M", pair_hidden=5)
    made = DenoiseObjective(DenoiseConfig(hide_features=0.3))
    sample = made.corrupt(collate(random_columns([5, 17, 30, 1])), keys([0, 1, 2, 3]))
    if shown:
        shown_BAA = torch.randint(0, 8, sample.input.path_BAA.shape, dtype=torch.uint8)
        sample = dataclasses.replace(sample, input=dataclasses.replace(sample.input, shown_BAA=shown_BAA))
    return made.build_model(config), sample


@pytest.mark.parametrize("shown", [False, True])
def test_a_whole_model_of_molecules_of_all_sizes(shown):
    model, sample = model_and_sample(shown)
    for parameter in model.parameters():  # biases and gates that matter
        parameter.data += 0.1 * torch.randn_like(parameter)
    results = []
    for native in (False, True):
        with contextlib.nullcontext() if native else torch_only():
            if native:
                assert "Native" in type(model.backbone.pair_encoding(sample.input).grad_fn).__name__
            sums = model(sample)
            gradients = torch.autograd.grad(sum(sums.values()), list(model.parameters()), allow_unused=True)
            results.append((sums, gradients))
    for name, value in results[0][0].items():
        torch.testing.assert_close(results[1][0][name], value, rtol=1e-5, atol=1e-5)
    for (name, _), expected, found in zip(model.named_parameters(), results[0][1], results[1][1], strict=True):
        if "attention.pair_bias" not in name:  # moves a softmax as a whole: only rounding
            assert (found - expected).norm() < 1e-4 * expected.norm() + 1e-6, name


def test_pairs_of_padding_are_zero_and_nobody_sees_them():
    model, sample = model_and_sample(False)
    seen = model.backbone(sample.input)
    padding_BNN = ~(seen.valid_BN[:, :, None] & seen.valid_BN[:, None, :])
    assert padding_BNN.any()
    assert (seen.pair_BNNP[padding_BNN] == 0).all()
    alone = dataclasses.replace(
        sample.input, **{f.name: getattr(sample.input, f.name)[:1] for f in dataclasses.fields(sample.input)
                         if getattr(sample.input, f.name) is not None}
    )  # fmt: skip
    assert torch.equal(model.backbone(alone).pair_BNNP[0], seen.pair_BNNP[0])


def test_gelu_and_its_slope_everywhere():
    value = torch.linspace(-14, 14, 190)
    up, down = value.clone().view(-1, 1).requires_grad_(), torch.ones(1, 190, requires_grad=True)
    one, zero = torch.ones(1), torch.zeros(1)
    # The norm of a single channel is its bias, so that W₁ is what GELU sees, and W₂'s gradient what it makes of it.
    y = feed_forward(torch.zeros(1, 1), one, one, up, torch.zeros(190), down, zero, residual=False, dropout=0.0)
    slope, found = torch.autograd.grad(y, (up, down))
    exact = value.double().requires_grad_()
    expected = torch.nn.functional.gelu(exact)
    torch.testing.assert_close(found[0], expected.detach().float(), rtol=1e-6, atol=6e-7)
    (steepness,) = torch.autograd.grad(expected.sum(), exact)
    torch.testing.assert_close(slope[:, 0], steepness.float(), rtol=1e-6, atol=6e-7)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stays_so(value):
    x = torch.randn(1, 5, 5, 16)
    x[0, 1, 2, 3] = value
    weights = [torch.randn(*shape) for shape in ((16,), (16,), (16, 16), (16,), (16, 16), (16,))]
    x.requires_grad_()
    y = feed_forward(x, *weights, residual=True, dropout=0.0)
    assert not y[0, 1, 2].isfinite().any()
    assert y.isfinite().sum() == 24 * 16
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert not grad[0, 1, 2].isfinite().any()


@pytest.mark.parametrize("module", [PairBiasedAttention, OuterProduct])
def test_what_is_not_finite_is_seen_in_its_molecule_and_in_no_other(module):
    branch = branch_of(module, WIDTHS[0])
    valid_BN = torch.ones(2, 5, dtype=torch.bool)
    masks = NodeMasks.of(valid_BN, valid_BN.sum(1).float(), torch.float32)
    atom_BND, pair_BNNP = torch.randn(2, 5, 16).requires_grad_(), torch.randn(2, 5, 5, 12)
    with torch.no_grad():
        atom_BND[0, 2, 3] = math.nan
    y = branch(atom_BND, pair_BNNP, masks, residual=True)
    (grad_BND,) = torch.autograd.grad(y.sum(), atom_BND)
    for found in (y, grad_BND):
        assert not found[0].isfinite().all()
        assert found[1].isfinite().all()
    branch.norm_weight.data[0] = math.inf
    assert not branch(atom_BND, pair_BNNP, masks, residual=True)[1].isfinite().all()


def test_only_what_it_computes_is_left_to_it():
    x = torch.zeros(3, 8)
    assert suits(x)
    assert not suits(x, x.double())
    assert not suits(x.bfloat16())
    assert not suits(x.to("meta"))
    assert not suits(torch.zeros(3, library.MAX_WIDTH + 1))
    assert suits_nodes(torch.zeros(3, library.MAX_WIDTH + 1))
    assert not suits_nodes(torch.zeros(3, library.MAX_NODE_WIDTH + 1))
    with torch_only():
        assert not suits(x)
    torch.set_num_threads(2)
    assert not suits(x)


@pytest.mark.parametrize("compiler", ["true", "false"])
def test_without_a_library_torch_computes(compiler, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("CC", compiler)  # makes nothing, or fails
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library._load.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert not suits(torch.zeros(3, 8))
        assert f"{compiler} could not compile the CPU kernels" in caplog.text
        x = random(1, 3, 3, 8)
        found = channel_first_linear(x, torch.ones(2, 8), torch.zeros(2))
        expected = kernels.channel_first_linear(x, torch.ones(2, 8), torch.zeros(2))
        assert torch.equal(found, expected)
    finally:
        library._load.cache_clear()


def test_a_library_is_compiled_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library._load.cache_clear()
    try:
        assert suits(torch.zeros(3, 8))
        (made,) = (tmp_path / "unimol-scale").glob("*.so")
        before = made.stat().st_mtime_ns
        library._load.cache_clear()
        assert suits(torch.zeros(3, 8))
        assert made.stat().st_mtime_ns == before
        assert list((tmp_path / "unimol-scale").iterdir()) == [made]
        # Where others may write, nothing is loaded from: the next folder is taken.
        monkeypatch.setattr(library.tempfile, "gettempdir", lambda: str(tmp_path))
        (tmp_path / "unimol-scale").chmod(0o777)
        library._load.cache_clear()
        assert suits(torch.zeros(3, 8))
        assert len(list(tmp_path.glob("unimol-scale-*/*.so"))) == 1
    finally:
        library._load.cache_clear()
