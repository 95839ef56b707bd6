"""What is dropped in training: whole branches, hidden values; nothing where the settings say nothing."""

import dataclasses

import pytest
import torch

from tests.helpers.molecules import random_columns
from tests.helpers.random_keys import keys
from unimol_scale.data.batch import collate
from unimol_scale.errors import ConfigError
from unimol_scale.model.backbone import TwoTrackBackbone
from unimol_scale.model.layers import TwoTrackLayer
from unimol_scale.model.node_masks import NodeMasks
from unimol_scale.model.presets import DROPOUTS, preset
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseObjective

SIZE = preset("0.03M")  # drops nothing
ALL = dict.fromkeys(DROPOUTS, 0.3)


def sample(num_atoms=(5, 3, 6)):
    batch = collate(random_columns(list(num_atoms)))
    return DenoiseObjective(DenoiseConfig()).corrupt(batch, keys(range(len(num_atoms)))).input


def backbone(**changes):
    torch.manual_seed(0)
    return TwoTrackBackbone(dataclasses.replace(SIZE, **changes)).train()


def gradients(model):
    torch.manual_seed(1)
    seen = model(sample())
    (seen.atom_BND.square().mean() + seen.pair_BNNP.square().mean()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", DROPOUTS)
def test_each_drops_in_training_only_and_draws_nothing_at_zero(name):
    plain, dropping = backbone(), backbone(**{name: 0.3})
    state = torch.random.get_rng_state()
    expected = plain(sample()).atom_BND
    assert torch.equal(torch.random.get_rng_state(), state)
    found = dropping(sample()).atom_BND
    assert not torch.equal(torch.random.get_rng_state(), state)
    assert not torch.allclose(found, expected)
    assert torch.equal(dropping.eval()(sample()).atom_BND, plain.eval()(sample()).atom_BND)


def test_layers_that_are_computed_twice_drop_the_same_both_times():
    kept, recomputed = gradients(backbone(**ALL)), gradients(backbone(**ALL, checkpoint_every=1))
    assert kept.keys() == recomputed.keys()
    for name, gradient in kept.items():
        assert torch.allclose(gradient, recomputed[name], rtol=1e-5, atol=1e-7), name


def test_a_branch_is_left_out_for_a_whole_molecule_and_scaled_for_the_others():
    B, N = 64, 4
    torch.manual_seed(0)
    layer = TwoTrackLayer(SIZE, drop_path=0.25).train()
    atom_1ND, pair_1NNP = torch.randn(1, N, SIZE.atom_width), torch.randn(1, N, N, SIZE.pair_width)
    masks = NodeMasks.of(torch.ones(B, N, dtype=torch.bool), torch.full((B,), float(N)), torch.float32)
    with torch.no_grad():
        atom_BND, pair_BNNP = layer(atom_1ND.expand(B, -1, -1), pair_1NNP.expand(B, -1, -1, -1), masks)
        one = NodeMasks.of(torch.ones(1, N, dtype=torch.bool), torch.full((1,), float(N)), torch.float32)
        attended = atom_1ND + layer.attention(atom_1ND, pair_1NNP, one, residual=False) / 0.75
        expected = [
            after + scale * layer.ffn(after, residual=False) for after in (atom_1ND, attended) for scale in (0, 4 / 3)
        ]
    found = [min(range(4), key=lambda at: (atom_ND - expected[at][0]).abs().max()) for atom_ND in atom_BND]
    for atom_ND, at in zip(atom_BND, found, strict=True):
        assert torch.allclose(atom_ND, expected[at][0], atol=1e-5)
    # Probabilities of both branches left out, one, the other, none: 1, 3, 3 and 9 of 16.
    assert [found.count(at) / B for at in range(4)] == pytest.approx([1 / 16, 3 / 16, 3 / 16, 9 / 16], abs=0.15)
    left_out = (pair_BNNP == pair_1NNP).flatten(1).all(1)
    assert left_out.float().mean() < 0.15  # all three branches of the pairs: 1 of 64


def test_every_branch_of_both_tracks_can_be_left_out():
    B, N = 2, 4
    torch.manual_seed(0)
    layer = TwoTrackLayer(SIZE, drop_path=0.9999).train()
    atom_BND, pair_BNNP = torch.randn(B, N, SIZE.atom_width), torch.randn(B, N, N, SIZE.pair_width)
    masks = NodeMasks.of(torch.ones(B, N, dtype=torch.bool), torch.full((B,), float(N)), torch.float32)
    with torch.no_grad():
        found = layer(atom_BND, pair_BNNP, masks)
        assert torch.equal(found[0], atom_BND)
        assert torch.equal(found[1], pair_BNNP)
        changed = layer.eval()(atom_BND, pair_BNNP, masks)
        assert not torch.allclose(changed[1], pair_BNNP)


def test_deeper_layers_are_left_out_more_often():
    assert dataclasses.replace(SIZE, layers=3, drop_path=0.2).drop_paths == pytest.approx((0.0, 0.1, 0.2))
    assert dataclasses.replace(SIZE, layers=1, drop_path=0.2).drop_paths == (0.2,)
    deep = backbone(layers=3, drop_path=0.2)
    assert [layer.drop_path for layer in deep.layers] == pytest.approx([0.0, 0.1, 0.2])


@pytest.mark.parametrize("name", DROPOUTS)
@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_a_share_that_is_none_is_refused(name, value):
    with pytest.raises(ConfigError, match=rf"model\.{name} must be in \[0, 1\)"):
        dataclasses.replace(SIZE, **{name: value})
