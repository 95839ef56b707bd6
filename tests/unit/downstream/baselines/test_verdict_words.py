"""The words claim what the interval says and no more."""

import dataclasses

import pytest

from unimol_scale.downstream.baselines.baseline_results import (
    BaselineResults,
    BaselineScore,
    MemberBaselines,
    PairedDifference,
)
from unimol_scale.downstream.baselines.verdict_words import (
    advise_worse,
    count_verdicts,
    short_verdict,
    shown_value,
    verdict_sentence,
)

SCORES = tuple(
    BaselineScore(name=name, valid_by_target=(0.9,), test_by_target=(1.0,))
    for name in ("ecfp_forest", "ecfp_boosting", "rdkit_forest", "rdkit_boosting", "trivial")
)
MEMBER = MemberBaselines(
    seeds=(0, 1), chosen="rdkit_forest", scores=SCORES, label_std=(2.0,), limits={}, train_rows=900, unreadable=0
)
CLEAR = PairedDifference(
    against="trivial", is_ratio=True, value=0.4, low=0.3, high=0.5, verdict="better", verdict_by_target=("better",)
)


def found(verdict, value, low, high, *, is_ratio=True, trivial=CLEAR, molecules=113, members=(MEMBER,)):
    best = PairedDifference(
        against="best", is_ratio=is_ratio, value=value, low=low, high=high, verdict=verdict,
        verdict_by_target=(verdict,),
    )  # fmt: skip
    return BaselineResults(members=members, best=best, trivial=trivial, test_molecules=molecules)


FOREST = "the best baseline, a random forest on RDKit descriptors"


@pytest.mark.parametrize(
    ("results", "metric", "sentence", "short"),
    [
        (
            found("better", 0.87, 0.81, 0.93),
            "rmse",
            f"The model is significantly better than {FOREST} (95 % interval of the RMSE ratio 0.81 to 0.93).",
            f"the model is significantly better than {FOREST}: RMSE ratio 0.87 (0.81 to 0.93)",
        ),
        (
            found("no sure difference", 1.02, 0.93, 1.12),
            "mae",
            f"The model and {FOREST}, do not differ significantly (95 % interval of the MAE ratio 0.93 to 1.12): "
            "either may be the better one.",
            f"no significant difference between the model and {FOREST}: MAE ratio 1.02 (0.93 to 1.12)",
        ),
        (
            found("worse", -0.081, -0.12, -0.04, is_ratio=False),
            "roc_auc",
            f"The model is significantly worse than {FOREST} (95 % interval of the ROC-AUC difference -0.120 to "
            "-0.040): do not use it as it is.",
            f"the model is significantly worse than {FOREST}: ROC-AUC difference -0.081 (-0.120 to -0.040)",
        ),
        (
            found("too few to tell", 0.5, 0.4, 0.6, molecules=5),
            "rmse",
            f"5 test molecules are too few to say whether the model or {FOREST}, is better; 20 or more are needed.",
            f"too few test molecules to compare the model with {FOREST}: RMSE ratio 0.5 (0.4 to 0.6)",
        ),
    ],
)
def test_each_outcome_has_its_words(results, metric, sentence, short):
    assert verdict_sentence(results, metric) == sentence
    assert short_verdict(results, metric) == short


def test_advice_about_a_worse_model_fits_how_it_was_trained():
    improving = advise_worse([(40, 60), (59, 60)], is_probe=False)
    assert improving == "Fine-tune longer, or start from another model."
    assert "longer training will not help" in advise_worse([(10, 30), (12, 32)], is_probe=False)
    assert "It is a probe: fine-tune the whole model" in advise_worse([(1, 1)], is_probe=True)
    assert verdict_sentence(found("worse", 2.0, 1.7, 2.3), "rmse", advice=improving).endswith(f"as it is. {improving}")


def test_a_model_that_does_not_beat_the_mean_is_told_so():
    trivial = dataclasses.replace(CLEAR, value=0.99, low=0.95, high=1.04, verdict="no sure difference")
    said = verdict_sentence(found("worse", 2.0, 1.7, 2.3, trivial=trivial), "rmse")
    assert said.endswith(
        " It is not even significantly better than predicting the mean of the training labels (95 % interval of the "
        "RMSE ratio 0.95 to 1.04)."
    )
    assert "not even" not in verdict_sentence(found("worse", 2.0, 1.7, 2.3), "rmse")


def test_a_baseline_of_fewer_rows_is_told_wherever_it_is_named():
    limited = dataclasses.replace(MEMBER, limits={"rdkit_forest": 10_000}, train_rows=110_000)
    said = verdict_sentence(found("better", 0.5, 0.4, 0.6, members=(limited,)), "rmse")
    assert "a random forest on RDKit descriptors fitted to 10,000 of the 110,000 training rows (95 %" in said
    other = dataclasses.replace(MEMBER, limits={"ecfp_forest": 10_000}, train_rows=110_000)
    assert "110,000" not in verdict_sentence(found("better", 0.5, 0.4, 0.6, members=(other,)), "rmse")


def test_folds_with_other_choices_are_told():
    members = (MEMBER, MEMBER, dataclasses.replace(MEMBER, chosen="ecfp_boosting"))
    said = verdict_sentence(found("better", 0.5, 0.4, 0.6, members=members), "rmse")
    assert "which is chosen for each split separately, most often random forest on RDKit descriptors" in said


def test_what_has_no_number_gets_none():
    results = found("worse", None, None, None)
    assert shown_value(results.best) == "undefined"
    assert "descriptors (the RMSE ratio has no interval)" in verdict_sentence(results, "rmse")


def test_targets_are_counted_by_their_verdicts():
    several = dataclasses.replace(CLEAR, verdict_by_target=("better", "worse", "better", "no sure difference"))
    assert (
        count_verdicts(several) == "2 significantly better, 1 significantly worse, 1 without a significant difference"
    )
