"""What the model must not notice: rotations, translations, atom order, padding and company."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.helpers.molecules import random_columns
from tests.helpers.random_keys import keys
from unimol_scale.data.batch import collate
from unimol_scale.model.encodings import ModelInput
from unimol_scale.model.presets import preset
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseModel, DenoiseObjective

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-5}  # geometry is fp32 in both


@pytest.fixture(
    params=[(torch.float32, "bond"), (torch.float64, "bond"), (torch.float32, "path")],
    ids=["fp32", "fp64", "fp32, edges along the path"],
)
def model(request):
    dtype, edges = request.param
    torch.manual_seed(0)
    made = DenoiseModel(preset("0.2M", layers=2, edges=edges)).to(dtype).eval()
    with torch.no_grad():  # open the residual branches, which start at zero
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def molecules(sizes):
    objective = DenoiseObjective(DenoiseConfig(hide_features=0.4, flat_geometry=0.3))
    return objective.corrupt(collate(random_columns(sizes)), keys(range(len(sizes)))).input


def run(model, batch):
    with torch.no_grad():
        found = model.backbone(batch)
        return found.atom_BND, found.pair_BNNP, model.coordinate_head(found, batch.coordinates_BA3)


def assert_same(found, expected, model):
    tolerance = TOLERANCE[next(model.parameters()).dtype]
    scale = expected.abs().max()
    assert (found - expected).abs().max() <= tolerance * scale * 10 if scale > 10 else tolerance * max(scale, 1)


def motion(seed=3):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    rotation = torch.tensor(q * np.sign(np.linalg.det(q)), dtype=torch.float32)
    return rotation, torch.tensor([3.0, -2.0, 1.0])


def test_rotation_and_translation(model):
    batch = molecules([8, 8, 8])
    rotation, shift = motion()
    moved = dataclasses.replace(batch, coordinates_BA3=batch.coordinates_BA3 @ rotation + shift)
    atom, pair, predicted = run(model, batch)
    atom_moved, pair_moved, predicted_moved = run(model, moved)
    assert_same(atom_moved, atom, model)
    assert_same(pair_moved, pair, model)
    assert_same(predicted_moved, predicted @ rotation + shift, model)
    assert (predicted - batch.coordinates_BA3).abs().max() > 1e-2  # the head does something


def test_atom_order(model):
    batch = molecules([9, 9])
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    shuffled = ModelInput(
        token_BA=batch.token_BA[:, order],
        atom_features_BA8=batch.atom_features_BA8[:, order],
        degree_BA=batch.degree_BA[:, order],
        bond_features_BAA3=batch.bond_features_BAA3[:, order][:, :, order],
        path_BAA=batch.path_BAA[:, order][:, :, order],
        hidden_B=batch.hidden_B,
        coordinates_BA3=batch.coordinates_BA3[:, order],
    )
    atom, pair, predicted = run(model, batch)
    atom_shuffled, pair_shuffled, predicted_shuffled = run(model, shuffled)
    nodes = torch.cat([torch.tensor([0]), order + 1])
    assert_same(atom_shuffled, atom[:, nodes], model)
    assert_same(pair_shuffled, pair[:, nodes][:, :, nodes], model)
    assert_same(predicted_shuffled, predicted[:, order], model)


def test_padding_and_company(model):
    sizes = [5, 11, 1, 7]
    together = run(model, molecules(sizes))
    columns = random_columns(sizes)
    for index, n in enumerate(sizes):
        objective = DenoiseObjective(DenoiseConfig(hide_features=0.4, flat_geometry=0.3))
        alone = objective.corrupt(collate(columns.take(np.array([index]))), keys([index])).input
        atom, pair, predicted = run(model, alone)
        assert_same(together[0][index, : n + 1], atom[0], model)
        assert_same(together[1][index, : n + 1, : n + 1], pair[0], model)
        assert_same(together[2][index, :n], predicted[0], model)


def test_padded_normalisation_does_notice_padding():
    torch.manual_seed(0)
    model = DenoiseModel(preset("0.2M", layers=2, normalize_by="padded")).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    together = run(model, molecules([5, 11]))
    alone = run(model, molecules([5]))
    assert (together[0][0, :6] - alone[0][0]).abs().max() > 1e-3
