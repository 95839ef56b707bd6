"""Noisy nodes: what is noised, what predicting it adds to the gradient, and what becomes of the head."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.helpers.random_keys import keys
from tests.helpers.tiny_finetuning import CARBON, TINY, column, fitting, model, prepared, problem
from unimol_scale.data import corrupt
from unimol_scale.data.input_views import STANDARD_VIEWS
from unimol_scale.downstream.data.batches import SampleMaker, each_row_once, training_batches
from unimol_scale.downstream.finetuning.model.master_weights import MasterWeights
from unimol_scale.downstream.finetuning.model.noisy_nodes import NoisyNodes, coordinate_head
from unimol_scale.downstream.finetuning.model.training import add_gradient, fit
from unimol_scale.model.heads import CoordinateHead
from unimol_scale.objectives.denoise import noise_loss

CPU = torch.device("cpu")
STD = 0.05
NOISY = SampleMaker(view=STANDARD_VIEWS["2d+3d"], model=TINY, noise_std=STD)


@pytest.fixture(scope="module")
def molecules(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def chosen(molecules):
    return problem(molecules, column(CARBON), "regression", "rmse", inputs="2d+3d")


def noisy_model(seed=0, *, force=0.1):
    """Return a model whose coordinate head predicts something."""
    torch.manual_seed(seed)
    made = model()
    made.coordinate_head = coordinate_head(TINY, None, seed)
    with torch.no_grad():
        made.coordinate_head.force.normal_(std=force)
    return made


def gradient(fitted):
    return {name: p.grad.clone() for name, p in fitted.named_parameters() if p.grad is not None}


def noise_by_row(samples):
    """Return the noise of every row, Å, without padding."""
    found = {}
    for sample in samples:
        noise_BA3 = sample.input.coordinates_BA3 - sample.clean_BA3
        for row, noise_A3, valid_A in zip(sample.row_B.tolist(), noise_BA3, sample.input.valid_BA, strict=True):
            assert not noise_A3[~valid_A].any(), "padding is noised"
            found[row] = noise_A3[valid_A].numpy()
    return found


def steps_of(chosen, config, *, seed=0, steps=3):
    return list(training_batches(chosen.train, NOISY, config, seed, CPU).steps(0, steps))


def test_noise_has_its_width_and_belongs_to_the_row_the_epoch_and_the_seed(chosen):
    epoch = noise_by_row([sample for step in steps_of(chosen, fitting(batch_size=8)) for sample in step])
    assert sorted(epoch) == list(range(24))
    values = np.concatenate([noise.ravel() for noise in epoch.values()])
    assert values.std() == pytest.approx(STD, rel=0.1)
    assert abs(values.mean()) < 0.1 * STD
    cut = noise_by_row(steps_of(chosen, fitting(batch_size=24, max_pairs=200), steps=1)[0])
    for row, noise in epoch.items():
        np.testing.assert_allclose(cut[row], noise, atol=1e-6)
    next_epoch = noise_by_row(
        [sample for step in steps_of(chosen, fitting(batch_size=8), steps=6)[3:] for sample in step]
    )
    other_seed = noise_by_row(steps_of(chosen, fitting(batch_size=24), seed=1, steps=1)[0])
    for other in (next_epoch, other_seed):
        assert all(not np.allclose(other[row], noise, atol=1e-3) for row, noise in epoch.items())


def test_noise_is_not_that_of_pretraining(chosen):
    mine, batch = keys(range(3)), chosen.train.read(keys(range(3)))
    sample = NOISY(batch, mine, 0)
    pretraining_BA3 = corrupt.add_noise(mine, batch.coordinates_BA3, batch.valid_BA, STD)
    assert not np.allclose(sample.input.coordinates_BA3.numpy(), pretraining_BA3, atol=1e-3)
    assert np.array_equal(sample.clean_BA3.numpy(), batch.coordinates_BA3)


def test_only_training_is_noised(chosen, monkeypatch):
    """The start of the head and the validation see the molecules as they are."""
    seen = {"noised": 0, "clean": 0}
    make = SampleMaker.__call__

    def watched(self, batch, keys, step):
        seen["noised" if self.noise_std else "clean"] += len(keys.molecule_B)
        return make(self, batch, keys, step)

    monkeypatch.setattr(SampleMaker, "__call__", watched)
    fit(noisy_model(), chosen, fitting(epochs=2, noise_std=STD), seed=0, device=CPU)
    assert seen["clean"] == 24 + 24
    assert seen["noised"] >= 2 * 24


@pytest.fixture
def one_thread():
    """Torch on one thread, whose sums have the same order whatever else the machine does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_the_gradient_is_that_of_the_labels_and_the_weighted_one_of_the_noise(chosen):
    samples = steps_of(chosen, fitting(batch_size=24), steps=1)[0]
    found = {}
    for weight in (0.0, 0.3):
        fitted = noisy_model()
        loss = add_gradient(fitted, samples, chosen, CPU, noisy_nodes=NoisyNodes(std=STD, weight=weight))
        found[weight] = gradient(fitted)
    plain = noisy_model()
    assert add_gradient(plain, samples, chosen, CPU).noise is None

    by_hand, total, molecules = noisy_model(), 0.0, 0
    for sample in samples:
        representation = by_hand.backbone(sample.input)
        predicted_BA3 = by_hand.coordinate_head(representation, sample.input.coordinates_BA3)
        total = total + noise_loss(predicted_BA3, sample.clean_BA3, sample.input.valid_BA, STD)
        molecules += len(sample.row_B)
    assert molecules == 24
    (total / molecules).backward()
    assert loss.noise == pytest.approx(total.item() / molecules, rel=1e-5)
    of_labels, of_noise = gradient(plain), gradient(by_hand)
    for name, both in found[0.3].items():
        labels, noise = (of.get(name, torch.zeros_like(both)) for of in (of_labels, of_noise))
        assert torch.allclose(both, labels + 0.3 * noise, rtol=1e-4, atol=1e-6), name
        assert torch.allclose(found[0.0][name], labels, rtol=1e-4, atol=1e-6), name
    assert found[0.3]["coordinate_head.force"].abs().max() > 0


def test_the_gradient_does_not_depend_on_how_a_step_is_cut(chosen):
    found = []
    for max_pairs in (200, 40_000):
        samples = steps_of(chosen, fitting(batch_size=24, max_pairs=max_pairs), steps=1)[0]
        fitted = noisy_model()
        loss = add_gradient(fitted, samples, chosen, CPU, noisy_nodes=NoisyNodes(std=STD, weight=1.0))
        found.append((len(samples), loss.noise, gradient(fitted)))
    (many, loss, cut), (one, same_loss, whole) = found
    assert many > 5 > one
    assert loss == pytest.approx(same_loss, rel=1e-5)
    for name, tensor in cut.items():
        assert torch.allclose(tensor, whole[name], rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_noise_is_learnt_beside_the_labels_and_its_head_is_not_kept(molecules, precision):
    chosen = problem(molecules, column(CARBON), "regression", "r2", inputs="2d+3d")
    fitted = noisy_model(force=0.0)  # as a new head is
    settings = fitting(epochs=30, learning_rate=5e-3, noise_std=0.5, noise_weight=1.0, precision=precision)
    epochs = fit(fitted, chosen, settings, seed=0, device=CPU)
    assert epochs[0].noise_loss == pytest.approx(1.0, abs=0.25)  # about 1 for no prediction
    assert epochs[-1].noise_loss < 0.85
    assert epochs[epochs[-1].best - 1].score > 0.8
    assert fitted.coordinate_head is None
    assert not [name for name in fitted.state_dict() if "coordinate" in name]


def test_noise_without_its_prediction_needs_no_head(chosen):
    torch.manual_seed(0)
    epochs = fit(model(), chosen, fitting(epochs=1, noise_std=STD, noise_weight=0.0), seed=0, device=CPU)
    assert epochs[0].noise_loss is None
    torch.manual_seed(0)
    clean = fit(model(), chosen, fitting(epochs=1), seed=0, device=CPU)
    assert clean[0].loss != epochs[0].loss


def test_the_head_is_a_copy_of_the_pretrained_one_or_new_and_draws_nothing_of_torch():
    torch.manual_seed(3)
    pretrained = CoordinateHead(TINY)
    state = torch.random.get_rng_state()
    taken, new = (coordinate_head(dataclasses.replace(TINY, attention_dropout=0.2), p, 5) for p in (pretrained, None))
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in pretrained.state_dict().items():
        assert torch.equal(taken.state_dict()[name], value)
        assert taken.state_dict()[name].data_ptr() != value.data_ptr()
    assert not torch.equal(new.qkv_weight, pretrained.qkv_weight)
    assert taken.dropout == new.dropout == 0.2


def test_the_head_computes_in_the_precision_of_the_backbone():
    made = noisy_model()
    weights = MasterWeights(made, "bf16")
    assert {p.dtype for p in made.coordinate_head.parameters()} == {torch.bfloat16}
    assert weights.named["coordinate_head.force"].dtype == torch.float32


def test_validation_rows_come_without_noise(chosen):
    assert all(sample.clean_BA3 is None for sample in each_row_once(chosen.valid, chosen.make_sample, 40_000, CPU))
