import dataclasses

import numpy as np
import pytest
import torch

from tests.helpers.molecules import random_columns
from tests.helpers.random_keys import keys, rotation
from unimol_scale.data.batch import collate
from unimol_scale.data.vocabulary import TOKEN_MASK
from unimol_scale.errors import ConfigError
from unimol_scale.model.accounting import Heads
from unimol_scale.model.presets import preset
from unimol_scale.objectives.base import total_loss
from unimol_scale.objectives.denoise import (
    DenoiseConfig,
    DenoiseObjective,
    coordinate_loss,
    distance_loss,
    noise_loss,
)
from unimol_scale.store.schema import ConformerOrigin

SIZES = [9, 4, 17, 1, 2, 12]


def sample(config=None, sizes=SIZES, epoch=0):
    objective = DenoiseObjective(config or DenoiseConfig())
    return objective, objective.corrupt(collate(random_columns(sizes)), keys(range(len(sizes)), epoch))


def test_targets_are_the_clean_molecule_and_inputs_hide_it():
    _, made = sample(DenoiseConfig(mask_fraction=0.5))
    assert made.masked_BA.any()
    assert (made.input.token_BA[made.masked_BA] == TOKEN_MASK).all()
    shown = made.input.valid_BA & ~made.masked_BA
    assert torch.equal(made.input.token_BA[shown], made.atomic_number_BA[shown])
    moved = (made.input.coordinates_BA3 - made.clean_BA3)[made.input.valid_BA].abs()
    assert 0.01 < moved.mean() < 0.3


def test_flat_geometry_is_given_only_with_shown_features_and_is_its_own_target():
    _, made = sample(DenoiseConfig(hide_features=0.5, flat_geometry=1.0), sizes=[6] * 40)
    flat = (made.clean_BA3[..., 2] == 0).all(1)
    assert torch.equal(flat, ~made.input.hidden_B)
    assert 5 < int(flat.sum()) < 35


def test_a_batch_cut_into_pieces_gives_the_same_loss():
    torch.manual_seed(0)
    objective = DenoiseObjective(DenoiseConfig())
    model = objective.build_model(preset("0.1M"))
    whole = objective.corrupt(collate(random_columns(SIZES)), keys(range(len(SIZES))))
    full = total_loss(model(whole), whole.counts, objective.weights)
    columns = random_columns(SIZES)
    parts = []
    for members in ([0, 2], [1, 3, 4, 5]):
        batch = collate(columns.take(np.array(members)))
        parts.append(objective.corrupt(batch, keys(members)))
    pieces = sum(total_loss(model(part), whole.counts, objective.weights) for part in parts)
    assert {name: sum(p.counts[name] for p in parts) for name in whole.counts} == whole.counts
    torch.testing.assert_close(pieces, full, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [[1], [1, 1], [2]])
def test_the_smallest_molecules_give_finite_losses_and_gradients(sizes):
    objective, made = sample(DenoiseConfig(mask_fraction=0.0), sizes=sizes)
    model = objective.build_model(preset("0.1M"))
    loss = total_loss(model(made), made.counts, objective.weights)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_losses_are_zero_at_the_target_and_in_ångström_elsewhere():
    clean = torch.randn(2, 4, 3)
    valid = torch.tensor([[True] * 4, [True, True, False, False]])
    assert coordinate_loss(clean, clean, valid) == 0
    assert distance_loss(clean, clean, valid) == 0
    shifted = clean + torch.tensor([1.0, 0.0, 0.0])
    assert coordinate_loss(shifted, clean, valid).item() == pytest.approx(2.0)  # 1 Å for each of two molecules
    assert distance_loss(shifted, clean, valid).item() == pytest.approx(0.0, abs=1e-5)


def test_every_parameter_gets_a_gradient_once_the_residual_branches_have_opened():
    torch.manual_seed(0)
    objective, made = sample(DenoiseConfig(mask_fraction=0.5, hide_features=0.5), sizes=[9, 14, 7, 11])
    model = objective.build_model(preset("0.1M"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    total_loss(model(made), made.counts, objective.weights).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A bias added alike to all keys of an attention cannot change it.
    assert [name for name in silent if not name.endswith("pair_bias.bias")] == []


@pytest.mark.parametrize(("predict", "floor"), [("geometry", 0.15), ("noise", 0.3)])
def test_the_model_overfits_thirty_two_molecules(predict, floor):
    torch.manual_seed(0)
    mask_fraction = 0.15 if predict == "geometry" else 0.0
    objective = DenoiseObjective(
        DenoiseConfig(predict=predict, hide_features=0.0, flat_geometry=0.0, mask_fraction=mask_fraction)
    )
    columns = random_columns([5 + i % 6 for i in range(32)])
    made = objective.corrupt(collate(columns), keys(range(32)))
    config = dataclasses.replace(preset("0.2M"), layers=2)
    model = objective.build_model(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = total_loss(model(made), made.counts, objective.weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    # Of the noise, the shift of the whole molecule cannot be seen: a share of 1/n of it stays, here about 1/7.
    assert losses[-1] < floor * losses[0]


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="mask_fraction must be in"):
        DenoiseConfig(mask_fraction=1.5)
    with pytest.raises(ConfigError, match="nothing to predict"):
        DenoiseConfig(token_weight=0, coordinate_weight=0, distance_weight=0)


NOISE = DenoiseConfig(predict="noise", noise_std=0.1, mask_fraction=0.0, flat_geometry=0.0)


def test_plain_noise_is_shown_as_drawn_and_not_aligned():
    _, made = sample(NOISE, sizes=[20] * 200)
    noise = (made.input.coordinates_BA3 - made.clean_BA3) / NOISE.noise_std
    assert noise.std().item() == pytest.approx(1.0, abs=0.03)
    # Alignment would have taken the shift of the whole molecule away.
    assert noise.mean(1).std().item() == pytest.approx(20**-0.5, rel=0.15)
    assert set(made.counts) == {"coordinate"}


def test_noise_loss_is_zero_for_who_undoes_the_noise_and_one_for_who_does_nothing():
    _, made = sample(NOISE, sizes=[20] * 200)
    valid, shown, clean = made.input.valid_BA, made.input.coordinates_BA3, made.clean_BA3
    assert noise_loss(clean, clean, valid, 0.1) == 0
    assert noise_loss(shown, clean, valid, 0.1).item() / 200 == pytest.approx(1.0, abs=0.03)
    further = shown + (shown - clean)  # along the noise instead of against it
    assert noise_loss(further, clean, valid, 0.1).item() / 200 == pytest.approx(4.0, abs=0.1)


def test_the_predicted_noise_turns_with_the_molecule():
    torch.manual_seed(0)
    objective, made = sample(NOISE)
    model = objective.build_model(preset("0.1M")).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    turn = torch.from_numpy(rotation(3)).float()
    shown = made.input.coordinates_BA3
    turned = dataclasses.replace(
        made,
        input=dataclasses.replace(made.input, coordinates_BA3=shown @ turn.T),
        clean_BA3=made.clean_BA3 @ turn.T,
    )
    with torch.no_grad():
        torch.testing.assert_close(model(turned)["coordinate"], model(made)["coordinate"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "heads", "terms"),
    [
        ({}, Heads(token=True, coordinate=True), {"token", "coordinate", "distance"}),
        ({"token_weight": 0}, Heads(coordinate=True), {"coordinate", "distance"}),
        ({"mask_fraction": 0}, Heads(coordinate=True), {"coordinate", "distance"}),
        ({"coordinate_weight": 0, "distance_weight": 0}, Heads(token=True), {"token"}),
        ({"predict": "noise"}, Heads(token=True, coordinate=True), {"token", "coordinate"}),
        ({"predict": "noise", "coordinate_weight": 0}, Heads(token=True), {"token"}),
    ],
)
def test_only_heads_with_something_to_predict_are_built(settings, heads, terms):
    objective, made = sample(DenoiseConfig(**settings))
    torch.manual_seed(0)
    model = objective.build_model(preset("0.03M"))
    assert objective.heads == heads
    assert hasattr(model, "token_head") == heads.token
    assert hasattr(model, "coordinate_head") == heads.coordinate
    total = sum(p.numel() for p in model.parameters())
    assert objective.count_parameters(preset("0.03M")).total == total
    assert set(objective.weights) == set(made.counts) == set(model(made)) == terms
    if not heads.token:  # and nothing is masked for nothing
        assert not made.masked_BA.any()


def test_coordinates_are_not_asked_of_a_model_without_geometry():
    flat = preset("0.03M", geometry=False)
    with pytest.raises(ConfigError, match=r"model\.geometry is false"):
        DenoiseObjective(DenoiseConfig()).check(flat)
    tokens = DenoiseObjective(DenoiseConfig(coordinate_weight=0, distance_weight=0))
    tokens.check(flat)
    made = tokens.corrupt(collate(random_columns(SIZES)), keys(range(len(SIZES))))
    assert torch.isfinite(tokens.build_model(flat)(made)["token"])


def test_noise_of_no_size_and_nothing_to_predict_are_refused():
    with pytest.raises(ConfigError, match="noise_std and every noise_std_of must be positive"):
        DenoiseConfig(predict="noise", noise_std=0.0)
    with pytest.raises(ConfigError, match="nothing to predict"):
        DenoiseConfig(predict="noise", coordinate_weight=0.0, token_weight=0.0)
    with pytest.raises(ConfigError, match="nothing to predict"):
        DenoiseConfig(mask_fraction=0.0, coordinate_weight=0.0, distance_weight=0.0)


def test_masked_atoms_are_counted_on_the_host():
    # So that no device has to be waited for.
    _, made = sample(DenoiseConfig(mask_fraction=0.5))
    assert torch.equal(made.atomic_number_BA.flatten()[made.masked_M], made.atomic_number_BA[made.masked_BA])
    assert len(made.masked_M) == made.counts["token"]


def test_noise_depends_on_the_origin_of_the_geometry():
    origins = [ConformerOrigin.DFT, ConformerOrigin.MMFF, ConformerOrigin.ETKDG, ConformerOrigin.FILE]
    columns = random_columns([20] * 200)
    columns = dataclasses.replace(columns, conformer_origin=np.array(origins * 50, np.uint8))
    config = dataclasses.replace(NOISE, noise_std_of={"dft": 0.04, "force_field": 0.2})
    objective = DenoiseObjective(config)
    made = objective.corrupt(collate(columns), keys(range(200)))
    moved = (made.input.coordinates_BA3 - made.clean_BA3).reshape(50, 4, -1).transpose(0, 1).flatten(1).std(1)
    torch.testing.assert_close(moved, torch.tensor([0.04, 0.2, 0.2, 0.1]), rtol=0.05, atol=0)
    # Predicting no noise costs the same whatever the noise was.
    sums = noise_loss(made.input.coordinates_BA3, made.clean_BA3, made.input.valid_BA, made.noise_std_B[:, None, None])
    assert sums.item() / 200 == pytest.approx(1.0, abs=0.05)
    same = DenoiseObjective(NOISE).corrupt(collate(columns), keys(range(200)))
    again = DenoiseObjective(dataclasses.replace(NOISE, noise_std_of={"dft": NOISE.noise_std}))
    assert same.noise_std_B is None
    made = again.corrupt(collate(columns), keys(range(200)))
    torch.testing.assert_close(made.input.coordinates_BA3, same.input.coordinates_BA3)
    with pytest.raises(ConfigError, match="unknown origin 'DFT'"):
        DenoiseConfig(noise_std_of={"DFT": 0.04})
