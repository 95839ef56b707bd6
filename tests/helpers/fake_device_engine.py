"""Everything the engine does to a model, on a device without memory: prints what became of each case as JSON.

Run by tests/integration/test_fake_device.py: ``python -m tests.helpers.fake_device_engine FOLDER``.
"""

import dataclasses
import functools
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch

from tests.helpers import fake_device

DEVICE = fake_device.GPU
fake_device.set_up_device()
fake_device.set_up_ranks()

from benchmarks.training import trainer  # noqa: E402
from unimol_scale.checkpoints.run.saver import Saver, SaveState  # noqa: E402
from unimol_scale.data.dataset import DataConfig  # noqa: E402
from unimol_scale.data.steps.random_streams import MoleculeKeys  # noqa: E402
from unimol_scale.engine import validation  # noqa: E402
from unimol_scale.engine.optimizer_step import OptimizerStep, sample_completer  # noqa: E402
from unimol_scale.engine.parallel import deepspeed_model  # noqa: E402
from unimol_scale.engine.parallel.ranks import Ranks, start_ranks  # noqa: E402
from unimol_scale.engine.planning.rank_memory import MicroBatchShape  # noqa: E402
from unimol_scale.engine.planning.rehearsal import carbon_chains, worst_samples  # noqa: E402
from unimol_scale.engine.run.run_config import PretrainConfig, ZeroConfig  # noqa: E402
from unimol_scale.engine.run.train_config import TrainConfig  # noqa: E402
from unimol_scale.model import layers  # noqa: E402
from unimol_scale.model.backbone import TwoTrackBackbone  # noqa: E402
from unimol_scale.model.fused.launching import kernels_switched  # noqa: E402
from unimol_scale.model.presets import DROPOUTS, preset  # noqa: E402
from unimol_scale.objectives.base import Objective, Sample, corruption_of, total_loss  # noqa: E402
from unimol_scale.objectives.config import ObjectiveConfig, build_objective  # noqa: E402
from unimol_scale.objectives.denoise import DenoiseConfig  # noqa: E402
from unimol_scale.objectives.distill import DistillConfig, Teacher  # noqa: E402

MICRO_BATCHES = 2  # of the step whose waits are counted
SHAPE = MicroBatchShape(molecules=3, num_atoms=5)
MODEL = preset("0.03M", layers=1, **dict.fromkeys(DROPOUTS, 0.1))
OBJECTIVES = {
    "denoise": ObjectiveConfig(),
    "noise": ObjectiveConfig(denoise=DenoiseConfig(predict="noise")),
    "blend": ObjectiveConfig(name="blend"),
    "distill": ObjectiveConfig(name="distill", distill=DistillConfig(teacher=Path("teacher"))),
    "mixture": ObjectiveConfig(name="mixture", mixture={"denoise": 0.5, "blend": 0.5}),
}
OFFLOAD = {
    "offload_optimizer": {"zero_optimization": {"offload_optimizer": {"device": "cpu", "pin_memory": True}}},
    "offload_param": {
        "zero_optimization": {
            "offload_param": {"device": "cpu", "pin_memory": True},
            "offload_optimizer": {"device": "cpu", "pin_memory": True},
        }
    },
}


def cases() -> list[tuple[str, int, str, str]]:
    """Objective, stage, precision, additional settings."""
    found = [("denoise", stage, precision, "") for stage in range(4) for precision in ("bf16", "fp32")]
    found += [(name, 3, "bf16", "") for name in OBJECTIVES if name != "denoise"]
    found += [("denoise", 2, "bf16", "offload_optimizer"), ("denoise", 3, "bf16", "offload_param")]
    # At stages 1 and 2, what the other rank holds would have to be true.
    found += [("denoise", 0, "bf16", "muon"), ("denoise", 3, "bf16", "muon")]
    found += [("denoise", 3, "bf16", "muon-offload_optimizer")]
    found += [("denoise", stage, "bf16", "triton") for stage in (1, 3)]
    return [*found, ("blend", 1, "bf16", "checkpoint_every")]


def run(case: tuple[str, int, str, str], folder: Path, watch: fake_device.Watch) -> dict[str, int]:
    """Do what a run does, in its order; return the waits of a step."""
    name, stage, precision, extra = case
    config = configure(name, stage, precision, extra, folder)
    teacher = preset("0.03M") if name == "distill" else None
    objective = build_objective(config.objective, config.model, teacher=teacher)
    ranks = Ranks(rank=0, world_size=fake_device.WORLD_SIZE, device=DEVICE)
    model = deepspeed_model.DeepSpeedModel(lambda: build(objective, config, stage), config, ranks)
    wrong = [n for n, t in model.module.named_buffers() if t.device != DEVICE]
    assert not wrong, f"buffers elsewhere: {wrong}"
    complete = sample_completer(DEVICE, teacher_of(objective))

    for sample in worst_samples(config, objective, SHAPE):  # the rehearsal
        sums = model.forward(complete(sample))
        model.backward(total_loss(sums, sample.counts, objective.weights), last=True)
        model.drop_gradients()
    step = OptimizerStep(model, objective, complete, ranks, 0)
    model.take_weights(lambda name, start, stop: torch.zeros(stop - start))
    if name == "denoise":  # what is the same for every objective
        model.ema_update(0.9)
        with model.averaged_weights():
            validate(model, objective, config, complete, ranks)
        save(model, folder)
        assert model.optimizer_steps == 1  # made up
        model.restore(lambda name, kind, start, stop: torch.zeros(stop - start), 2)
        watch.number = math.nan  # every loss is
        assert step(samples_of(objective, config, 1, 1), 1, 1e-4, {"stop": 0.0}).skipped
        watch.number = 1.0
    else:
        validate(model, objective, config, complete, ranks)
    watch.waits.clear()
    assert not step(samples_of(objective, config, 2, MICRO_BATCHES), 2, 1e-4, {"stop": 0.0}).skipped
    return dict(watch.waits)


def run_by_whom(case: tuple[str, int, str, str], folder: Path, watch: fake_device.Watch) -> dict[str, int]:
    """Do so with Triton's kernels, which are not started on what has no memory, or with torch's."""
    with kernels_switched(case[3] == "triton"):
        return run(case, folder, watch)


def configure(name: str, stage: int, precision: str, extra: str, folder: Path) -> PretrainConfig:
    file = None
    if (offload := extra.removeprefix("muon-")) in OFFLOAD:
        file = folder / f"{offload}.json"
        file.write_text(json.dumps(OFFLOAD[offload]))
    model = dataclasses.replace(
        MODEL,
        geometry=name != "distill",
        edges="path" if name in ("blend", "mixture") else "bond",
        checkpoint_every=1 if extra == "checkpoint_every" else 0,
    )
    return PretrainConfig(
        size="0.03M",
        output=folder,
        data=DataConfig(path=folder),
        model=model,
        objective=OBJECTIVES[name],
        train=TrainConfig(
            precision=precision, warmup_steps=0, ema_decay=0.9, optimizer="muon" if "muon" in extra else "adamw"
        ),
        zero=ZeroConfig(stage=stage, config=file),
    )


def build(objective: Objective, config: PretrainConfig, stage: int):
    """Under stage 3 as the engine does; else on the device at once: a fake tensor cannot be moved in place."""
    if stage == 3:
        return objective.build_model(config.model)
    return build_on_device(objective.build_model, config.model)


def build_on_device(build_model, model):
    with DEVICE:
        return build_model(model)


def teacher_of(objective: Objective):
    if objective.teacher is None:
        return None
    with DEVICE:
        backbone = TwoTrackBackbone(objective.teacher)
    return Teacher(backbone, DistillConfig())


def samples_of(objective: Objective, config: PretrainConfig, step: int, micro_batches: int) -> list[Sample]:
    corrupt = corruption_of(objective, config.model)
    return [corrupt(carbon_chains(SHAPE), keys_of(), step) for _ in range(micro_batches)]


def validate(
    model: deepspeed_model.DeepSpeedModel, objective: Objective, config: PretrainConfig, complete, ranks: Ranks
) -> None:
    class Loader:
        def __init__(self, corrupt) -> None:
            self._corrupt = corrupt

        def steps(self, first: int, last: int):
            yield from ([self._corrupt(carbon_chains(SHAPE), keys_of(), step)] for step in range(first, last))

        def planner(self, step: int):
            class Cut:
                def num_counted(self, rank: int) -> int:
                    return 1

            return None, None, Cut()

    validation.validation_loader = lambda data, corrupt, **kwargs: Loader(corrupt)
    config = dataclasses.replace(config, data=DataConfig(path=Path("nowhere"), validation_repeats=1))
    scores = validation.Validation(config, objective, complete, ranks)(model)
    assert set(scores) == {"valid/loss", *(f"valid/loss/{name}" for name in objective.weights)}


def keys_of() -> MoleculeKeys:
    return MoleculeKeys(seed=0, epoch_B=np.zeros(SHAPE.molecules, np.int64), molecule_B=np.arange(SHAPE.molecules))


def save(model: deepspeed_model.DeepSpeedModel, folder: Path) -> None:
    saver = Saver(folder / f"checkpoints-{time.monotonic_ns()}", 0, fake_device.WORLD_SIZE, synchronous=True)
    saver.start(1, model.fragments())
    assert saver.wait() is SaveState.WRITTEN, saver.error


def benchmark(folder: Path, watch: fake_device.Watch) -> dict[str, int]:
    """The bare steps of benchmarks/training/trainer.py."""

    class Loader:
        def steps(self, first: int, last: int):
            yield from (samples_of(objective, config, step, 1) for step in range(trainer.WARM_UP + 1))

    config = configure("denoise", 1, "fp32", "", folder)
    objective = build_objective(config.objective, config.model)
    objective.build_model, build_model = lambda model: build_on_device(build_model, model), objective.build_model
    trainer.training_loader = lambda *args, **kwargs: Loader()
    trainer.objective_of = lambda config: objective
    ranks = Ranks(rank=0, world_size=fake_device.WORLD_SIZE, device=DEVICE)
    assert trainer.bare_seconds(config, ranks, trainer.batches_of(config, ranks)) > 0
    return {}


def main(folder: Path) -> None:
    start_ranks()
    layers.fill_truncated_normal = lambda weight, std: None  # draws again what falls outside, by values
    fake_device.set_up_accelerator()
    on_cpu = deepspeed_model.deepspeed_settings
    deepspeed_model.deepspeed_settings = lambda config, cuda: on_cpu(
        config, cuda=True
    )  # as on a GPU: communication overlaps
    named = {"-".join(map(str, case)).rstrip("-"): functools.partial(run_by_whom, case, folder) for case in cases()}
    named["benchmark-trainer"] = functools.partial(benchmark, folder)
    fake_device.run_cases(named, folder / "engine.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
