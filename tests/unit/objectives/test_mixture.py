"""Mixtures: which objective a step learns is a matter of its number, and every part stays what it is alone."""

import itertools
import pickle

import pytest
import torch

from tests.helpers.molecules import random_columns
from tests.helpers.random_keys import keys
from unimol_scale.data.batch import collate
from unimol_scale.errors import ConfigError
from unimol_scale.model.presets import preset
from unimol_scale.objectives.base import total_loss
from unimol_scale.objectives.config import ObjectiveConfig, build_objective

SIZES = [9, 4, 1, 12]
SHARES = {"denoise": 0.25, "blend": 0.75}


def mixture(shares=SHARES, seed=0):
    return build_objective(ObjectiveConfig(name="mixture", mixture=shares), preset("0.1M"), seed=seed)


def batch(sizes=SIZES):
    return collate(random_columns(sizes)), keys(range(len(sizes)))


def turns(objective, steps):
    return [objective.at(step).name for step in range(steps)]


def test_turns_follow_the_shares_and_depend_on_seed_and_step_alone():
    names = turns(mixture(), 2000)
    assert names.count("denoise") == pytest.approx(500, abs=60)
    assert names == turns(pickle.loads(pickle.dumps(mixture())), 2000)  # as a loader process has it
    assert [mixture().at(step).name for step in (1500, 3)] == [names[1500], names[3]]
    assert turns(mixture(seed=1), 2000) != names
    runs = sum(a != b for a, b in itertools.pairwise(names))
    assert runs == pytest.approx(2 * 0.25 * 0.75 * 1999, abs=90)  # neighbours are independent


def test_a_step_scores_its_part_as_if_it_were_alone():
    objective = mixture()
    torch.manual_seed(0)
    model = objective.build_model(preset("0.1M")).eval()
    seen = set()
    for step in range(12):
        part = objective.at(step)
        sample = objective.corrupt_at(*batch(), step)
        sums = model(sample)
        alone = part.objective.corrupt(*batch())
        expected = part.objective.score(model, alone)
        assert set(sums) == set(sample.counts) == set(part.weights) == {f"{part.name}/{term}" for term in expected}
        for term, value in expected.items():
            assert torch.equal(sums[f"{part.name}/{term}"], value)
            assert sample.counts[f"{part.name}/{term}"] == alone.counts[term]
        seen.add(part.name)
    assert seen == set(SHARES)


def test_validation_scores_every_part_and_weighs_it_by_its_share():
    objective = mixture()
    assert [part.name for part in objective.parts] == ["denoise", "blend"]
    terms = [term for part in objective.parts for term in part.weights]
    assert set(objective.weights) == set(terms)
    for part in objective.parts:
        for term, weight in part.weights.items():
            assert objective.weights[term] == pytest.approx(SHARES[part.name] * weight)
        # At every step of validation the part is itself.
        assert part.corrupt_at(*batch(), 7).part == part.name


def test_one_model_has_all_heads_and_a_step_moves_only_its_own():
    objective = mixture()
    torch.manual_seed(0)
    model = objective.build_model(preset("0.1M"))
    assert sum(p.numel() for p in model.parameters()) == objective.count_parameters(preset("0.1M")).total
    denoise, blend = objective.parts
    sample = denoise.corrupt(*batch())
    total_loss(model(sample), sample.counts, denoise.weights).backward()
    assert model.token_head.out.weight.grad is not None
    assert model.relation_heads.heads["path"].weight.grad is None
    sample = blend.corrupt(*batch())
    total_loss(model(sample), sample.counts, blend.weights).backward()
    assert model.relation_heads.heads["path"].weight.grad.abs().sum() > 0


def test_flops_are_those_of_the_parts_by_share():
    objective, config = mixture(), preset("0.1M")
    denoise, blend = (part.training_flops(config, 20) for part in objective.parts)
    assert objective.training_flops(config, 20) == pytest.approx(0.25 * denoise + 0.75 * blend)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixture": {"denoise": 0.5, "blend": 0.4}}, "must sum to 1, its sum is 0.9"),
        ({"mixture": {"denoise": 1.0, "blend": 0.0}}, "mixture.blend must be positive"),
        ({"mixture": {"denoise": 0.5, "blent": 0.5}}, "did you mean 'blend'"),
        ({"mixture": {"denoise": 0.5, "distill": 0.5}}, "only denoise and blend can; train it alone"),
        ({"mixture": {"denoise": 0.5, "mixture": 0.5}}, "mixture cannot be part of a mixture"),
        ({"mixture": {"denoise": 0.5, "mine.file:Mine": 0.5}}, "mine.file:Mine cannot be part of a mixture"),
        ({"mixture": {}}, "a mixture needs both"),
        ({"mixture": SHARES, "name": "denoise"}, "a mixture needs both"),
        ({"name": "distill"}, "objective.distill.teacher is required"),
    ],
)
def test_mixtures_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        ObjectiveConfig(**{"name": "mixture", **settings})


def test_shares_may_miss_one_by_a_rounding():
    assert mixture({"denoise": 0.3, "blend": 0.7 + 1e-9}).at(0).name in SHARES


def test_a_mixture_needs_a_model_that_every_part_can_use():
    with pytest.raises(ConfigError, match="geometry"):
        build_objective(ObjectiveConfig(name="mixture", mixture=SHARES), preset("0.1M", geometry=False))
