"""Fine-tuning, prediction, embedding, comparison and the benchmarks on a device without memory.

Run by tests/integration/test_fake_device.py: ``python -m tests.helpers.fake_device_downstream FOLDER``.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.downstream import embedding
from benchmarks.training import model_step
from tests.helpers import fake_device
from unimol_scale.checkpoints.parity import cast_parameters, compare
from unimol_scale.checkpoints.reference import Reference
from unimol_scale.data.input_views import STANDARD_VIEWS
from unimol_scale.data.steps.random_streams import MoleculeKeys
from unimol_scale.downstream.config import FinetuneTrainConfig
from unimol_scale.downstream.data.batches import LabelledSample, SampleMaker
from unimol_scale.downstream.embedding import representations
from unimol_scale.downstream.embedding.representations import RepresentationConfig
from unimol_scale.downstream.finetuning.model import head_initialisation, training
from unimol_scale.downstream.finetuning.model.conformer_statistics import ConformerStatistics
from unimol_scale.downstream.finetuning.model.property_model import PropertyModel
from unimol_scale.downstream.registry import METRICS
from unimol_scale.engine.planning.rank_memory import MicroBatchShape
from unimol_scale.engine.planning.rehearsal import carbon_chains
from unimol_scale.model import layers
from unimol_scale.model.accounting import DENOISE_HEADS
from unimol_scale.model.backbone import TwoTrackBackbone
from unimol_scale.model.heads import CoordinateHead
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.model.official.released_weights import to_official
from unimol_scale.model.presets import preset
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseModel, DenoiseObjective

SHAPE = MicroBatchShape(molecules=3, num_atoms=5)
TARGETS = 2
MICRO_BATCHES = 2
KEYS = MoleculeKeys(seed=0, epoch_B=np.zeros(SHAPE.molecules, np.int64), molecule_B=np.arange(SHAPE.molecules))
Case = Callable[[fake_device.Watch], dict[str, int]]


def cases(folder: Path) -> dict[str, Case]:
    return {
        **{f"finetune-{inputs}-fp32": finetune(inputs, "fp32") for inputs in ("2d", "3d")},
        "finetune-2d+3d-bf16": finetune("2d+3d", "bf16"),
        "finetune-classes": finetune("2d+3d", "fp32", task="multilabel"),
        **{
            f"finetune-noise-{precision}": finetune(
                "2d+3d", precision, noise_std=0.1, ema_decay=0.9, activation_dropout=0.1, drop_path=0.1
            )
            for precision in ("fp32", "bf16")
        },
        "predict": predict,
        **{f"embed-{kind}": embed(kind) for kind in ("molecule", "atom", "pair")},
        "embed-virtual-node": embed("molecule", "virtual_node"),
        "verify-fp32": verify(torch.float32),
        "verify-bf16": verify(torch.bfloat16),
        "benchmark-embedding": benchmark_embedding,
        "watch": the_watch_itself,
        **{f"benchmark-step-{'-'.join(v)}": benchmark_step(v) for v in (model_step.TEXTBOOK, ("ours", "bf16"))},
    }


def samples(inputs: str, number: int = MICRO_BATCHES, noise_std: float = 0.0) -> list[LabelledSample]:
    batch = carbon_chains(SHAPE, num_labels=TARGETS)
    make_sample = SampleMaker(view=STANDARD_VIEWS[inputs], model=preset("0.03M"), noise_std=noise_std)
    return [make_sample(batch, KEYS, 0)] * number


def property_model(train: FinetuneTrainConfig | None = None) -> PropertyModel:
    train = train or FinetuneTrainConfig()
    config = train.with_dropouts(preset("0.03M", layers=1))
    with fake_device.GPU:
        model = PropertyModel(config, TARGETS, "mean", 0.1)
        if train.predicts_noise:
            model.coordinate_head = CoordinateHead(config)
        return model


def finetune(inputs: str, precision: str, task: str = "regression", **train: float) -> Case:
    class Rows:
        labels_RL = np.random.default_rng(0).random((SHAPE.molecules * MICRO_BATCHES, TARGETS))

        def __len__(self) -> int:
            return len(self.labels_RL)

    class Steps:
        def __init__(self, noise_std: float) -> None:
            self._noise_std = noise_std

        def steps(self, first: int, last: int) -> Iterator[list[LabelledSample]]:
            yield from (samples(inputs, noise_std=self._noise_std) for _ in range(first, last))

    def case(watch: fake_device.Watch) -> dict[str, int]:
        training.training_batches = lambda rows, make_sample, *args: Steps(make_sample.noise_std)
        training.repeated_samples = head_initialisation.each_row_once = lambda *args, **kwargs: samples(inputs)
        pretend_rows()
        scaling = training.Scaling(task=task, mean_L=(0.0,) * TARGETS, std_L=(1.0,) * TARGETS)
        metric = "rmse" if task == "regression" else "accuracy"
        problem = training.TrainingProblem(
            train=Rows(), valid=Rows(), make_sample=SampleMaker(view=STANDARD_VIEWS[inputs], model=preset("0.03M")),
            scaling=scaling, loss="mse", metric=METRICS[metric],
        )  # fmt: skip
        if task != "regression":
            problem.valid.labels_RL = problem.valid.labels_RL.round()
        config = FinetuneTrainConfig(
            learning_rate=1e-4, epochs=2, batch_size=len(problem.train), precision=precision, **train
        )
        model = property_model(config)
        counted = []
        add_gradient = training.add_gradient

        def watched(*args, **kwargs) -> float:
            before = watch.waits.copy()
            loss = add_gradient(*args, **kwargs)
            counted.append(dict(watch.waits - before))
            return loss

        training.add_gradient = watched
        training.fit(model, problem, config, seed=0, device=fake_device.GPU)
        training.add_gradient = add_gradient
        return counted[-1]

    return case


def pretend_rows() -> None:
    """Take predictions as they come: numbers of rows are made up here, so nothing can be put in their order."""
    training.ConformerStatistics.of = lambda row_C, value_CL, vector_CD: ConformerStatistics(
        mean_RL=value_CL, std_RL=value_CL
    )


def predict(watch: fake_device.Watch) -> dict[str, int]:
    pretend_rows()
    scaling = training.Scaling(task="regression", mean_L=(0.0,) * TARGETS, std_L=(1.0,) * TARGETS)
    found_RL = training.predict(property_model(), samples("2d+3d"), scaling, fake_device.GPU)
    assert found_RL.shape == (SHAPE.molecules * MICRO_BATCHES, TARGETS)
    return dict(watch.waits)


def embed(kind: str, pooling: str = "mean") -> Case:
    def case(watch: fake_device.Watch) -> dict[str, int]:
        with fake_device.GPU:
            backbone = TwoTrackBackbone(preset("0.03M", layers=1)).eval()
        found = representations._represented(
            backbone, samples("2d+3d")[0], RepresentationConfig(kind=kind, pooling=pooling)
        )
        assert len(found) == SHAPE.molecules
        return dict(watch.waits)

    return case


def verify(dtype: torch.dtype) -> Case:
    def case(watch: fake_device.Watch) -> dict[str, int]:
        config = preset("0.03M", layers=1)
        with fake_device.GPU:
            model = cast_parameters(HeadedModel(config, DENOISE_HEADS).eval(), dtype)
        sample = DenoiseObjective(DenoiseConfig(mask_fraction=0.5)).corrupt(carbon_chains(SHAPE), KEYS)
        B, A = sample.masked_BA.shape
        shapes = {
            "x": (B, A + 1, config.atom_width), "pair": (B, A + 1, A + 1, config.pair_width), "coord": (B, A, 3),
            "logits_masked": (len(sample.masked_M), 128), "distance": (B, A, A),
        }  # fmt: skip
        outputs = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
        norms = dict.fromkeys(to_official(model.state_dict(), config, constants=False), 1.0)
        reference = Reference(
            sample=sample, batch={}, outputs={**outputs, "loss": np.ones(())}, features={}, gradient_norms=norms
        )
        found = compare(model, reference)
        assert {difference.output for difference in found if difference.value is not None} >= {
            "loss",
            "coordinates (coord)",
        }
        return {}

    return case


def benchmark_embedding(watch: fake_device.Watch) -> dict[str, int]:
    class Split:
        def gather(self, position_R: np.ndarray) -> None: ...

    embedding.collate = lambda columns: carbon_chains(SHAPE)
    with fake_device.GPU:
        backbone = TwoTrackBackbone(preset("0.03M", layers=1)).eval().to(fake_device.GPU, torch.bfloat16)
    assert backbone.pair_encoding.distance.centres_G.dtype == torch.float32, "embed's centres are exact"
    embedding.one_at_a_time(backbone, Split(), np.arange(2))
    return dict(watch.waits)


def benchmark_step(variant: tuple[str, str]) -> Case:
    def case(watch: fake_device.Watch) -> dict[str, int]:
        sample = model_step.to_device(model_step.random_sample([4, 6], 0), fake_device.GPU)
        with fake_device.GPU:
            model: nn.Module = model_step.build(variant, preset("0.03M", layers=1), fake_device.GPU, 0)
        assert isinstance(model, DenoiseModel | model_step.TextbookModel)
        model_step.make_step(model, sample)()
        return dict(watch.waits)

    return case


def the_watch_itself(watch: fake_device.Watch) -> dict[str, int]:
    """What the cases above would miss if the watch were blind is found, and where it is."""
    sample = DenoiseObjective(DenoiseConfig()).corrupt(carbon_chains(SHAPE), KEYS)
    moved = model_step.to_device(sample, fake_device.GPU)
    with fake_device.GPU:
        model = DenoiseModel(preset("0.03M", layers=1))
    model(moved)
    assert not watch.waits, "the forward pass waits for nothing"
    with pytest.raises(fake_device.MixedDevicesError, match=r"embedding .* at unimol_scale/model/encodings.py:"):
        model(sample)
    with pytest.raises(fake_device.MixedDevicesError, match=r"numpy\(\) of float32\[\] on gpu"):
        model(moved)["token"].detach().numpy()
    with pytest.raises(fake_device.MixedDevicesError, match=r"mul of .* in the backward pass"):
        TensorOnCpu.apply(model(moved)["token"]).backward()
    model.backbone.pair_encoding.distance.centres_G = torch.ones(8)  # what DeepSpeed does to a buffer at stage 3
    with pytest.raises(fake_device.MixedDevicesError, match=r"at unimol_scale/model/kernels.py:"):
        model(moved)
    watch.waits.clear()
    moved.clean_BA3[moved.masked_BA]
    assert sum(watch.waits.values()) == 1, watch.waits
    return {}


class TensorOnCpu(torch.autograd.Function):
    """Its backward pass makes a tensor where it should not."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.ones(1)


def main(folder: Path) -> None:
    fake_device.set_up_device()
    layers.fill_truncated_normal = lambda weight, std: None  # draws again what falls outside, by values
    # Its threads would not see the fake device.
    training.map_concurrently = lambda work, items, device: map(work, items)

    def prepared(case: Case) -> Callable[[fake_device.Watch], dict[str, int]]:
        def run(watch: fake_device.Watch) -> dict[str, int]:
            watch.count = 1  # labels there are
            return case(watch)

        return run

    fake_device.run_cases({name: prepared(case) for name, case in cases(folder).items()}, folder / "downstream.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
