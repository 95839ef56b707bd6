"""Fitting one model: what a loss counts, how labels are scaled, and which epoch is kept."""

import dataclasses
from contextlib import closing
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.tiny_finetuning import AROMATIC, CARBON, TINY, column, fitting, model, prepared, problem
from unimol_scale.downstream.config import HeadName
from unimol_scale.downstream.data.batches import each_row_once, training_batches
from unimol_scale.downstream.embedding.pooling import pool
from unimol_scale.downstream.finetuning.model import training
from unimol_scale.downstream.finetuning.model.head_initialisation import initialise_head
from unimol_scale.downstream.finetuning.model.learnt_outputs import Scaling, masked_loss
from unimol_scale.downstream.finetuning.model.master_weights import MasterWeights
from unimol_scale.downstream.finetuning.model.property_model import PropertyModel
from unimol_scale.downstream.finetuning.model.training import add_gradient, fit, predict
from unimol_scale.downstream.metrics import score
from unimol_scale.downstream.registry import METRICS
from unimol_scale.engine.side_by_side import SideBySide
from unimol_scale.errors import RunError
from unimol_scale.model.presets import preset

CPU = torch.device("cpu")
NAN = float("nan")


@pytest.fixture(scope="module")
def molecules(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("cache"))


def seeded_model(seed=0, **options):
    torch.manual_seed(seed)
    return model(**options)


def base_of(chosen):
    return chosen.scaling.base_outputs(chosen.train.labels_RL)


def gradient(fitted):
    return {name: p.grad.clone() for name, p in fitted.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["mse", "mae", "huber", None])
def test_a_missing_label_counts_as_little_as_a_row_that_is_not_there(name):
    torch.manual_seed(0)
    out = torch.randn(4, 2, requires_grad=True)
    wanted = torch.rand(4, 2).round()
    wanted[1] = NAN
    wanted[2, 0] = NAN
    there = [(0, 0), (0, 1), (2, 1), (3, 0), (3, 1)]
    masked_loss(out, wanted, name).backward()
    masked, out.grad = out.grad, None
    by_hand = {
        "mse": lambda o, w: (o - w) ** 2,
        "mae": lambda o, w: (o - w).abs(),
        "huber": lambda o, w: nn.functional.smooth_l1_loss(o, w),
        None: lambda o, w: -(w * torch.sigmoid(o).log() + (1 - w) * (1 - torch.sigmoid(o)).log()),
    }[name]
    sum(by_hand(out[at], wanted[at]) for at in there).backward()
    assert torch.allclose(masked, out.grad, atol=1e-6)
    assert masked[1].eq(0).all()
    assert masked[2, 0] == 0


def test_the_gradient_of_a_model_is_that_without_the_unlabelled_row(molecules):
    labels_ML = np.stack([CARBON, AROMATIC], axis=1)
    labels_ML[3] = NAN
    found = []
    for rows in (range(8), [0, 1, 2, 4, 5, 6, 7]):
        chosen = problem(molecules, labels_ML, "regression", "rmse", train=rows)
        fitted = seeded_model(num_targets=2)
        loss = add_gradient(fitted, list(each_row_once(chosen.train, chosen.make_sample, 40_000, CPU)), chosen, CPU)
        found.append((loss.label, gradient(fitted)))
    (loss, with_row), (same_loss, without_row) = found
    assert loss == pytest.approx(same_loss, rel=1e-6)
    for name, tensor in with_row.items():
        assert torch.allclose(tensor, without_row[name], atol=1e-6), name


def test_the_gradient_does_not_depend_on_how_a_step_is_cut(molecules):
    labels_ML = np.stack([CARBON, AROMATIC], axis=1)
    labels_ML[::3, 1] = NAN  # so that micro-batches have unlike shares of the labels
    chosen = problem(molecules, labels_ML, "regression", "rmse")
    found = []
    for max_pairs in (200, 40_000):
        samples = next(
            training_batches(
                chosen.train, chosen.make_sample, fitting(max_pairs=max_pairs, batch_size=24), 0, CPU
            ).steps(0, 1)
        )
        fitted = seeded_model(num_targets=2)
        found.append((len(samples), add_gradient(fitted, samples, chosen, CPU).label, gradient(fitted)))
    (many, loss, cut), (one, same_loss, whole) = found
    assert many > 5 > one
    assert loss == pytest.approx(same_loss, rel=1e-5)
    for name, tensor in cut.items():
        assert torch.allclose(tensor, whole[name], rtol=1e-5, atol=1e-6), name


def test_micro_batches_side_by_side_give_the_gradient_of_one_after_another(molecules):
    chosen = problem(molecules, column(CARBON), "regression", "rmse")
    config = fitting(max_pairs=200, batch_size=24)
    samples = next(training_batches(chosen.train, chosen.make_sample, config, 0, CPU, 2).steps(0, 1))
    one_by_one, together = seeded_model(), seeded_model()
    expected = add_gradient(one_by_one, samples, chosen, CPU)
    with closing(SideBySide(together.parameters(), 3)) as side_by_side:
        assert add_gradient(together, samples, chosen, CPU, side_by_side=side_by_side).label == pytest.approx(
            expected.label, rel=1e-6
        )
    assert len(samples) > 5
    for name, tensor in gradient(together).items():
        assert torch.allclose(tensor, gradient(one_by_one)[name], rtol=1e-5, atol=1e-6), name


def test_a_training_side_by_side_repeats_itself_with_dropout_and_learns(molecules, monkeypatch):
    monkeypatch.setattr(training, "_micro_batches_at_once", lambda *_: 3)
    chosen = problem(molecules, column(CARBON), "regression", "rmse")
    found = []
    for seed in (1, 1, 2):
        fitted = seeded_model(dropout=0.3)
        epochs = fit(fitted, chosen, fitting(epochs=6, max_pairs=400, learning_rate=1e-2), seed=seed, device=CPU)
        found.append((epochs, {name: value.detach().clone() for name, value in fitted.named_parameters()}))
    (first, weights), (again, same), (other, _) = found
    assert first == again
    assert all(torch.equal(value, same[name]) for name, value in weights.items())
    assert first != other
    assert first[-1].loss < 0.7 * first[0].loss


def test_only_what_can_be_computed_side_by_side_is(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    small, dropping = seeded_model(), seeded_model()
    dropping.backbone.config = dataclasses.replace(TINY, attention_dropout=0.1)
    large = PropertyModel(preset("0.5M"), 1, "mean", 0.1)
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        found = [
            training._micro_batches_at_once(model, fitting(batch_size=3, **more), torch.device(device))
            for model, device, more in (
                (large, "cpu", {}), (small, "cpu", {}), (dropping, "cpu", {}), (large, "cuda", {}),
                (large, "cpu", {"precision": "bf16"}),
            )
        ]  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    assert found == [3, 1, 1, 1, 1]


def test_scaling_there_and_back_keeps_six_digits_of_energies_far_from_zero():
    # Energies around -400 Ha that differ by some meV: single precision of the raw labels would keep nothing of them.
    labels_RL = -400.0 + 1e-4 * np.random.default_rng(0).standard_normal((50, 2)) * [1.0, 1000.0]
    labels_RL[3, 0] = NAN
    scaling = Scaling.of(labels_RL, "regression")
    normal = scaling.normalise(torch.from_numpy(labels_RL))
    assert normal.dtype == torch.float32
    assert torch.isnan(normal[3, 0])
    there = normal.nan_to_num(0.0)
    assert there.mean(0).abs().max() < 0.05
    assert ((there.std(0) - 1).abs() < 0.05).all()
    back = scaling.restore(normal).numpy()
    assert np.nanmax(np.abs(back - labels_RL) / [1e-4, 1e-1]) < 1e-5


def test_classifiers_are_not_scaled_and_give_probabilities():
    scaling = Scaling.of(column([0, 1, 1]), "classification")
    assert scaling.normalise(torch.tensor([[0.0], [1.0]])).tolist() == [[0.0], [1.0]]
    assert scaling.restore(torch.tensor([[0.0], [100.0]])).tolist() == [[0.5], [1.0]]


def test_a_fit_ends_with_the_weights_of_its_best_epoch(molecules):
    # So high a learning rate that the last epoch is not the best.
    chosen = problem(molecules, column(CARBON), "regression", "rmse", train=range(16), valid=range(16, 30))
    fitted = seeded_model()
    told = []
    settings = fitting(learning_rate=0.1, epochs=60, patience=8, warm_up=0.0)
    epochs = fit(fitted, chosen, settings, seed=0, device=CPU, on_epoch=told.append)
    assert told == epochs
    best = epochs[-1].best
    assert epochs[best - 1].score == min(epoch.score for epoch in epochs)
    assert best < len(epochs) == best + 8 < 60  # it stopped when patience was at its end
    prediction_RL = predict(fitted, each_row_once(chosen.valid, chosen.make_sample, 40_000, CPU), chosen.scaling, CPU)
    assert score(METRICS["rmse"], chosen.valid.labels_RL, prediction_RL).value == epochs[best - 1].score
    assert not fitted.training


def test_a_metric_that_should_be_high_is_kept_where_it_is_highest(molecules):
    chosen = problem(molecules, column(CARBON), "regression", "r2", train=range(16), valid=range(16, 30))
    epochs = fit(seeded_model(), chosen, fitting(learning_rate=0.1, epochs=12), seed=0, device=CPU)
    assert epochs[epochs[-1].best - 1].score == max(epoch.score for epoch in epochs) > epochs[0].score


def test_no_target_chooses_the_epoch_by_the_size_of_its_unit(molecules):
    labels_ML = np.stack([CARBON, np.random.default_rng(0).standard_normal(30)], axis=1)
    found = []
    for unit in (1.0, 1e6):
        chosen = problem(molecules, labels_ML * [1.0, unit], "regression", "mae", valid=range(16, 30))
        found.append(fit(seeded_model(num_targets=2), chosen, fitting(epochs=6), seed=0, device=CPU))
    assert [epoch.score for epoch in found[0]] == pytest.approx([epoch.score for epoch in found[1]], rel=1e-4)


@pytest.mark.parametrize(
    ("pooling", "head"),
    [
        ("mean", "mlp"),
        ("virtual_node", "mlp"),
        ("mean", "linear"),
        ("layers", "mlp"),
        ("layers", "linear"),
        ("virtual_node", "dense-tanh"),
    ],
)
def test_a_regression_is_overfitted(molecules, pooling, head):
    # In the units of an energy far from zero.
    labels_ML = column(-400.0 + 1e-3 * CARBON)
    chosen = problem(molecules, labels_ML, "regression", "r2")
    epochs = fit(seeded_model(pooling=pooling, head=head), chosen, fitting(epochs=40), seed=0, device=CPU)
    assert epochs[epochs[-1].best - 1].score > 0.9
    assert epochs[-1].loss < 0.3 * epochs[0].loss


def test_in_bf16_too_and_the_model_is_fp32_afterwards(molecules):
    chosen = problem(molecules, column(CARBON), "regression", "r2")
    fitted = seeded_model()
    epochs = fit(fitted, chosen, fitting(epochs=40, precision="bf16"), seed=0, device=CPU)
    assert epochs[epochs[-1].best - 1].score > 0.9
    assert {parameter.dtype for parameter in fitted.parameters()} == {torch.float32}
    prediction = predict(fitted, each_row_once(chosen.valid, chosen.make_sample, 40_000, CPU), chosen.scaling, CPU)
    assert score(METRICS["r2"], chosen.valid.labels_RL, prediction).value == pytest.approx(
        epochs[epochs[-1].best - 1].score, abs=0.02
    )


def test_steps_too_small_for_bf16_add_up(molecules):
    chosen = problem(molecules, column(CARBON), "regression", "r2")
    moved = {}
    for precision in ("fp32", "bf16"):
        fitted = seeded_model()
        before = fitted.backbone.layers[0].ffn.up_weight.detach().clone()
        fit(fitted, chosen, fitting(epochs=2, learning_rate=1e-6, precision=precision), seed=0, device=CPU)
        moved[precision] = (fitted.backbone.layers[0].ffn.up_weight.detach() - before).abs().mean().item()
    assert 0 < moved["bf16"] == pytest.approx(moved["fp32"], rel=0.1)


def test_micro_batches_in_bf16_add_up_in_fp32(molecules):
    chosen = problem(molecules, column(CARBON), "regression", "rmse")
    found = []
    for max_pairs in (150, 40_000):
        fitted = seeded_model()
        weights = MasterWeights(fitted, "bf16")
        samples = list(each_row_once(chosen.train, chosen.make_sample, max_pairs, CPU))
        add_gradient(fitted, samples, chosen, CPU, weights.add_gradients)
        assert all(parameter.grad is None for name, parameter in fitted.named_parameters() if "backbone" in name)
        found.append(weights.named["backbone.layers.0.ffn.up_weight"].grad)
    assert len(samples) == 1
    assert found[0].dtype == torch.float32
    assert (found[0] - found[1]).norm() < 0.02 * found[1].norm()


def test_a_classification_is_overfitted(molecules):
    labels_ML = np.stack([AROMATIC, (CARBON > 3).astype(float)], axis=1)
    labels_ML[::5, 0] = NAN
    epochs = fit(
        seeded_model(num_targets=2),
        problem(molecules, labels_ML, "multilabel", "roc_auc"),
        fitting(epochs=40),
        seed=0,
        device=CPU,
    )
    assert epochs[epochs[-1].best - 1].score == 1.0


def test_a_seed_decides_every_bit_and_torch_is_left_as_it_was(molecules):
    chosen = problem(molecules, column(CARBON), "regression", "rmse")

    def fitted(seed, state):
        made = seeded_model(dropout=0.3)
        torch.manual_seed(state)  # whatever it is
        before = torch.random.get_rng_state()
        fit(made, chosen, fitting(epochs=3, dropout=0.3), seed=seed, device=CPU)
        assert torch.equal(before, torch.random.get_rng_state())
        return predict(made, each_row_once(chosen.valid, chosen.make_sample, 40_000, CPU), chosen.scaling, CPU)

    assert np.array_equal(fitted(1, state=10), fitted(1, state=11))
    assert not np.array_equal(fitted(1, state=10), fitted(2, state=10))


def test_predictions_are_in_the_order_of_the_rows_however_they_are_cut(molecules):
    chosen = problem(molecules, column(CARBON), "regression", "rmse", valid=range(30))
    fitted = seeded_model().eval()
    whole = predict(fitted, each_row_once(chosen.valid, chosen.make_sample, 40_000, CPU), chosen.scaling, CPU)
    for row in (0, 17, 29):
        alone = problem(molecules, column(CARBON), "regression", "rmse", valid=[row])
        value = predict(fitted, each_row_once(alone.valid, alone.make_sample, 40_000, CPU), chosen.scaling, CPU)
        assert value[0, 0] == pytest.approx(whole[row, 0], rel=1e-5)
    assert len(np.unique(whole.round(6))) > 25


def test_a_training_that_diverges_is_an_error_and_no_model(molecules):
    chosen = problem(molecules, column(CARBON), "regression", "rmse")
    with pytest.raises(RunError, match=r"not finite.*lower train\.learning_rate"):
        fit(seeded_model(), chosen, fitting(learning_rate=1e30), seed=0, device=CPU)


def test_a_prediction_that_is_no_number_is_an_error_and_not_an_empty_cell(molecules):
    chosen = problem(molecules, column(CARBON), "regression", "rmse")
    broken = seeded_model()
    nn.init.constant_(broken.out.bias, NAN)
    with pytest.raises(RunError, match="24 of 24 predictions are not finite"):
        predict(broken, each_row_once(chosen.valid, chosen.make_sample, 40_000, CPU), chosen.scaling, CPU)


def test_a_score_that_is_not_defined_is_an_error(molecules):
    chosen = problem(molecules, column(AROMATIC), "classification", "roc_auc", valid=[0, 1, 2])
    with pytest.raises(RunError, match="roc_auc is not defined on the validation rows"):
        fit(seeded_model(), chosen, fitting(), seed=0, device=CPU)


@pytest.mark.parametrize("head", get_args(HeadName))
@pytest.mark.parametrize(("seed", "offset"), [(0, 0.0), (1, 24.0), (2, 24.0)])
def test_a_model_starts_as_the_predictor_of_the_mean(molecules, seed, offset, head):
    labels_ML = np.stack([CARBON, 1000.0 * AROMATIC], axis=1)
    labels_ML[::5, 0] = NAN
    chosen = problem(molecules, labels_ML, "regression", "rmse")
    fitted = seeded_model(seed, num_targets=2, head=head)
    with torch.no_grad():  # what all molecules share is much more than what tells them apart
        fitted.backbone.atom_norm.bias += offset * torch.randn(TINY.atom_width)
    initialise_head(fitted, chosen.train, chosen.make_sample, base_of(chosen), None, CPU)
    samples = list(each_row_once(chosen.train, chosen.make_sample, 40_000, CPU))
    assert add_gradient(fitted, samples, chosen, CPU).label == pytest.approx(1.0, abs=1e-4)
    assert predict(fitted, samples, chosen.scaling, CPU) == pytest.approx(
        np.broadcast_to(chosen.scaling.mean_L, (24, 2)), rel=1e-6
    )
    assert fitted.out.weight.grad.abs().max() > 0
    with torch.no_grad():  # the head sees what tells molecules apart
        normed = torch.cat([fitted.norm(pool(fitted.backbone(sample.input), "mean")) for sample in samples])
    assert normed.mean(0).abs().max() < 1e-3
    assert normed.std(0).median() == pytest.approx(1.0, abs=0.1)


def test_a_classifier_starts_at_the_share_of_ones(molecules):
    labels_ML = np.stack([AROMATIC, np.zeros(30), np.full(30, NAN)], axis=1)
    chosen = problem(molecules, labels_ML, "multilabel", "roc_auc")
    fitted = seeded_model(num_targets=3)
    initialise_head(fitted, chosen.train, chosen.make_sample, base_of(chosen), None, CPU)
    first = predict(fitted, each_row_once(chosen.train, chosen.make_sample, 40_000, CPU), chosen.scaling, CPU)[0]
    assert first == pytest.approx([AROMATIC[:24].mean(), 0.0, 0.5], abs=0.03)


def test_molecules_that_are_all_the_same_do_not_break_the_start(tmp_path):
    made = prepared(tmp_path, ["CCO"] * 24)
    chosen = problem(made, column(np.arange(24.0)), "regression", "rmse")
    fitted = seeded_model()
    fit(fitted, chosen, fitting(epochs=1), seed=0, device=CPU)
    assert all(p.isfinite().all() for p in fitted.parameters())


def test_full_memory_is_an_error_that_names_the_setting(molecules, monkeypatch):
    chosen = problem(molecules, CARBON[:, None], "regression", "rmse")
    fitted = seeded_model()

    def full(*args, **options):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    monkeypatch.setattr(fitted.backbone, "forward", full)
    samples = list(each_row_once(chosen.valid, chosen.make_sample, 40_000, CPU))
    for work in (
        lambda: fit(fitted, chosen, fitting(), seed=0, device=CPU),
        lambda: predict(fitted, samples, chosen.scaling, CPU),
    ):
        with pytest.raises(
            RunError, match=r"memory is full: CUDA error: CUBLAS_STATUS_ALLOC_FAILED.* train\.max_pairs"
        ):
            work()
