import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.conftest import REPOSITORY
from tests.helpers.molecules import random_columns
from tests.helpers.random_keys import keys, rotation
from unimol_scale.config import read_yaml, to_tree
from unimol_scale.data import corrupt
from unimol_scale.data.batch import collate
from unimol_scale.data.relations import NO_CLASS
from unimol_scale.errors import ConfigError
from unimol_scale.model import encodings, kernels
from unimol_scale.model.accounting import forward_flops
from unimol_scale.model.encodings import SHOWN_DISTANCE, SHOWN_EDGE, SHOWN_PATH
from unimol_scale.model.native.library import torch_only
from unimol_scale.model.presets import preset
from unimol_scale.objectives.base import total_loss
from unimol_scale.objectives.blend import BONDING_FEATURES, BlendConfig, BlendObjective, direction_loss

SIZES = [9, 4, 17, 1, 2, 12]
RATIO = (0.2, 0.2, 0.6)
# The defaults of earlier versions: atoms hide what describes bonds, and both directions of a pair share a draw.
SHY = BlendConfig(symmetric=True, show_degree=False, atom_features="own", heads="shared")
WAYS = pytest.mark.parametrize(("config", "edges"), [(BlendConfig(), "path"), (SHY, "bond")], ids=["paper", "shy"])


def sample(config=None, sizes=SIZES, epoch=0, edges="path"):
    objective = BlendObjective(config or BlendConfig(), edges)
    return objective, objective.corrupt(collate(random_columns(sizes)), keys(range(len(sizes)), epoch))


def opened_model(objective, size="0.1M", edges="path", **changes):
    """A model none of whose parts is silent, as some are at the start."""
    torch.manual_seed(0)
    model = objective.build_model(preset(size, edges=edges, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def outputs(model, made):
    """Everything that the model says of a sample."""
    representation = model.backbone(made.input)
    seen = (made.input.shown_BAA & SHOWN_DISTANCE) > 0
    r = made.input.coordinates_BA3
    return {
        "atom": representation.atom_BND,
        "pair": representation.pair_BNNP,
        "shift": model.coordinate_head(representation, r, seen) - r,
        **model.relation_heads(representation),
    }


def same(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


# What is shown


def test_every_pair_shows_exactly_one_relation_as_often_as_the_ratio_says():
    _, made = sample(SHY, sizes=[12] * 200)
    shown = made.input.shown_BAA
    assert torch.equal(shown, shown.transpose(1, 2))
    for bit, share in zip((SHOWN_PATH, SHOWN_EDGE, SHOWN_DISTANCE), RATIO, strict=True):
        assert (shown == bit).float().mean().item() == pytest.approx(share, abs=0.02)
    # Every molecule and every pair draws for itself, and again in another epoch.
    assert len({tuple(s.flatten().tolist()) for s in shown}) == 200
    alike = (shown[:, 0, 1] == shown[:, 0, 2]).float().mean().item()
    assert alike == pytest.approx(sum(p * p for p in RATIO), abs=0.1)
    assert not torch.equal(shown, sample(SHY, sizes=[12] * 200, epoch=1)[1].input.shown_BAA)


def test_the_independent_draw_of_the_paper_is_not_symmetric():
    _, made = sample(sizes=[12] * 200)
    shown = made.input.shown_BAA
    off_diagonal = ~torch.eye(12, dtype=torch.bool)
    alike = (shown == shown.transpose(1, 2))[:, off_diagonal].float().mean().item()
    assert alike == pytest.approx(sum(p * p for p in RATIO), abs=0.03)
    # A relation that the other direction shows is not hidden.
    both = shown | shown.transpose(1, 2)
    assert made.counts["hidden_distance"] == ((both & SHOWN_DISTANCE) == 0)[:, off_diagonal].sum().item()


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_draw_of_a_pair_does_not_depend_on_padding_or_company(symmetric):
    draw = corrupt.draw_relations(keys([3, 8, 5]), 9, RATIO, symmetric=symmetric)
    alone = corrupt.draw_relations(keys([8]), 4, RATIO, symmetric=symmetric)
    np.testing.assert_array_equal(draw[1, :4, :4], alone[0])


@pytest.mark.parametrize("view", range(3))
def test_a_single_view_shows_nothing_else_and_can_be_learnt_from(view):
    ratio = tuple(float(k == view) for k in range(3))
    objective, made = sample(BlendConfig(ratio=ratio))
    assert (made.input.shown_BAA == (SHOWN_PATH, SHOWN_EDGE, SHOWN_DISTANCE)[view]).all()
    assert ("noise" in objective.weights) == (view == 2)  # there is noise to predict only where 3D is seen
    name = ("path", "edge", "distance")[view]
    assert f"hidden_{name}" not in objective.weights
    model = objective.build_model(preset("0.03M"))
    sums = model(made)
    assert sums.keys() == made.counts.keys() == objective.weights.keys()
    total_loss(sums, made.counts, objective.weights).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_masked_pairs_show_nothing():
    for symmetric, hidden in ((True, 0.25), (False, 0.25**2)):  # a pair is hidden where neither direction shows it
        config = BlendConfig(ratio=(1.0, 0.0, 0.0), mask_fraction=0.25, symmetric=symmetric)
        _, made = sample(config, sizes=[20] * 50)
        assert (made.input.shown_BAA == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
        assert made.counts["hidden_path"] / made.counts["path"] == pytest.approx(hidden, abs=0.02)


def test_full_and_planar_molecules_show_all_of_what_they_show():
    config = BlendConfig(full_fraction=0.25, planar_fraction=0.15)
    objective, made = sample(config, sizes=[12] * 400)
    shown = made.input.shown_BAA
    full = (shown == SHOWN_PATH | SHOWN_EDGE | SHOWN_DISTANCE).all(2).all(1)
    planar = (shown == SHOWN_PATH | SHOWN_EDGE).all(2).all(1)
    assert full.float().mean().item() == pytest.approx(0.25, abs=0.05)
    assert planar.float().mean().item() == pytest.approx(0.15, abs=0.05)
    # The others are blended as they would be without these.
    others = ~(full | planar)
    assert torch.equal(shown[others], sample(sizes=[12] * 400)[1].input.shown_BAA[others])
    # A planar molecule shows no noise, and a full one that of every atom.
    assert not made.noised_BA[planar].any()
    assert made.noised_BA[full].all()
    assert made.counts["noise"] == made.noised_BA.sum().item()
    assert objective.weights.keys() == made.counts.keys()


@pytest.mark.parametrize(
    ("config", "hidden"),
    [
        (BlendConfig(full_fraction=1.0), set()),
        (BlendConfig(planar_fraction=1.0), {"distance"}),
        (BlendConfig(full_fraction=0.5, planar_fraction=0.5), {"distance"}),
        (BlendConfig(ratio=(1.0, 0.0, 0.0), planar_fraction=0.5), {"edge", "distance"}),
    ],
)
def test_what_molecules_without_blending_hide(config, hidden):
    objective, made = sample(config, sizes=[12] * 20)
    assert {name.removeprefix("hidden_") for name in objective.weights if name.startswith("hidden_")} == hidden
    shown = made.input.shown_BAA
    assert (made.noised_BA.any(1) == ((shown & SHOWN_DISTANCE) > 0).all(2).all(1)).all()
    assert objective.heads.coordinate == config.predicts_noise == (config.full_fraction > 0)
    sums = opened_model(objective)(made)
    off_diagonal = ~torch.eye(12, dtype=torch.bool)
    unseen = (shown | shown.transpose(1, 2)) & SHOWN_DISTANCE == 0
    if "distance" in hidden:
        assert made.counts["hidden_distance"] == unseen[:, off_diagonal].sum().item() > 0
        assert 0 < sums["hidden_distance"] <= sums["distance"]


@pytest.mark.parametrize("symmetric", [True, False])
def test_each_direction_of_a_pair_is_shown_by_a_draw_of_its_own_or_the_same(symmetric):
    _, made = sample(BlendConfig(symmetric=symmetric), sizes=[12] * 200)
    shown = made.input.shown_BAA
    there, back = ((it & SHOWN_DISTANCE > 0).float()[:, 1, 5] for it in (shown, shown.transpose(1, 2)))
    both = (there * back).mean().item()
    expected = RATIO[2] if symmetric else RATIO[2] ** 2
    assert both == pytest.approx(expected, abs=0.1)


# Nothing of what is hidden gets in


def changed_bonds(made, chosen_BAA, path_bonds=None):
    """The sample with other bonds between the chosen pairs, and of the paths what they are or are given."""
    values = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (*chosen_BAA.shape, 1)).repeat(3, -1))
    bonds = torch.where(chosen_BAA[..., None], values.to(torch.uint8), made.input.bond_features_BAA3)
    change = {"bond_features_BAA3": bonds} | ({} if path_bonds is None else {"path_bonds_BAAS": path_bonds})
    return dataclasses.replace(made, input=dataclasses.replace(made.input, **change))


def test_bonds_reach_the_model_along_the_paths_of_pairs_that_show_their_edge_only():
    objective, made = sample()
    model = opened_model(objective)
    before, shown = outputs(model, made), (made.input.shown_BAA & SHOWN_EDGE) > 0
    bonds = made.input.path_bonds_BAAS
    other = torch.randint(1, 61, bonds.shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    real = made.input.valid_BA[:, :, None] & made.input.valid_BA[:, None, :]
    for where, reaches in ((~shown, False), (shown & real, True)):
        # The bonds themselves are read along paths alone.
        said = outputs(model, changed_bonds(made, where | ~where, torch.where(where[..., None], other, bonds)))
        assert same(said, before) != reaches
    # A bond on no path of a pair that shows its edge is hidden everywhere: the model says the same without it.
    hidden = dataclasses.replace(
        made.input, shown_BAA=torch.where(shown, torch.tensor(SHOWN_PATH, dtype=torch.uint8), made.input.shown_BAA)
    )
    none = dataclasses.replace(made, input=dataclasses.replace(hidden, path_bonds_BAAS=None))
    said = outputs(model, none)
    assert same(outputs(model, changed_bonds(none, shown | ~shown)), said)


@pytest.mark.parametrize("symmetric", [True, False])
def test_hidden_paths_and_edges_can_not_reach_the_model(symmetric):
    objective, made = sample(dataclasses.replace(SHY, symmetric=symmetric), edges="bond")
    model = opened_model(objective, edges="bond")
    shown, rng = made.input.shown_BAA, np.random.default_rng(0)

    def changed(bit, where_shown):
        chosen = ((shown & bit) > 0) == where_shown
        if bit == SHOWN_PATH:
            values = torch.from_numpy(rng.integers(1, 9, shown.shape).astype(np.int16))
            change = {"path_BAA": torch.where(chosen, values, made.input.path_BAA)}
        else:
            values = torch.from_numpy(rng.integers(0, 3, (*shown.shape, 1)).repeat(3, -1).astype(np.uint8))
            change = {"bond_features_BAA3": torch.where(chosen[..., None], values, made.input.bond_features_BAA3)}
        return dataclasses.replace(made, input=dataclasses.replace(made.input, **change))

    before = outputs(model, made)
    for bit in (SHOWN_PATH, SHOWN_EDGE):
        assert same(outputs(model, changed(bit, where_shown=False)), before)
        assert not same(outputs(model, changed(bit, where_shown=True)), before)


def test_degree_and_features_that_describe_bonds_can_not_reach_the_model():
    batch = collate(random_columns(SIZES))
    rng = np.random.default_rng(0)
    features = batch.atom_features_BA8.copy()
    features[..., BONDING_FEATURES] = rng.integers(0, 2, features[..., BONDING_FEATURES].shape)
    other = dataclasses.replace(
        batch, atom_features_BA8=features, degree_BA=rng.integers(1, 5, batch.degree_BA.shape).astype(np.uint8)
    )
    objective = BlendObjective(BlendConfig(show_degree=False, atom_features="own"), "path")
    model = opened_model(objective)
    before, after = (outputs(model, objective.corrupt(b, keys(range(6)))) for b in (batch, other))
    assert same(before, after)
    for config in (BlendConfig(show_degree=False), BlendConfig(atom_features="own")):
        objective = BlendObjective(config, "path")
        before, after = (outputs(model, objective.corrupt(b, keys(range(6)))) for b in (batch, other))
        assert not same(before, after)


@WAYS
@pytest.mark.parametrize("pair_type", ["element", "chirality"])
def test_hidden_distances_have_exactly_no_gradient_and_no_influence(pair_type, config, edges, monkeypatch):
    config = dataclasses.replace(config, full_fraction=0.2, planar_fraction=0.2)
    objective, made = sample(config, edges=edges)
    torch.manual_seed(0)
    model = objective.build_model(preset("0.1M", pair_type=pair_type, edges=edges)).eval()
    real = made.input.valid_BA[:, :, None] & made.input.valid_BA[:, None, :]
    shown = ((made.input.shown_BAA & SHOWN_DISTANCE) > 0) & real
    distance = encodings.pairwise_distances(made.input.coordinates_BA3).requires_grad_()
    monkeypatch.setattr(encodings, "pairwise_distances", lambda _: distance)
    with torch_only():  # the C kernels compute distances by themselves
        said = outputs(model, made)
    sum(said[name][real].square().sum() for name in ("path", "edge", "distance")).backward()
    assert not distance.grad[~shown].any()
    assert distance.grad[shown & (distance > 0)].ne(0).all()
    other = torch.where(shown | ~real, distance, distance + 3.0).detach()
    monkeypatch.setattr(encodings, "pairwise_distances", lambda _: other)
    with torch_only():
        assert same(outputs(model, made), said)


def test_an_atom_hidden_in_space_may_be_anywhere():
    objective, made = sample(sizes=[9, 6])
    shown = made.input.shown_BAA.clone()
    shown[:, 2] = SHOWN_EDGE
    shown[:, :, 2] = SHOWN_PATH
    model = opened_model(objective)
    moved = made.input.coordinates_BA3.clone()
    moved[:, 2] += torch.tensor([3.0, -1.0, 2.0])
    before, after = (
        outputs(model, dataclasses.replace(made, input=dataclasses.replace(made.input, **change)))
        for change in ({"shown_BAA": shown}, {"shown_BAA": shown, "coordinates_BA3": moved})
    )
    torch.testing.assert_close(before.pop("shift"), after.pop("shift"), rtol=0, atol=2e-6)  # of r_2 + shift − r_2
    assert same(before, after)


def test_the_noise_is_read_off_the_pairs_shown_in_space_only():
    objective, made = sample(sizes=[9])
    model = opened_model(objective)
    seen = ((made.input.shown_BAA & SHOWN_DISTANCE) > 0)[0]
    representation = model.backbone(made.input)
    r = made.input.coordinates_BA3.clone().requires_grad_()
    shift = model.coordinate_head(representation, r, seen[None]) - r
    for i in range(9):
        (gradient,) = torch.autograd.grad(shift[0, i].sum(), r, retain_graph=True)
        reached = gradient[0].abs().sum(1) > 1e-9
        others = torch.arange(9) != i
        assert torch.equal(reached[others], seen[i][others])


# What is predicted


def test_targets_are_clean_and_cover_every_pair_of_different_atoms():
    batch = collate(random_columns(SIZES))
    _, made = sample()
    pairs = sum(n * (n - 1) for n in SIZES)
    assert made.counts["path"] == made.counts["distance"] == pairs  # trees: everything is reachable
    assert made.counts["path"] == (made.path_BAA != NO_CLASS).sum().item()
    assert made.counts["edge"] > pairs
    assert made.counts["noise"] == made.noised_BA.sum().item() > 0
    assert not made.noised_BA[3].any()  # one atom
    assert torch.equal(made.clean_BA3, torch.from_numpy(batch.coordinates_BA3))
    noise = (made.input.coordinates_BA3 - made.clean_BA3)[2, :17]
    assert 0.1 < noise.std() < 0.3
    assert noise.mean(0).abs().max() < 1e-5  # a shift of the whole molecule is not to be seen


@WAYS
def test_metrics_are_the_terms_over_what_is_hidden_and_are_not_learnt(config, edges):
    objective, made = sample(config, edges=edges)
    model = opened_model(objective, edges=edges)
    sums = model(made)
    for name in ("path", "edge", "distance"):
        assert 0 < made.counts[f"hidden_{name}"] < made.counts[name]
        assert 0 < sums[f"hidden_{name}"] < sums[name]
        assert objective.weights[f"hidden_{name}"] == 0.0
        assert not sums[f"hidden_{name}"].requires_grad
    bit = SHOWN_DISTANCE
    error = (model.relation_heads(model.backbone(made.input))["distance"][..., 0]
             - encodings.pairwise_distances(made.clean_BA3)).abs()  # fmt: skip
    valid = made.input.valid_BA
    known = made.input.shown_BAA | made.input.shown_BAA.transpose(1, 2)
    hidden = valid[:, :, None] & valid[:, None] & ~torch.eye(17, dtype=torch.bool) & (known & bit == 0)
    torch.testing.assert_close(sums["hidden_distance"], error[hidden].sum())


def test_losses_do_not_change_when_a_molecule_is_turned():
    objective, made = sample()
    model = opened_model(objective)
    turn = torch.from_numpy(rotation(3)).float()
    turned = dataclasses.replace(
        made,
        clean_BA3=made.clean_BA3 @ turn,
        input=dataclasses.replace(made.input, coordinates_BA3=made.input.coordinates_BA3 @ turn),
    )
    before, after = model(made), model(turned)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-4, atol=1e-4)


def test_the_direction_of_the_noise_is_what_counts():
    target = torch.tensor([[[0.1, 0.0, 0.0], [0.0, 0.2, 0.0]]])
    chosen = torch.tensor([[True, True]])
    assert direction_loss(5 * target, target, chosen).item() == pytest.approx(0.0, abs=2e-3)
    assert direction_loss(-5 * target, target, chosen).item() == pytest.approx(4.0, abs=2e-3)
    silent = torch.zeros_like(target, requires_grad=True)
    loss = direction_loss(silent, target, chosen)
    loss.backward()
    assert loss.item() == pytest.approx(2.0)
    assert (silent.grad * target).sum() < 0  # even the zero vector has a slope toward the target


@pytest.mark.parametrize("sizes", [[1], [1, 1], [2], [1, 3]])
def test_the_smallest_molecules_give_finite_losses_and_gradients(sizes):
    objective, made = sample(sizes=sizes)
    model = objective.build_model(preset("0.1M", edges="path"))
    sums = model(made)
    loss = total_loss(sums, made.counts, objective.weights)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    if max(sizes) == 1:
        assert loss == 0
        assert not any(made.counts.values())


def test_a_batch_cut_into_pieces_gives_the_same_terms():
    torch.manual_seed(0)
    objective, whole = sample(BlendConfig(full_fraction=0.2, planar_fraction=0.2))
    model = objective.build_model(preset("0.1M", edges="path"))
    columns = random_columns(SIZES)
    parts = []
    for members in ([0, 2], [1, 3, 4, 5]):
        parts.append(objective.corrupt(collate(columns.take(np.array(members))), keys(members)))
    assert {name: sum(p.counts[name] for p in parts) for name in whole.counts} == whole.counts
    full, pieces = model(whole), [model(part) for part in parts]
    for name, value in full.items():
        torch.testing.assert_close(sum(piece[name] for piece in pieces), value, rtol=1e-5, atol=1e-5)


# The model


@WAYS
def test_every_parameter_gets_a_gradient(config, edges):
    objective, made = sample(config, sizes=[9, 14, 7, 11], edges=edges)
    model = opened_model(objective, edges=edges).train()
    total_loss(model(made), made.counts, objective.weights).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A bias added alike to all keys of an attention cannot change it.
    assert [name for name in silent if not name.endswith("pair_bias.bias")] == []


@pytest.mark.parametrize(
    "config",
    [
        BlendConfig(),
        BlendConfig(noise_weight=0.0),
        BlendConfig(edge_weight=0.0, distance_weight=0.0),
        BlendConfig(path_weight=0.0, edge_weight=0.0, distance_weight=0.0),
        BlendConfig(ratio=(0.5, 0.5, 0.0)),
        BlendConfig(ratio=(0.5, 0.5, 0.0), full_fraction=0.5),
        SHY,
        dataclasses.replace(SHY, edge_weight=0.0, distance_weight=0.0),
    ],
)
@pytest.mark.parametrize("edges", ["path", "bond"])
def test_heads_are_built_only_when_used_and_counted_as_built(config, edges, monkeypatch):
    monkeypatch.setattr(kernels, "ONEDNN_MIN_WIDTH", 1 << 30)  # torch's counter does not know oneDNN's product
    objective, made = sample(config, sizes=[14, 14], edges=edges)
    size = preset("1M", edges=edges)
    model = objective.build_model(size).eval()
    count = objective.count_parameters(size)
    assert sum(p.numel() for p in model.parameters()) == count.total
    backbone = sum(p.numel() for p in model.backbone.parameters())
    assert count.total - backbone == count.heads
    assert hasattr(model, "coordinate_head") == config.predicts_noise
    assert hasattr(model, "relation_heads") == bool(config.relations)
    assert not hasattr(model, "token_head")
    with torch_only(), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(made)
    assert forward_flops(size, 14, objective.heads) * 2 == pytest.approx(counter.get_total_flops(), rel=0.02)


@WAYS
def test_the_model_overfits_thirty_two_molecules(config, edges):
    torch.manual_seed(0)
    config = dataclasses.replace(config, path_weight=1.0, edge_weight=1.0, distance_weight=1.0, noise_weight=1.0)
    objective = BlendObjective(config, edges)
    made = objective.corrupt(collate(random_columns([4 + i % 4 for i in range(32)])), keys(range(32)))
    model = objective.build_model(preset("0.1M", edges=edges))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    history = []
    for _ in range(160):
        optimizer.zero_grad()
        sums = model(made)
        total_loss(sums, made.counts, objective.weights).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        history.append({name: value.item() / made.counts[name] for name, value in sums.items()})
    first, last = history[0], history[-1]
    for name, share in {"path": 0.03, "edge": 0.03, "distance": 0.2}.items():
        assert last[name] < share * first[name]
        assert last[f"hidden_{name}"] < share * first[f"hidden_{name}"]
    # Its floor is above zero: an atom that sees one other in space can be moved along one line only.
    assert last["noise"] < 0.35 * first["noise"]


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r"blend\.ratio \[0\.2, 0\.2, 0\.5\] must sum to 1, its sum is 0\.9"):
        BlendConfig(ratio=(0.2, 0.2, 0.5))
    with pytest.raises(ConfigError, match="three probabilities"):
        BlendConfig(ratio=(0.5, 0.5))
    with pytest.raises(ConfigError, match="three probabilities"):
        BlendConfig(ratio=(1.2, -0.2, 0.0))
    with pytest.raises(ConfigError, match=r"blend\.mask_fraction must be in \[0, 1\]"):
        BlendConfig(mask_fraction=1.5)
    with pytest.raises(ConfigError, match=r"blend\.planar_fraction must be in \[0, 1\]"):
        BlendConfig(planar_fraction=-0.1)
    with pytest.raises(ConfigError, match="their sum must be at most 1"):
        BlendConfig(full_fraction=0.6, planar_fraction=0.6)
    with pytest.raises(ConfigError, match="noise_std must be"):
        BlendConfig(noise_std=0.0)
    with pytest.raises(ConfigError, match="nothing to predict"):
        BlendConfig(path_weight=0.0, edge_weight=0.0, distance_weight=0.0, noise_weight=0.0)
    BlendConfig(ratio=(1 / 3, 1 / 3, 1 / 3))
    with pytest.raises(ConfigError, match=r"model\.geometry is false"):
        BlendObjective(BlendConfig()).check(preset("0.1M", geometry=False))
    with pytest.raises(ConfigError, match=r"full_fraction shows distances"):
        BlendObjective(BlendConfig(ratio=(0.5, 0.5, 0.0), full_fraction=0.1)).check(preset("0.1M", geometry=False))
    BlendObjective(BlendConfig(planar_fraction=1.0)).check(preset("0.1M", geometry=False))
    BlendObjective(BlendConfig(ratio=(0.5, 0.5, 0.0))).check(preset("0.1M", geometry=False))


def test_the_configuration_file_states_every_default():
    tree, _ = read_yaml(REPOSITORY / "configs" / "pretrain" / "blend.yaml")
    assert tree["objective"] == {"name": "blend", "blend": to_tree(BlendConfig())}
