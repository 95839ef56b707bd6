"""What a model is shown of clean molecules, seen by what its representation depends on."""

import dataclasses

import numpy as np
import pytest
import torch
from tests.helpers.molecules import random_columns

from unimol_scale.data.batch import collate
from unimol_scale.data.input_views import STANDARD_VIEWS
from unimol_scale.downstream.data.inputs import choose_inputs, clean_input
from unimol_scale.errors import ConfigError
from unimol_scale.model.backbone import TwoTrackBackbone
from unimol_scale.model.presets import preset

BATCH = collate(random_columns([5, 7, 3]))
MOVED = dataclasses.replace(BATCH, coordinates_BA3=BATCH.coordinates_BA3 * np.float32(1.3))
UNBONDED = dataclasses.replace(
    BATCH,
    atom_features_BA8=np.zeros_like(BATCH.atom_features_BA8),
    degree_BA=np.zeros_like(BATCH.degree_BA),
    bond_features_BAA3=np.zeros_like(BATCH.bond_features_BAA3),
    path_BAA=np.full_like(BATCH.path_BAA, 509),
)
OTHER_ELEMENTS = dataclasses.replace(BATCH, atomic_number_BA=(BATCH.atomic_number_BA + 9) * BATCH.valid_BA)


def atoms(batch, inputs, geometry=True):
    torch.manual_seed(0)
    model = preset("0.03M", geometry=geometry)
    backbone = TwoTrackBackbone(model).eval()
    with torch.no_grad():
        seen = backbone(clean_input(batch, STANDARD_VIEWS[inputs], model))
    return seen.atom_BND[seen.valid_BN]


@pytest.mark.parametrize(
    ("inputs", "sees_space", "sees_graph"), [("2d", False, True), ("3d", True, False), ("2d+3d", True, True)]
)
def test_a_model_sees_what_was_asked_for_and_nothing_else(inputs, sees_space, sees_graph):
    clean = atoms(BATCH, inputs)
    assert torch.equal(clean, atoms(MOVED, inputs)) != sees_space
    assert torch.equal(clean, atoms(UNBONDED, inputs)) != sees_graph
    assert not torch.equal(clean, atoms(OTHER_ELEMENTS, inputs)), "elements are always seen"


def test_a_model_of_the_graph_never_sees_space():
    assert torch.equal(atoms(BATCH, "2d", geometry=False), atoms(MOVED, "2d", geometry=False))


@pytest.mark.parametrize("inputs", ["3d", "2d+3d"])
def test_space_is_refused_to_a_model_of_the_graph(inputs):
    with pytest.raises(ConfigError, match="only the 2D graph"):
        choose_inputs(inputs, preset("0.03M", geometry=False), None)


def test_a_model_of_which_nothing_is_known_sees_all_it_can_unless_told_otherwise():
    for asked, geometry, inputs in ((None, True, "2d+3d"), (None, False, "2d"), ("3d", True, "3d"), ("2d", True, "2d")):
        chosen = choose_inputs(asked, preset("0.03M", geometry=geometry), None)
        assert (chosen.inputs, chosen.view, chosen.warning) == (inputs, STANDARD_VIEWS[inputs], "")


def test_bonds_along_paths_are_found_for_a_model_that_is_told_of_them():
    assert clean_input(BATCH, STANDARD_VIEWS["2d"], preset("0.03M")).path_bonds_BAAS is None
    model = preset("0.03M", edges="path")
    assert clean_input(BATCH, STANDARD_VIEWS["2d"], model).path_bonds_BAAS.shape == (3, 7, 7, 5)
    torch.manual_seed(0)
    backbone = TwoTrackBackbone(model).eval()
    other_bonds = dataclasses.replace(BATCH, bond_features_BAA3=2 * BATCH.bond_features_BAA3.clip(max=1))
    with torch.no_grad():
        for inputs, sees in (("2d", True), ("3d", False)):
            before, after = (
                backbone(clean_input(b, STANDARD_VIEWS[inputs], model)).atom_BND for b in (BATCH, other_bonds)
            )
            assert torch.equal(before, after) != sees
