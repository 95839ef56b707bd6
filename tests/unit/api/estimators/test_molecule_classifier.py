"""``us.MoleculeClassifier``: two classes of any names, or several yes-or-no labels."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, get_scorer, roc_auc_score

import unimol_scale as us
from tests.helpers.tiny_finetuning import AROMATIC, CARBON, MOLECULES, write_table

SMILES = list(MOLECULES)
KINDS = np.where(AROMATIC == 1.0, "aromatic", "open").tolist()


@pytest.fixture(scope="module")
def fitted(quick):
    return us.MoleculeClassifier(**{**quick, "epochs": 6}).fit(SMILES, KINDS)


def test_classes_have_the_names_that_they_were_given(fitted):
    assert fitted.classes_.tolist() == ["aromatic", "open"]
    shares = fitted.predict_proba(SMILES)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    assert roc_auc_score(AROMATIC, shares[:, 0]) > 0.9, "the columns are in the order of classes_"
    named = fitted.predict(SMILES)
    assert named.tolist() == np.where(shares[:, 1] >= 0.5, "open", "aromatic").tolist()
    assert fitted.score(SMILES, KINDS) == pytest.approx(accuracy_score(KINDS, named))
    assert fitted.result_.metric == "roc_auc"
    copy = pickle.loads(pickle.dumps(fitted))
    assert copy.predict(SMILES).tolist() == named.tolist()


def test_a_few_of_one_class_are_in_training_and_in_validation(quick):
    rare = [True, True, *[False] * 28]
    model = us.MoleculeClassifier(**quick).fit(SMILES, rare)
    assert model.classes_.dtype == bool
    assert model.predict(SMILES).dtype == bool
    assert (model.folder_ / "config.yaml").read_text().count("split: stratified") == 1


def test_an_unusable_molecule_has_no_class(quick):
    model = us.MoleculeClassifier(**quick, handle_invalid="nan").fit(SMILES, AROMATIC.astype(int))
    assert model.predict(["CCO"]).dtype == np.int64
    found = model.predict(["CCO", "C1CC"])
    assert np.isnan(found).tolist() == [False, True]
    assert np.isnan(model.predict_proba(["CCO", "C1CC"])).tolist() == [[False, False], [True, True]]
    with pytest.warns(UserWarning, match="the score leaves them out"):
        assert model.score([*SMILES, "C1CC"], [*AROMATIC.astype(int), 1]) == model.score(SMILES, AROMATIC.astype(int))


def test_several_labels_may_be_missing(quick):
    labels = pd.DataFrame({"ring": AROMATIC, "large": (CARBON > 5).astype(float)})
    labels.loc[[0, 4], "large"] = np.nan
    model = us.MoleculeClassifier(**quick, validation_fraction=0.3).fit(SMILES, labels)
    assert model.target_names_ == ("ring", "large")
    assert [one.tolist() for one in model.classes_] == [[0, 1], [0, 1]]
    shares, decided = model.predict_proba(SMILES), model.predict(SMILES)
    assert shares.shape == (30, 2)
    np.testing.assert_array_equal(decided, shares >= 0.5)
    right = [
        all(d == t or np.isnan(t) for d, t in zip(*row, strict=True))
        for row in zip(decided, labels.to_numpy(), strict=True)
    ]
    assert model.score(SMILES, labels) == pytest.approx(np.mean(right))
    whole = labels.fillna(0.0).to_numpy().astype(int)
    assert get_scorer("roc_auc")(model, SMILES, whole) == pytest.approx(roc_auc_score(whole, shares))


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        (["one"] * 30, ValueError, "all 30 labels are of one class, 'one'"),
        ([None, *KINDS[1:]], ValueError, r"1 of 30 labels are missing, the first is y\[0\]"),
        (CARBON + 0.5, ValueError, "continuous"),
        (np.stack([AROMATIC, CARBON], axis=1), ValueError, r"must be 0, 1 or missing \(NaN\), got 2 in y\[0, 1\]"),
    ],
)
def test_labels_that_are_no_classes_are_refused(quick, labels, kind, message):
    with pytest.raises(kind, match=message):
        us.MoleculeClassifier(**quick).fit(SMILES, labels)


SIZES = np.where(CARBON < 3, "small", np.where(CARBON > 5, "large", "middle")).tolist()


def test_several_classes_have_a_probability_each(quick, tmp_path):
    model = us.MoleculeClassifier(**quick, folder=tmp_path / "several").fit(SMILES, SIZES)
    assert model.classes_.tolist() == ["large", "middle", "small"]
    shares = model.predict_proba(SMILES)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    assert model.predict(SMILES).tolist() == model.classes_[shares.argmax(axis=1)].tolist()
    assert model.score(SMILES, SIZES) == pytest.approx(accuracy_score(SIZES, model.predict(SMILES)))
    opened = us.MoleculeClassifier.from_folder(tmp_path / "several", cache=quick["cache"])
    assert opened.predict(SMILES).tolist() == model.predict(SMILES).tolist()


def test_folders_of_the_command_and_of_the_estimator_open(quick, tmp_path):
    model = us.MoleculeClassifier(**quick, folder=tmp_path / "own").fit(SMILES, KINDS)
    opened = us.MoleculeClassifier.from_folder(tmp_path / "own", cache=quick["cache"])
    assert opened.predict(SMILES).tolist() == model.predict(SMILES).tolist()
    data = write_table(tmp_path / "set.csv", ring=AROMATIC.astype(int))
    done = us.finetune(
        quick["pretrained"], data, target="ring", output=tmp_path / "command", split="stratified", seeds=1, inputs="2d",
        baselines=False, cache=quick["cache"], settings={"train.epochs": 1},
    )  # fmt: skip
    opened = us.MoleculeClassifier.from_folder(tmp_path / "command", cache=quick["cache"])
    assert opened.classes_.tolist() == [0, 1]
    assert opened.result_ == done.result
    np.testing.assert_array_equal(
        opened.predict_proba(SMILES)[:, 1], us.predict(done, SMILES, cache=quick["cache"]).values[:, 0]
    )
    with pytest.raises(us.ConfigError, match="MoleculeRegressor is for regression"):
        us.MoleculeRegressor.from_folder(tmp_path / "command")
