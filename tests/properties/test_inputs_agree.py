"""After pretraining a model is shown what pretraining has shown: no embedding is read that was never trained."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.helpers.molecules import random_columns
from unimol_scale.data.batch import collate
from unimol_scale.data.input_views import RICHEST_FIRST
from unimol_scale.data.steps.random_streams import MoleculeKeys
from unimol_scale.downstream.data.inputs import choose_inputs, clean_input
from unimol_scale.model import encodings
from unimol_scale.model.presets import preset
from unimol_scale.objectives.blend import BlendConfig, BlendObjective
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseObjective
from unimol_scale.objectives.distill import DistillConfig, DistillObjective
from unimol_scale.objectives.mixture import MixtureObjective

SIZES = [5, 7, 3, 9, 6, 4]
BATCH = collate(random_columns(SIZES))
MODEL = preset("0.03M")
GRAPH = preset("0.03M", geometry=False)
PATH_BONDS = preset("0.03M", edges="path")
NOISE_ONLY = DenoiseConfig(predict="noise", noise_std=0.04, mask_fraction=0.0, hide_features=1.0, flat_geometry=0.0)
FLAT = DenoiseConfig(hide_features=0.0, flat_geometry=1.0)
GRAPH_ONLY = BlendConfig(ratio=(0.5, 0.5, 0.0))
OWN = BlendConfig(atom_features="own", show_degree=False)
OBJECTIVES = {
    "denoise": (DenoiseObjective(DenoiseConfig()), MODEL, ("2d+3d", "3d", "2d")),
    "denoise-noise-only": (DenoiseObjective(NOISE_ONLY), MODEL, ("3d",)),
    "denoise-never-hides": (DenoiseObjective(DenoiseConfig(hide_features=0.0)), MODEL, ("2d+3d", "2d")),
    "denoise-never-flat": (DenoiseObjective(DenoiseConfig(flat_geometry=0.0)), MODEL, ("2d+3d", "3d")),
    "denoise-flat-only": (DenoiseObjective(FLAT), MODEL, ("2d",)),
    "denoise-tokens": (DenoiseObjective(DenoiseConfig(coordinate_weight=0.0, distance_weight=0.0)), GRAPH, ("2d",)),
    "blend": (BlendObjective(BlendConfig()), MODEL, ("2d+3d", "3d", "2d")),
    "blend-own-features": (BlendObjective(OWN), MODEL, ("2d+3d", "3d", "2d")),
    "blend-path-bonds": (BlendObjective(OWN, "path"), PATH_BONDS, ("2d+3d", "3d", "2d")),
    "blend-full": (BlendObjective(BlendConfig(full_fraction=1.0)), MODEL, ("2d+3d",)),
    "blend-planar": (BlendObjective(BlendConfig(planar_fraction=1.0)), MODEL, ("2d",)),
    "blend-full-and-planar": (
        BlendObjective(BlendConfig(ratio=(1.0, 0.0, 0.0), full_fraction=0.3, planar_fraction=0.3)), MODEL,
        ("2d+3d", "2d"),
    ),
    "blend-path": (BlendObjective(BlendConfig(ratio=(1.0, 0.0, 0.0))), MODEL, ("2d",)),
    "blend-graph": (BlendObjective(GRAPH_ONLY), MODEL, ("2d",)),
    "blend-distance": (BlendObjective(BlendConfig(ratio=(0.0, 0.0, 1.0))), MODEL, ("3d",)),
    "distill": (DistillObjective(DistillConfig(), GRAPH, MODEL), GRAPH, ("2d",)),
    "mixture": (
        MixtureObjective(
            {"denoise": DenoiseObjective(NOISE_ONLY), "blend": BlendObjective(GRAPH_ONLY)},
            {"denoise": 0.5, "blend": 0.5}, seed=0,
        ),
        MODEL,
        ("3d", "2d"),
    ),
}  # fmt: skip


def rows_read(sample, model):
    """Return the rows of each embedding that a model reads of some molecules, and "distance" if it reads any."""
    token, pairs = sample.valid_BA, encodings._valid_pairs(sample)
    shown = torch.full(pairs.shape, 7) if sample.shown_BAA is None else sample.shown_BAA
    at = {name: pairs & ((shown & bit) > 0) for name, bit in (("edge", 2), ("path", 1), ("distance", 4))}
    read = {
        "token": sample.token_BA[token],
        "features": encodings.encode_atom_features(sample)[token],
        "degree": encodings.encode_degree(sample)[token],
        "edge": encodings.encode_bonds(sample)[at["edge"]],
        "path": encodings.encode_paths(sample)[at["path"]],
        "distance": at["distance"].any().reshape(1),
    }
    if model.edges == "path":  # the table has a row for each hop and kind of bond
        kind_BAAS, share_BAAS = encodings.encode_path_bonds(sample)
        row_BAAS = kind_BAAS + 1000 * torch.arange(kind_BAAS.shape[-1])
        read["edge"] = row_BAAS[at["edge"].unsqueeze(-1) & (share_BAAS > 0)]
    if not model.geometry or not read["distance"]:
        del read["distance"]
    return {name: set(torch.unique(codes).tolist()) for name, codes in read.items()}


def keys(epoch):
    return MoleculeKeys(seed=0, epoch_B=np.full(len(SIZES), epoch), molecule_B=np.arange(len(SIZES)))


def read_in_pretraining(objective, model):
    """Return the rows of each embedding that many epochs of the same molecules read."""
    found = {}
    for epoch in range(60):
        for part in objective.parts:
            for name, codes in rows_read(part.corrupt(BATCH, keys(epoch)).input, model).items():
                found.setdefault(name, set()).update(codes)
    return found


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_embedding_is_read_that_pretraining_does_not_read(name):
    objective, model, inputs = OBJECTIVES[name]
    seen = objective.seen(model)
    assert seen.inputs == inputs
    trained = read_in_pretraining(objective, model)
    for one in seen.inputs:
        chosen = choose_inputs(one, model, seen)
        assert not chosen.warning
        for embedding, codes in rows_read(clean_input(BATCH, chosen.view, model), model).items():
            assert codes <= trained.get(embedding, set()), (one, embedding)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_other_input_is_warned_of_and_the_richest_that_was_shown_is_the_default(name):
    objective, model, inputs = OBJECTIVES[name]
    seen = objective.seen(model)
    assert choose_inputs(None, model, seen).inputs == inputs[0]
    for one in set(RICHEST_FIRST if model.geometry else ["2d"]) - set(inputs):
        said = choose_inputs(one, model, seen).warning
        assert f"inputs {one}: this model was not pretrained on such input, only {inputs[0]}" in said
        assert f"; inputs {inputs[0]} uses only pretrained weights" in said


@pytest.mark.parametrize("name", ["denoise", "denoise-noise-only", "denoise-flat-only", "distill"])
def test_whole_molecules_are_shown_as_in_pretraining(name):
    """But for noise and masks, which no finished model needs."""
    objective, model, inputs = OBJECTIVES[name]
    if isinstance(objective, DenoiseObjective):
        clean = dataclasses.replace(objective.config, predict="geometry", mask_fraction=0.0, noise_std=0.0)
        objective = DenoiseObjective(clean)
    seen = objective.seen(model)
    shown = {one: clean_input(BATCH, choose_inputs(one, model, seen).view, model) for one in inputs}
    met = set()
    for epoch in range(30):
        sample = objective.corrupt(BATCH, keys(epoch)).input
        for at in range(len(SIZES)):
            alike = [one for one in inputs if same(sample, shown[one], at, model)]
            assert len(alike) == 1, "pretraining shows something else, too, or the views are the same"
            met.update(alike)
    assert met == set(inputs)


def same(first, second, at, model):
    """Return whether a molecule is shown in the same way."""
    same_rows = all(
        torch.equal(code(first)[at], code(second)[at])
        for code in (
            encodings.encode_atom_features, encodings.encode_degree, encodings.encode_bonds, encodings.encode_paths,
        )
    )  # fmt: skip
    assert first.shown_BAA is None or not model.geometry
    if not model.geometry:
        return same_rows
    return same_rows and torch.allclose(first.coordinates_BA3[at], second.coordinates_BA3[at], atol=1e-4)


def test_of_a_mixture_the_view_that_shows_more_counts():
    parts = {"blend": BlendObjective(OWN), "denoise": DenoiseObjective(DenoiseConfig())}
    mixed = MixtureObjective(parts, {"blend": 0.5, "denoise": 0.5}, seed=0).seen(MODEL)
    assert mixed.views["2d"] == parts["denoise"].seen(MODEL).views["2d"]
    assert mixed.views["2d+3d"] == parts["denoise"].seen(MODEL).views["2d+3d"]
    assert mixed.views["3d"] == parts["blend"].seen(MODEL).views["3d"]
