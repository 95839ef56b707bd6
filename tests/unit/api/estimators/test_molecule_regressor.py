"""``us.MoleculeRegressor``: a fine-tuning with scikit-learn's interface."""

import gc
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score

import unimol_scale as us
from tests.helpers.tiny_finetuning import AROMATIC, CARBON, MOLECULES, names_in

SMILES = list(MOLECULES)
REPOSITORY = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def fitted(quick):
    """Two models of the number of carbon atoms."""
    return us.MoleculeRegressor(**quick, seeds=2).fit(SMILES, CARBON)


def test_fit_and_predict_are_finetune_and_predict(fitted, quick, tmp_path):
    found = us.finetune(
        quick["pretrained"],
        (SMILES, CARBON),
        output=tmp_path / "ft",
        split="random",
        fractions=[0.9, 0.1, 0.0],
        seeds=2,
        inputs="2d",
        baselines=False,
        cache=quick["cache"],
        settings={"train.epochs": 2, "train.learning_rate": 1e-2},
    )
    expected = us.predict(found, ["CCO", "c1ccccc1C"], cache=quick["cache"])
    values, spread = fitted.predict(["CCO", "c1ccccc1C"], return_std=True)
    np.testing.assert_array_equal(values, expected.values[:, 0])
    np.testing.assert_array_equal(spread, expected.seed_std[:, 0])
    assert found.result.split_sizes == fitted.result_.split_sizes == {"train": 27, "valid": 3, "test": 0}
    assert fitted.target_names_ == ("y",)
    assert found.result.confidence.domain is not None
    assert fitted.result_.confidence.domain is None  # an estimator, fitted many times over, measures no domain
    again = us.predict(fitted.folder_, ["CCO", "c1ccccc1C"], cache=quick["cache"], coverage=0.5)
    half = (again.high - again.low)[:, 0] / 2.0
    np.testing.assert_allclose(half, half[0])  # the validation rows calibrate
    assert again.domain == {}
    assert fitted.score(SMILES, CARBON) == pytest.approx(r2_score(CARBON, fitted.predict(SMILES)))


@pytest.mark.parametrize(
    "kind",
    [
        tuple,
        np.array,
        lambda texts: np.array(texts, object)[:, None],
        pd.Series,
        lambda texts: pd.DataFrame({"structure": texts}, index=range(5, 5 + len(texts))),
        lambda texts: [Chem.MolFromSmiles(text) for text in texts],
        lambda texts: pd.Series([Chem.MolFromSmiles(text) for text in texts]),
    ],
    ids=["tuple", "array", "column of an array", "Series", "DataFrame", "molecules", "Series of molecules"],
)
def test_molecules_come_in_whatever_a_user_has_them_in(fitted, kind):
    np.testing.assert_allclose(fitted.predict(kind(SMILES[:8])), fitted.predict(SMILES)[:8], rtol=1e-5)


@pytest.mark.parametrize(
    ("molecules", "message"),
    [
        ("CCO", r"write \['CCO'\]"),
        ([], "no molecule was given"),
        ({"CCO", "CC"}, "has no order"),
        (pd.DataFrame({"smiles": ["C"], "name": ["methane"]}), r"a table of 2 columns \(smiles, name\)"),
        (np.array([["C", "CC"]]), "a table of 2 columns"),
        ([1.5, 2.5], "row 1 is 1.5, which is not text"),
        (["CCO", "C1CC", None], r"2 of 3 molecules cannot be used: X\[1\] 'C1CC': .*; X\[2\] '': "),
    ],
)
def test_what_is_no_molecule_is_named(fitted, molecules, message):
    with pytest.raises(ValueError, match=message) as raised:
        fitted.predict(molecules)
    assert isinstance(raised.value, us.SourceError)


def test_molecules_that_cannot_be_used_stop_a_fit_or_are_left_out_with_a_warning(quick):
    smiles, values = [*SMILES, "C1CC"], [*CARBON, 3.0]
    with pytest.raises(ValueError, match=r"1 of 31 molecules cannot be used: X\[30\] 'C1CC': .*handle_invalid='nan'"):
        us.MoleculeRegressor(**quick).fit(smiles, values)
    model = us.MoleculeRegressor(**quick, handle_invalid="nan")
    with pytest.warns(UserWarning, match=r"1 of 31 .*X\[30\] 'C1CC'.*left out of the fit") as warned:
        model.fit(smiles, values)
    assert warned[0].filename == __file__
    assert sum(model.result_.split_sizes.values()) == 30
    assert np.isnan(model.predict(smiles)).tolist() == [False] * 30 + [True]
    with pytest.warns(UserWarning, match="the score leaves them out"):
        assert model.score(smiles, values) == pytest.approx(model.score(SMILES, CARBON))


def test_several_targets_may_lack_labels(quick):
    values = pd.DataFrame({"carbons": CARBON, "rings": AROMATIC})
    values.loc[3, "rings"] = np.nan
    model = us.MoleculeRegressor(**quick).fit(SMILES, values)
    assert model.target_names_ == ("carbons", "rings")
    found = model.predict(SMILES)
    assert found.shape == (30, 2)
    there = [at for at in range(30) if at != 3]
    expected = (r2_score(CARBON, found[:, 0]) + r2_score(AROMATIC[there], found[there, 1])) / 2
    assert model.score(SMILES, values) == pytest.approx(expected)
    with pytest.raises(ValueError, match="1 targets, but the estimator was fitted to 2"):
        model.score(SMILES, CARBON)
    with pytest.raises(us.ConfigError, match="return_std needs several models"):
        model.predict(SMILES, return_std=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "requires y to be passed"),
        (CARBON[:-1], "30 molecules, 29 labels"),
        ([np.nan, *CARBON[1:]], r"Input y contains NaN: 1 of 30 labels are missing, the first is y\[0\]"),
        ([*CARBON[:-1], np.inf], r"contains infinity or a value too large, the first in y\[29\]"),
        ([*map(str, CARBON[:-1]), "many"], "the labels are not numbers"),
        (np.zeros((30, 2, 2)), "got the shape"),
    ],
)
def test_labels_that_are_no_labels_are_refused(quick, values, message):
    with pytest.raises(ValueError, match=message):
        us.MoleculeRegressor(**quick).fit(SMILES, values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"split": "scaffold"}}, "split is set by the estimator: .*validation_fraction"),
        ({"settings": {"train": {"epochs": 5}}}, "train.epochs is also given as the parameter epochs"),
        ({"settings": {"train.patiense": 5}}, "patience"),
        ({"settings": 5}, "expected a mapping"),
        ({"validation_split": "time"}, "validation_split: unknown value 'time'; valid: cluster, random"),
        ({"validation_fraction": 1.0}, "must be between 0 and 1"),
        ({"handle_invalid": "drop"}, "handle_invalid: unknown value 'drop'; valid: nan, raise"),
        ({"seeds": 0}, "seeds must be at least 1"),
    ],
)
def test_parameters_that_make_no_sense_are_refused_by_fit(quick, change, message):
    model = us.MoleculeRegressor(**{**quick, **change})
    with pytest.raises(us.ConfigError, match=message):
        model.fit(SMILES, CARBON)
    with pytest.raises(NotFittedError):
        model.predict(SMILES)


def test_parameters_and_settings_reach_the_fine_tuning(quick):
    model = us.MoleculeRegressor(
        **quick, batch_size=4, validation_fraction=0.2, validation_split="scaffold", random_state=5,
        settings={"train.patience": 1, "train": {"dropout": 0.3}, "loss": "mae", "units": {"y": "atoms"}},
    ).fit(SMILES, CARBON)  # fmt: skip
    text = (model.folder_ / "config.yaml").read_text()
    for line in (
        "batch_size: 4",
        "patience: 1",
        "dropout: 0.3",
        "loss: mae",
        "split: scaffold",
        "seed: 5",
        "epochs: 2",
    ):
        assert line in text, line
    assert model.result_.unit == "atoms"
    other = us.MoleculeRegressor(**quick, random_state=np.random.RandomState(3)).fit(SMILES, CARBON)
    assert other.result_.seeds[0].seed == np.random.RandomState(3).randint(2**31 - 1)


def test_rows_count_by_their_weights(quick):
    """Half of the labels are 0 and half are 1: the half that weighs more draws the predictions to itself."""
    high = np.arange(len(SMILES)) % 2 == 1
    means = [
        us.MoleculeRegressor(**quick)
        .fit(SMILES, high.astype(float), sample_weight=np.where(high, weight, 1.0))
        .predict(SMILES)
        .mean()
        for weight in (0.0, 20.0)
    ]
    assert means[0] < 0.5 < means[1]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 2.0], "expected"),
        (np.ones((len(SMILES), 2)), "1D"),
        ([-1.0] + [1.0] * (len(SMILES) - 1), "sample_weight\\[0\\]"),
        ([np.nan] + [1.0] * (len(SMILES) - 1), "sample_weight\\[0\\]"),
        ([0.0] * len(SMILES), "all weights are 0"),
        (["a"] * len(SMILES), "not numbers"),
    ],
)
def test_weights_that_are_no_weights_are_refused(quick, weights, message):
    with pytest.raises(ValueError, match=message):
        us.MoleculeRegressor(**quick).fit(SMILES, CARBON, sample_weight=weights)


def test_a_loaded_model_is_refused_since_clones_would_copy_it(quick):
    loaded = us.from_pretrained(quick["pretrained"])
    with pytest.raises(us.ConfigError, match=f"give '{quick['pretrained']}'"):
        us.MoleculeRegressor(**{**quick, "pretrained": loaded}).fit(SMILES, CARBON)


def test_a_private_folder_goes_with_the_estimator(quick):
    model = us.MoleculeRegressor(**quick).fit(SMILES, CARBON)
    folder = model.folder_
    assert (folder / "report.md").is_file()
    del model
    gc.collect()
    assert not folder.parent.exists()


def test_a_folder_of_the_user_stays_and_opens_as_an_estimator(quick, tmp_path):
    model = us.MoleculeRegressor(**quick, folder=tmp_path / "kept").fit(SMILES, CARBON[:, None])
    expected = model.predict(SMILES)
    assert expected.shape == (30, 1), "as y was given"
    with pytest.raises(us.ConfigError, match="another folder"):
        clone(model).set_params(epochs=1).fit(SMILES, CARBON)
    del model
    gc.collect()
    opened = us.MoleculeRegressor.from_folder(tmp_path / "kept", cache=quick["cache"], handle_invalid="nan")
    np.testing.assert_array_equal(opened.predict(SMILES), expected)
    assert opened.result_.split_sizes["train"] == 27
    (tmp_path / "kept" / "estimator.json").unlink()  # as unimol-scale finetune leaves it
    opened = us.MoleculeRegressor.from_folder(tmp_path / "kept", cache=quick["cache"])
    np.testing.assert_array_equal(opened.predict(SMILES), expected[:, 0])
    with pytest.raises(
        us.ConfigError, match="holds a model for regression, but MoleculeClassifier is for classification"
    ):
        us.MoleculeClassifier.from_folder(tmp_path / "kept")
    with pytest.raises(us.CheckpointError, match="is not a fine-tuned model"):
        us.MoleculeRegressor.from_folder(tmp_path)


def test_a_pickle_holds_the_weights_and_predicts_in_another_process(fitted, quick, tmp_path):
    text = pickle.dumps(fitted)
    assert not [name for name in names_in(text) if name.startswith("torch")]
    (tmp_path / "model.pkl").write_bytes(text)
    program = (
        "import pickle; from pathlib import Path; model = pickle.loads(Path('model.pkl').read_bytes()); "
        "again = pickle.loads(pickle.dumps(model)); again.set_params(cache='cache'); "
        "print(*(repr(float(value)) for value in again.predict(['CCO', 'c1ccccc1C'])))"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose([float(word) for word in done.stdout.split()], fitted.predict(["CCO", "c1ccccc1C"]))
    copy = pickle.loads(text)
    damaged = next(copy.folder_.glob("seed-0.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.raises(us.CheckpointError, match="is damaged"):
        copy.predict(["CCO"])
    assert fitted.predict(["CCO"]).shape == (1,), "a copy has files of its own"


def test_it_works_in_a_search_and_a_cross_validation(quick):
    model = us.MoleculeRegressor(**{**quick, "epochs": 1})
    search = GridSearchCV(model, {"learning_rate": [1e-3, 1e-2]}, cv=2, refit=False, error_score="raise")
    search.fit(np.array(SMILES), CARBON)
    assert len(set(search.cv_results_["mean_test_score"])) == 2
    scores = cross_val_score(
        model, pd.Series(SMILES), CARBON, cv=2, scoring="neg_mean_absolute_error", error_score="raise"
    )
    assert (scores < 0.0).all()
