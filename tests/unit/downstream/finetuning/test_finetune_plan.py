"""Plans of fine-tunings: counts against built models, what fits where, and what is printed."""

import dataclasses

import pytest

from tests.helpers.tiny_finetuning import TINY, fitting, model
from unimol_scale.cli.main import main
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.finetuning.adaptation.adapt import adapt
from unimol_scale.downstream.finetuning.planning.finetune_plan import plan_finetuning
from unimol_scale.downstream.finetuning.planning.needed_memory import (
    count_trained,
    fitting_pairs,
    largest_shape,
    needed_memory,
)
from unimol_scale.errors import ConfigError
from unimol_scale.model.presets import preset

DRUGS = {10: 100, 20: 400, 25: 400, 40: 100, 60: 10}  # atoms → molecules


def of_size(size, **train):
    return FinetuneConfig(data="x.csv", size=size, targets=("y",), train=fitting(batch_size=32, **train))


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 2}, {"trained_layers": 1}, {"probe": "mlp"}], ids=str)
def test_what_is_counted_is_what_a_training_moves(changes):
    config = of_size("0.5M", **changes)
    built = model(pooling=config.molecule_pooling)
    adapt(built.backbone, config.train, seed=0)
    moved = sum(parameter.numel() for parameter in built.trained_parameters)
    counts = count_trained(config, TINY, 1)
    assert counts.all_trained == moved
    assert counts.backbone + counts.head == sum(
        parameter.numel() for parameter in model(pooling=config.molecule_pooling).parameters()
    )


def test_lora_of_the_largest_model_fits_24_gb_and_the_whole_model_does_not():
    largest, budgets = preset("1.1B"), {}
    for name, changes in {
        "all": {},
        "lora": {"lora_rank": 8},
        "lora in bf16": {"lora_rank": 8, "precision": "bf16"},
    }.items():
        config = of_size("1.1B", **changes)
        counts = count_trained(config, largest, 1)
        budgets[name] = fitting_pairs(config, largest, counts, DRUGS, 24e9, cuda=True)
        if name != "all":
            shape = largest_shape(DRUGS, 32, budgets[name])
            assert needed_memory(config, largest, counts, shape, cuda=True).total < 0.9 * 24e9
    assert budgets["all"] is None
    assert budgets["lora in bf16"] > budgets["lora"] > 61**2


def test_a_plan_says_what_fits_and_starts_nothing(settings, place, capsys):
    config = settings(inputs="2d", train=fitting(lora_rank=2))
    plan = plan_finetuning(config, "rtx4090")
    assert plan.fits
    assert plan.rows == (24, 3, 30)
    assert 0.0 < plan.epoch_seconds < 60.0
    assert not config.output.exists()
    slower = plan_finetuning(dataclasses.replace(config, tune=4), "rtx4090")
    assert slower.seconds == pytest.approx(plan.seconds * (2 + 4 * 3) / 2)
    command = [
        "finetune", "--from", str(place / "pretrained"), "--data", str(place / "set.csv"), "--target", "size",
        "--inputs", "2d", "--split", "random", "--cache", str(place / "cache"), "--output", str(config.output),
    ]  # fmt: skip
    assert main([*command, "--plan", "l4", "--lora", "2"]) == 0
    printed = capsys.readouterr().out
    assert "it fits on l4" in printed
    assert "per epoch" in printed
    assert not config.output.exists()
    with pytest.raises(ConfigError, match="--plan, beside here: unknown device 'rtx9'"):
        plan_finetuning(config, "rtx9")
