"""The interval says when test molecules can tell two predictors apart, and when they cannot."""

import numpy as np
import pytest

from unimol_scale.downstream.baselines.paired_bootstrap import JudgedRows, drawn_scores, paired_difference
from unimol_scale.downstream.metric import Metric
from unimol_scale.downstream.metrics import score
from unimol_scale.downstream.registry import METRICS

ROWS = 120
RANDOM = np.random.default_rng(3)
LABEL = {
    "rmse": RANDOM.normal(size=(ROWS, 1)),
    "roc_auc": (RANDOM.random((ROWS, 1)) < 0.5).astype(float),
}
LABEL |= {"mae": LABEL["rmse"], "r2": LABEL["rmse"], "pr_auc": LABEL["roc_auc"]}
NOISE = RANDOM.normal(size=(3, ROWS, 1))


def judged(label_RL, molecule_R=None, scale_L=None, **predictions):
    return JudgedRows(
        label_RL=label_RL,
        molecule_R=np.arange(len(label_RL)) if molecule_R is None else molecule_R,
        predictions={name: np.asarray(one) for name, one in predictions.items()},
        scale_L=np.ones(label_RL.shape[1]) if scale_L is None else np.array(scale_L),
    )


def compared(metric, *groups, molecules=None):
    draws = 200 if metric in ("r2", "pr_auc") else None  # which are computed draw by draw
    whole, drawn = drawn_scores(groups, METRICS[metric], draws)
    counts = molecules or (len(groups[0].label_RL),) * groups[0].label_RL.shape[1]
    return paired_difference("best", *((whole[one], drawn[one]) for one in ("own", "their")), METRICS[metric], counts)


@pytest.mark.parametrize("metric", ["rmse", "mae", "roc_auc", "r2", "pr_auc"])
def test_a_perfect_model_is_surely_better_and_a_broken_one_surely_worse(metric):
    label = LABEL[metric]
    perfect, fair, broken = label[None], label[None] + NOISE[:1], 5.0 * NOISE[1:2] - 2.0 * label[None]
    assert compared(metric, judged(label, own=perfect, their=fair)).verdict == "better"
    found = compared(metric, judged(label, own=broken, their=fair))
    assert (found.verdict, found.verdict_by_target) == ("worse", ("worse",))


@pytest.mark.parametrize("metric", ["rmse", "roc_auc", "r2"])
def test_two_predictors_that_err_by_as_much_are_not_told_apart(metric):
    label = LABEL[metric]
    found = compared(metric, judged(label, own=label[None] + NOISE[:1], their=label[None] + NOISE[1:2]))
    assert found.verdict == "no sure difference"
    assert found.low < (1.0 if metric == "rmse" else 0.0) < found.high
    same = compared(metric, judged(label, own=label[None] + NOISE[:1], their=label[None] + NOISE[:1]))
    assert same.verdict == "no sure difference"


def test_a_difference_of_rounding_is_none():
    label = LABEL["rmse"]
    found = compared("rmse", judged(label, own=label[None] + (1.0 - 1e-9) * NOISE[:1], their=label[None] + NOISE[:1]))
    assert found.high < 1.0
    assert found.verdict == "no sure difference"


def test_the_ratio_is_of_the_errors_and_paired():
    label = LABEL["rmse"]
    found = compared("rmse", judged(label, own=label[None] + 0.5 * NOISE[:1], their=label[None] + NOISE[:1]))
    assert found.is_ratio
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_a_difference_is_of_the_scores_where_more_is_better():
    label = LABEL["roc_auc"]
    own, their = label[None] + 0.3 * NOISE[:1], label[None] + 1.5 * NOISE[1:2]
    found = compared("roc_auc", judged(label, own=own, their=their))
    expected = [score(METRICS["roc_auc"], label, one[0]).value for one in (own, their)]
    assert not found.is_ratio
    assert found.value == pytest.approx(expected[0] - expected[1])


def test_of_few_molecules_nothing_is_sure():
    label = LABEL["rmse"][:19]
    rows = judged(label, own=label[None], their=label[None] + NOISE[:1, :19])
    assert compared("rmse", rows).verdict == "too few to tell"
    assert compared("rmse", rows, molecules=(20,)).verdict == "better"


def test_rows_of_one_molecule_are_no_more_evidence_than_one_row():
    label = LABEL["rmse"][:40]
    own, their = label[None] + NOISE[:1, :40], label[None] + NOISE[1:2, :40]
    once = compared("rmse", judged(label, own=own, their=their))
    molecule_R = np.tile(np.arange(40), 9)
    again = judged(
        np.tile(label, (9, 1)), molecule_R=molecule_R, own=np.tile(own, (1, 9, 1)), their=np.tile(their, (1, 9, 1))
    )
    repeated = compared("rmse", again, molecules=(40,))
    assert (repeated.low, repeated.high) == pytest.approx((once.low, once.high))
    as_others = compared("rmse", judged(again.label_RL, **again.predictions))
    assert as_others.high - as_others.low < 0.6 * (once.high - once.low)


def test_folds_are_drawn_by_molecule_and_weigh_alike():
    label = LABEL["rmse"]
    halves = [slice(0, 60), slice(60, ROWS)]
    groups = [
        judged(label[h], molecule_R=np.arange(ROWS)[h], own=label[None, h] + NOISE[:1, h], their=label[None, h] + 2.0)
        for h in halves
    ]
    whole, drawn = drawn_scores(groups, METRICS["rmse"])
    each = [np.sqrt(np.mean(NOISE[0, h] ** 2)) for h in halves]
    assert whole["own"][0, 0] == pytest.approx(np.mean(each))
    assert drawn["their"] == pytest.approx(2.0)
    assert 0.02 < drawn["own"].std() < 0.2


def test_seeds_that_scatter_widen_the_interval():
    label = LABEL["rmse"]
    own = label[None] + np.array([0.4, 0.6])[:, None, None] * NOISE[:1]
    found = compared("rmse", judged(label, own=own, their=label[None] + NOISE[:1]))
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.4, 0.6))  # one seed or the other, twice


def test_missing_labels_and_units_of_several_targets():
    label = np.concatenate([LABEL["rmse"], 1000.0 * LABEL["rmse"][::-1]], axis=1)
    label[::2, 0] = np.nan
    known = ~np.isnan(label[:, 0])
    noise = np.concatenate([NOISE[0], NOISE[1]], axis=1)
    own, their = label + noise * [0.5, 1000.0], label + noise * [1.0, 1000.0]
    own[~known, 0] = 1e9
    found = compared("rmse", judged(label, scale_L=[1.0, 1000.0], own=own[None], their=their[None]))
    first, second = np.sqrt(np.mean(NOISE[0][known] ** 2)), np.sqrt(np.mean(NOISE[1] ** 2))
    assert found.value == pytest.approx((0.5 * first + second) / (first + second))
    assert found.verdict_by_target == ("better", "no sure difference")


def test_a_target_that_cannot_be_judged_is_left_out():
    label = np.concatenate([LABEL["roc_auc"], np.ones((ROWS, 1))], axis=1)
    own, their = (label + np.concatenate([noise, noise], axis=1) for noise in (0.3 * NOISE[0], 1.5 * NOISE[1]))
    found = compared("roc_auc", judged(label, own=own[None], their=their[None]))
    alone = compared("roc_auc", judged(label[:, :1], own=own[None, :, :1], their=their[None, :, :1]))
    assert found.verdict_by_target == ("better", "too few to tell")
    assert (found.value, found.low) == (alone.value, alone.low)


def test_a_baseline_without_any_error_is_better_though_no_ratio_is_defined():
    label = LABEL["rmse"]
    found = compared("rmse", judged(label, own=label[None] + NOISE[:1], their=label[None]))
    assert (found.verdict, found.value, found.high) == ("worse", None, None)


@pytest.mark.parametrize("name", ["rmse", "mae", "roc_auc"])
def test_scores_of_many_draws_are_those_of_each(name):
    label = LABEL[name][:40]
    prediction = RANDOM.integers(0, 9, (1, 40, 1)) / 9  # with ties
    ours = METRICS[name]
    slow = Metric(
        name="median", tasks=ours.tasks, higher_is_better=True, function=ours.function, problem=ours.problem,
        in_label_units=ours.in_label_units,
    )  # fmt: skip
    rows = judged(label, own=prediction)
    fast, each = (drawn_scores([rows], metric, 50)[1]["own"] for metric in (ours, slow))
    np.testing.assert_allclose(fast, each, rtol=1e-12)


def test_a_draw_of_one_class_has_no_score():
    label = np.array([[1.0], [0.0], [0.0]])
    drawn = drawn_scores([judged(label, own=np.arange(3.0)[None, :, None])], METRICS["roc_auc"], 200)[1]["own"]
    assert 0.2 < np.isnan(drawn).mean() < 0.5


@pytest.mark.parametrize("metric", ["roc_auc", "log_loss", "accuracy"])
def test_draws_of_several_classes_are_scores_of_the_rows_drawn(metric):
    label = RANDOM.integers(0, 3, (30, 1)).astype(float)
    probability = RANDOM.random((1, 30, 3))
    probability /= probability.sum(2, keepdims=True)
    whole, drawn = drawn_scores([judged(label, own=probability)], METRICS[metric], 1)
    assert whole["own"].item() == pytest.approx(score(METRICS[metric], label, probability[0]).value)
    again = np.random.default_rng(0).integers(0, 30, 30)
    assert drawn["own"].item() == pytest.approx(score(METRICS[metric], label[again], probability[0, again]).value)
