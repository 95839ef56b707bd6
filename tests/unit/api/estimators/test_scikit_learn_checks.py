"""scikit-learn's own checks of estimators, as far as they make sense where X holds molecules.

Its checks make tables of numbers; ``numbered_molecules`` turns a row of them into a molecule.
"""

import contextlib
import warnings
from unittest import SkipTest

import pytest
import sklearn
from sklearn.exceptions import SkipTestWarning
from sklearn.utils import estimator_checks

import unimol_scale as us
from tests.helpers.numbered_molecules import NumberedClassifier, NumberedEmbedder, NumberedRegressor

# Check → why it cannot hold here.
NOT_APPLICABLE = {
    **dict.fromkeys(
        ("check_n_features_in_after_fitting", "check_n_features_in", "check_transformer_general"),
        "molecules are no table with a number of features, which fit would keep and the others compare",
    ),
    **dict.fromkeys(
        (
            "check_complex_data", "check_dtype_object", "check_estimators_nan_inf", "check_fit2d_predict1d",
            "check_estimator_sparse_tag", "check_estimator_sparse_array", "check_estimator_sparse_matrix",
            "check_array_api_input", "check_estimators_empty_data_messages",
        ),
        "numbers that are no molecules are refused, but in words about molecules",
    ),
    **dict.fromkeys(
        (
            "check_transformer_data_not_an_array", "check_regressor_data_not_an_array",
            "check_classifier_data_not_an_array", "check_regressors_train", "check_classifiers_train",
        ),
        "lists of numbers, and arrays of no known kind, are no molecules; and the labels have nothing to do with those",
    ),
    "check_fit2d_1sample": "one molecule leaves none to choose the epoch by, which a ConfigError says",
}  # fmt: skip
# Held for the embedder, whose fit takes no time, by the same code.
REPEATED = {
    "check_estimators_dtypes", "check_regressors_int", "check_methods_subset_invariance", "check_readonly_memmap_input",
    "check_f_contiguous_array_estimator", "check_fit2d_1feature", "check_positive_only_tag_during_fit",
    "check_pipeline_consistency", "check_supervised_y_2d", "check_fit_score_takes_y",
    "check_methods_sample_order_invariance",
}  # fmt: skip
SHARED = {"check_dict_unchanged", "check_fit_idempotent", "check_fit_check_is_fitted", "check_estimators_pickle"}

pytestmark = pytest.mark.skipif(
    tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 6), reason="tags of estimators are those of 1.6"
)


def run_checks(estimator, left_out):
    """Run the checks that apply; return the names of those that did, and of all there are."""
    names, done = set(), set()
    for one, check in estimator_checks.estimator_checks_generator(estimator, legacy=True, mark=None):
        name = getattr(check, "func", check).__name__
        names.add(name)
        if name not in NOT_APPLICABLE and name not in left_out:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with contextlib.suppress(SkipTest):  # by the check itself, which asks for something else than tags say
                    check(one)
                    done.add(name)
    return done, names


def test_an_embedder_passes_the_checks_that_apply(quick):
    done, names = run_checks(NumberedEmbedder(quick["pretrained"], inputs="2d", cache=quick["cache"]), set())
    assert {"check_estimators_pickle", "check_no_attributes_set_in_init", "check_fit_idempotent"} <= done
    assert len(done) > 25
    assert len(names - done) < 16


def test_a_regressor_passes_the_checks_that_apply(quick):
    done, names = run_checks(NumberedRegressor(**{**quick, "epochs": 1}), REPEATED)
    assert {"check_regressor_multioutput", "check_supervised_y_no_nan", "check_requires_y_none", *SHARED} <= done
    assert names >= REPEATED


def test_a_classifier_passes_the_checks_that_apply(quick):
    done, _ = run_checks(NumberedClassifier(**{**quick, "epochs": 1}), REPEATED | SHARED)
    assert {"check_classifiers_classes", "check_classifiers_one_label", "check_classifiers_regression_target"} <= done


@pytest.mark.parametrize("kind", [us.MoleculeRegressor, us.MoleculeClassifier, us.MoleculeEmbedder])
def test_tags_say_that_x_are_texts(kind):
    tags = sklearn.utils.get_tags(kind())
    assert (tags.input_tags.string, tags.input_tags.two_d_array, tags.input_tags.allow_nan) == (True, False, False)
    assert sklearn.utils.get_tags(kind(handle_invalid="nan")).input_tags.allow_nan
    with pytest.warns(SkipTestWarning, match="requires input"):
        estimator_checks.check_estimator(kind())
