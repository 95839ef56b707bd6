"""A file of DeepSpeed settings may add to a run's configuration, and never contradict it or make it unresumable."""

import dataclasses
import json

import pytest

from unimol_scale.data.dataset import DataConfig
from unimol_scale.engine.parallel.deepspeed_settings import deepspeed_settings
from unimol_scale.engine.run.run_config import PretrainConfig, ZeroConfig
from unimol_scale.engine.run.train_config import TrainConfig
from unimol_scale.errors import ConfigError
from unimol_scale.model.presets import preset


@pytest.fixture
def configured(tmp_path):
    def configure(extra, stage=3):
        path = tmp_path / "extra.json"
        path.write_text(extra if isinstance(extra, str) else json.dumps(extra))
        return PretrainConfig(
            size="0.03M",
            output=tmp_path,
            data=DataConfig(path=tmp_path),
            model=preset("0.03M"),
            train=TrainConfig(gradient_clip=0.5),
            zero=ZeroConfig(stage=stage, config=path),
        )

    return configure


def test_a_file_is_laid_over_the_settings_and_may_repeat_them(configured):
    extra = {"zero_optimization": {"stage": 3, "overlap_comm": True, "sub_group_size": 10}, "gradient_clipping": 0.5}
    settings = deepspeed_settings(configured(extra), cuda=False)
    assert settings["zero_optimization"]["sub_group_size"] == 10
    assert settings["zero_optimization"]["overlap_comm"] is True
    assert settings["zero_optimization"]["contiguous_gradients"] is True
    assert settings["gradient_clipping"] == 0.5


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"zero_optimization": {"stage": 2}}, "zero_optimization.stage"),
        ({"gradient_clipping": 2.0}, "gradient_clipping"),
        ({"bf16": {"enabled": False}}, "bf16.enabled"),
        ({"optimizer": {"params": {"lr": 1.0}}}, "optimizer.params.lr"),
        ({"fp16": {"enabled": True}}, "fp16.enabled"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler"),
        ({"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}, "nvme"),
        ({"zero_optimization": {"offload_param": {"device": "nvme"}}}, "nvme"),
        ({"zero_optimization": {"offload_optimizer": {"device": "cpu", "ratio": 0.5}}}, "ratio"),
        ({"zero_optimization": {"zero_hpz_partition_size": 4}}, "zero_hpz_partition_size"),
        ("[1]", "JSON object"),
        ("{", "is not JSON"),
    ],
)
def test_what_contradicts_the_run_or_can_not_be_resumed_is_refused(configured, extra, named):
    with pytest.raises(ConfigError, match=named):
        deepspeed_settings(configured(extra), cuda=False)


def test_offloading_needs_a_stage_that_shares_what_is_offloaded(configured):
    for key, stages in {"offload_optimizer": (1, 2, 3), "offload_param": (3,)}.items():
        extra = {"zero_optimization": {key: {"device": "cpu"}}}
        for stage in range(4):
            config = configured(extra, stage)
            if stage in stages:
                assert deepspeed_settings(config, cuda=True)["zero_optimization"][key] == {"device": "cpu"}
            else:
                with pytest.raises(ConfigError, match=r"zero\.stage"):
                    deepspeed_settings(config, cuda=True)


def test_a_missing_file_is_named(configured, tmp_path):
    config = configured({})
    config = dataclasses.replace(config, zero=ZeroConfig(config=tmp_path / "none.json"))
    with pytest.raises(ConfigError, match=r"none\.json"):
        deepspeed_settings(config, cuda=False)


def test_with_muon_a_file_names_no_optimizer(configured):
    def with_muon(extra):
        config = configured(extra)
        return dataclasses.replace(config, train=dataclasses.replace(config.train, optimizer="muon"))

    assert "optimizer" not in deepspeed_settings(with_muon({}), cuda=False)
    with pytest.raises(ConfigError, match=r"has optimizer, which cannot be used: train\.optimizer=muon sets"):
        deepspeed_settings(with_muon({"optimizer": {"type": "Muon"}}), cuda=False)
