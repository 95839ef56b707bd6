"""How sure predictions are for every kind of label: classes with names, ordered ones, bounds; and without test rows."""

import numpy as np
import pytest

import unimol_scale as us
from tests.helpers.tiny_finetuning import AROMATIC, CARBON, fitting, write_table
from unimol_scale.downstream.finetuning import results
from unimol_scale.downstream.finetuning.confidence.calibration_file import read_calibration
from unimol_scale.downstream.finetuning.confidence.headline import headline, short_headline
from unimol_scale.downstream.finetuning.confidence.known_molecules import known_molecules
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.downstream.finetuning.model.saved_model import read_config
from unimol_scale.downstream.labels.outputs import Outputs

KIND = np.where(AROMATIC == 1, "ring", np.where(CARBON > 2, "long", "short"))
GRADES = ("small", "medium", "large")
GRADE = np.where(CARBON <= 2, "small", np.where(CARBON <= 5, "medium", "large"))
HIGH = 5.0
NEW = ["CCO", "no molecule", "c1ccccc1C", "CCCCCCC"]


@pytest.fixture
def made(settings, tmp_path):
    """Return a function that fine-tunes on a column, with ten rows for validation, and predicts new molecules."""

    def run(column, **changes):
        data = write_table(tmp_path / "set.csv", label=column)
        common = {"data": data, "targets": ("label",), "split": "random", "inputs": "2d", "seeds": 2, "coverage": 0.5}
        common |= {"fractions": (0.4, 0.35, 0.25), "train": fitting(epochs=2), "baselines": False}
        config = settings(**{**common, **changes})
        done = finetune(config)
        assert done == results.read(config.folder)
        fitted = us.FinetunedModel(folder=config.folder, result=done)
        return fitted, us.predict(config.folder, NEW, device="cpu", cache=config.cache)

    return run


def credible(labels, probability, new):
    """Return whether a class is credible for new rows by the validation rows of it (LAC, coverage 0.5)."""
    scores = np.sort(1.0 - probability[labels])
    return 1.0 - new <= scores[int(np.ceil((len(scores) + 1) * 0.5)) - 1]


@pytest.mark.parametrize(
    ("column", "names", "task"),
    [(KIND, ("long", "ring", "short"), {}), (GRADE, GRADES, {"task": "ordinal", "order": GRADES})],
    ids=["multiclass", "ordinal"],
)
def test_several_classes_get_sets_of_names_each_class_covered_by_itself(made, column, names, task):
    fitted, found = made(column, **task)
    valid, test, train = (fitted.predictions(part) for part in ("valid", "test", "train"))
    usable = [0, 2, 3]
    assert found.class_sets.shape == (len(NEW), 1)
    assert found.class_sets[1, 0] is None
    for at, name in enumerate(names):
        expected = credible(valid["label"] == name, valid[f"predicted label p({name})"], found.values[usable, at])
        said = [name in text.strip("{}").split(", ") for text in found.class_sets[usable, 0]]
        assert said == expected.tolist(), name
    check = fitted.result.confidence.conformal.targets[0]
    assert check.calibration_rows == min((valid["label"] == name).sum() for name in names)
    assert check.found.rows == len(test["label"])
    domain = fitted.result.confidence.domain
    wrong = domain.inside * (domain.inside_error or 0.0) + domain.outside * (domain.outside_error or 0.0)
    assert wrong == pytest.approx((test["label"] != test["predicted label"]).sum())
    nearest = dict(zip(train["smiles"], train["label"], strict=True))
    there = [nearest[smiles] for smiles in found.domain["nearest_training_smiles"][usable]]
    assert found.domain["nearest_training_label"][usable].tolist() == there
    assert found.domain["nearest_training_label"][1] is None
    report = fitted.report.read_text()
    assert "sets of credible classes" in report
    assert "the shares of the classes" in report
    assert "of them with a single class" in report
    assert fitted.result.confidence.spread


def test_a_rare_class_leaves_no_sets_and_the_report_counts_its_rows(made):
    fitted, found = made(KIND, coverage=0.95)
    assert found.class_sets is None
    assert any("needs 19 calibration rows of each class" in note for note in found.notes)
    assert "of the rarest class are too few; this coverage needs 19" in fitted.report.read_text()


def test_every_row_of_a_cross_validation_of_classes_calibrates(made):
    fitted, found = made(KIND, split="random-kfold", fractions=(0.6, 0.3, 0.1), folds=3, seeds=1, metric="accuracy")
    rows = fitted.predictions()
    check = fitted.result.confidence.conformal
    assert (check.rows, check.targets[0].found.rows) == ("out-of-fold", len(KIND))
    assert check.targets[0].calibration_rows == np.unique(KIND, return_counts=True)[1].min()
    domain = fitted.result.confidence.domain
    wrong = domain.inside * (domain.inside_error or 0.0) + domain.outside * (domain.outside_error or 0.0)
    assert wrong == pytest.approx((rows["label"] != rows["predicted label"]).sum())
    assert found.class_sets[0, 0].startswith("{")


def test_sets_of_two_classes_with_names_show_the_names(made):
    fitted, found = made(np.where(AROMATIC == 1, "active", "inactive"), positive="active")
    valid, columns = fitted.predictions("valid"), found.to_dict()
    has = credible(valid["label"] == "active", valid["predicted label p(active)"], found.values[[0, 2, 3], 0])
    said = [text.strip("{}").split(", ") for text in columns["label classes"][[0, 2, 3]]]
    assert ["active" in names for names in said] == has.tolist()
    assert {name for names in said for name in names} <= {"active", "inactive", ""}
    assert found.classes == {"label": ("inactive", "active")}
    assert set(columns["nearest_training_label"][[0, 2, 3]]) <= {"active", "inactive"}


def test_bounds_do_not_calibrate_and_no_error_is_counted_for_them(made):
    exact = CARBON <= HIGH
    fitted, found = made([f"{n:g}" if n <= HIGH else ">5" for n in CARBON], censored=True)
    valid, test = fitted.predictions("valid"), fitted.predictions("test")
    is_value = exact[valid["row"] - 1]
    assert 0 < is_value.sum() < len(is_value)
    np.testing.assert_array_equal(np.isnan(valid["label"]), ~is_value)
    config = read_config(fitted.folder)
    kept = read_calibration(fitted.folder, config.outputs, config.conformal)
    np.testing.assert_array_equal(np.isnan(kept.labels_NL[:, 0]), ~is_value)
    residuals = np.sort(np.abs(valid["label"] - valid["predicted label"])[is_value])
    half = residuals[int(np.ceil((len(residuals) + 1) * 0.5)) - 1]
    np.testing.assert_allclose(found.high[0, 0] - found.values[0, 0], half)
    confidence = fitted.result.confidence
    judged = exact[test["row"] - 1].sum()
    assert 0 < judged < len(test["row"])
    assert confidence.conformal.targets[0].calibration_rows == is_value.sum()
    assert confidence.conformal.targets[0].found.rows == judged
    assert (confidence.domain.test_rows, confidence.domain.inside + confidence.domain.outside) == (judged, judged)
    errors = [confidence.domain.inside_error or 0.0, confidence.domain.outside_error or 0.0]
    total = np.dot(errors, [confidence.domain.inside, confidence.domain.outside])
    assert total == pytest.approx(np.nansum(np.abs(test["label"] - test["predicted label"])))


@pytest.mark.parametrize("column", [CARBON, AROMATIC, KIND], ids=["number", "class", "names"])
def test_without_test_rows_the_validation_rows_calibrate_and_nothing_is_said_of_a_test(made, column):
    fitted, found = made(column, fractions=(0.6, 0.4, 0.0))
    confidence = fitted.result.confidence
    assert (confidence.score_low, confidence.spread) == (None, "")
    assert confidence.conformal.targets[0].found is None
    assert (confidence.domain.test_rows, confidence.domain.inside, confidence.domain.inside_error) == (0, 0, None)
    lines = headline(fitted.result)
    assert [line.split("**")[1] for line in lines] == ["How sure:", "Where not to use it:"]
    assert all("there are no test rows" in line for line in (*lines, *short_headline(fitted.result)))
    assert "\n".join(lines) in fitted.report.read_text()
    assert found.domain["nearest_training_smiles"][0] is not None
    if found.class_sets is not None:
        assert found.class_sets[0, 0].startswith("{")
        return
    valid = fitted.predictions("valid")
    residuals = np.sort(np.abs(valid["label"] - valid["predicted label"]))
    half = residuals[int(np.ceil((len(residuals) + 1) * 0.5)) - 1]
    np.testing.assert_allclose(found.low[0, 0], found.values[0, 0] - half)


def test_a_training_molecule_whose_rows_have_different_classes_has_no_label_to_show():
    outputs = Outputs(task="multiclass", targets=("kind",), classes={"kind": ("a", "b", "c")})
    labels_ML = np.array([[0.0], [2.0], [1.0], [1.0], [np.nan]])
    found = known_molecules(["C", "C", "N", "N", "O"], outputs, labels_ML, np.arange(5), None)
    np.testing.assert_array_equal(found.labels_NL[:, 0], [np.nan, 1.0, np.nan])
    numbers = Outputs(task="regression", targets=("size",))
    found = known_molecules(["C", "C", "N", "N", "O"], numbers, labels_ML, np.arange(5), None)
    np.testing.assert_array_equal(found.labels_NL[:, 0], [1.0, 1.0, np.nan])
