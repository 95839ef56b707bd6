"""Total energies are learnt as what composition does not explain, and scores are in the unit that was asked for."""

import json
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

import unimol_scale as us
from tests.helpers.tiny_finetuning import AROMATIC, CARBON, MOLECULES, fitting, write_table
from unimol_scale.downstream.finetuning.atom_references import composition, fit_references
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.downstream.finetuning.predict import predict_file
from unimol_scale.errors import ConfigError, SourceError

ENERGIES = {"H": -0.5, "C": -37.8, "N": -54.5, "O": -75.0}
SMILES = tuple(text for text in MOLECULES if not {"S", "s", "F", "B", "l"} & set(text))
SIGNAL = 0.01 * np.array([float("1" in text) + 0.3 * (len(text) % 3) for text in SMILES])


def total_energies(smiles=SMILES, signal=SIGNAL):
    counts = [Counter(atom.GetSymbol() for atom in Chem.AddHs(Chem.MolFromSmiles(s)).GetAtoms()) for s in smiles]
    return np.array([sum(ENERGIES[e] * n for e, n in one.items()) for one in counts]) + signal


@pytest.fixture
def energies(place, settings, tmp_path):
    """Return a fine-tuning on total energies, and its result."""
    data = write_table(tmp_path / "u0.csv", smiles=SMILES, u0=total_energies(), size=np.arange(len(SMILES)))

    def made(**changes):
        config = settings(
            **{
                "data": data, "targets": ("u0",), "units": {"u0": "Ha"}, "atom_references": ("u0",), "metric": "mae",
                "inputs": "2d", "seeds": 1, "train": fitting(epochs=4), **changes,
            }
        )  # fmt: skip
        return config, finetune(config)

    return made


def test_total_energies_are_learnt_to_within_what_composition_leaves(energies, tmp_path):
    config, done = energies()
    assert done.mean < 2 * SIGNAL.std()  # the total energies' standard deviation is ten thousand times that
    assert total_energies().std() > 1e4 * SIGNAL.std()
    assert done.label_std[0] <= SIGNAL.std() * 1.2
    assert done.trivial[0] == pytest.approx(SIGNAL.std(), rel=2.0), "the mean of what is left, not of the totals"
    assert "C -37.7975, H -0.5008" in done.notes[0]
    assert "predictions are total energies" in (config.folder / "report.md").read_text()
    table = pq.read_table(config.folder / "predictions-seed-0.parquet").to_pydict()
    np.testing.assert_allclose(table["u0"], total_energies())
    error = np.abs(np.array(table["u0"]) - table["predicted u0"])
    assert error[np.array(table["split"]) == "test"].mean() == pytest.approx(done.mean)
    stored = json.loads((config.folder / "finetuned.json").read_text())["references"]["u0"]
    assert stored == pytest.approx(ENERGIES, abs=0.05)
    plain = energies(atom_references=(), output=tmp_path / "plain")[1]
    assert plain.mean > 100 * done.mean


def test_predictions_are_total_energies_and_other_targets_are_left_alone(energies, place):
    config, _ = energies(targets=("size", "u0"))
    found = us.predict(config.folder, list(SMILES), cache=place / "cache")
    np.testing.assert_allclose(found.values[:, 1], total_energies(), atol=0.1)
    assert abs(found.values[:, 0]).max() < 100
    table = pq.read_table(config.folder / "predictions-seed-0.parquet").to_pydict()
    np.testing.assert_allclose(found.values[:, 1], table["predicted u0"], rtol=1e-6)
    np.testing.assert_allclose(found.values[:, 0], table["predicted size"], rtol=1e-4)


def test_references_come_from_the_training_rows_alone(energies, tmp_path):
    labels = total_energies()
    parts = ["train"] * 16 + ["valid"] * 2 + ["test"] * (len(SMILES) - 18)
    labels[16:] += 1e6
    data = write_table(tmp_path / "parts.csv", smiles=SMILES, u0=labels, part=parts)
    config, _ = energies(data=data, split="column", split_column="part")
    stored = json.loads((config.folder / "finetuned.json").read_text())["references"]["u0"]
    assert stored == pytest.approx(ENERGIES, abs=0.1)


def test_an_element_that_training_does_not_have_has_no_prediction(energies, place, tmp_path):
    config, _ = energies()
    (tmp_path / "asked.csv").write_text("smiles\nCCO\nBrCCBr\nnonsense(\nCCN\n")
    options = {"smiles_column": None, "cache": place / "cache", "max_pairs": None, "device_name": "cpu"}
    (tmp_path / "odd.csv").write_text("smiles\nCCO\nBrCCBr\n")
    with pytest.raises(SourceError, match=r"row 2 'BrCCBr': no_reference_energy .*element Br"):
        predict_file(tmp_path / "odd.csv", config.folder, tmp_path / "p.parquet", skip_bad=False, **options)
    predict_file(tmp_path / "asked.csv", config.folder, tmp_path / "p.parquet", skip_bad=True, **options)
    table = pq.read_table(tmp_path / "p.parquet").to_pydict()
    assert [value is None for value in table["u0"]] == [False, True, True, False]
    assert "2,BrCCBr,no_reference_energy" in (tmp_path / "p.skipped.csv").read_text().replace('"', "")
    found = us.predict(config.folder, ["CCO", "BrCCBr"], cache=place / "cache")
    assert np.isnan(found.values[1, 0])
    assert "no training molecule of the model contains the element Br" in found.reasons[1]


def test_an_element_that_only_the_test_rows_have_stops_the_fine_tuning(energies, tmp_path):
    parts = ["train"] * 16 + ["valid"] * 2 + ["test"] * (len(SMILES) - 17)
    labels = np.append(total_energies(), -5000.0)
    data = write_table(tmp_path / "br.csv", smiles=[*SMILES, "BrCCBr"], u0=labels, part=parts)
    with pytest.raises(ConfigError, match=rf"row {len(SMILES) + 1} \(BrCCBr\) of the test part has the element Br"):
        energies(data=data, split="column", split_column="part")


def test_hydrogens_and_charges_do_not_change_what_a_molecule_is_made_of():
    assert composition("C[N+](C)(C)C") == {"C": 4, "N": 1, "H": 12}
    assert composition("[H][H]") == {"H": 2}
    assert composition("c1cc[nH]c1") == {"C": 4, "N": 1, "H": 5}


def test_compositions_that_do_not_tell_elements_apart_are_told():
    rings = [composition(f"C1C{'C' * n}C1") for n in range(8)]
    labels = np.array([-39.0 * one["C"] for one in rings]) + 0.01 * np.sin(np.arange(8))
    fitted = fit_references("u0", labels, rings)
    assert fitted.rank == 1
    assert fitted.energies["C"] + 2 * fitted.energies["H"] == pytest.approx(-39.0, abs=0.01)
    assert "determine only 1 of the 2" in fitted.describe("u0", "Ha")
    with pytest.raises(ConfigError, match="nothing is left to learn"):
        fit_references("u0", np.array([-40.0, -79.0]), [composition("C"), composition("CC")])
    labels[3] = np.nan
    assert fit_references("u0", labels, rings).rank == 1


def test_scores_and_predictions_are_in_the_unit_that_was_asked_for(place, settings, tmp_path):
    data = write_table(tmp_path / "gap.csv", gap=CARBON / 270.0 + AROMATIC, size=CARBON)
    common = {"data": data, "targets": ("gap", "size"), "units": {"gap": "Ha"}, "metric": "mae", "inputs": "2d"}
    plain = finetune(settings(**common, seeds=1, output=tmp_path / "plain"))
    config = settings(**common, seeds=1, report_units={"gap": "meV"})
    done = finetune(config)
    assert (plain.units, done.units) == ({"gap": "Ha"}, {"gap": "meV"})
    assert done.target_mean(0) == pytest.approx(27211.386 * plain.target_mean(0), rel=1e-3)
    assert done.target_mean(1) == pytest.approx(plain.target_mean(1), rel=1e-3)
    assert done.trivial[0] == pytest.approx(27211.386 * plain.trivial[0], rel=1e-6)
    table = pq.read_table(config.folder / "predictions-seed-0.parquet").to_pydict()
    np.testing.assert_allclose(table["gap"], 27211.386 * (CARBON / 270.0 + AROMATIC), rtol=1e-6)
    found = us.predict(config.folder, list(MOLECULES), cache=place / "cache")
    assert found.units == {"gap": "meV"}
    np.testing.assert_allclose(found.values[:, 0], table["predicted gap"], rtol=1e-3)
    assert "| gap | meV |" in (config.folder / "report.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"report_units": {"size": "meV"}}, "the unit of the labels of 'size' is not known; give units.size="),
        ({"report_units": {"size": "meV"}, "units": {"size": "D"}}, "report_units.size: 'D' cannot be converted"),
        ({"report_units": {"siz": "meV"}}, "report_units: .* has no column 'siz'; did you mean 'size'"),
        ({"atom_references": ("u0",)}, "atom_references: .* has no column 'u0'"),
        (
            {"targets": ("aromatic",), "atom_references": ("aromatic",)},
            "to regression, but the task is classification",
        ),
    ],
)
def test_what_can_not_be_converted_is_refused_before_anything_is_computed(settings, changes, message):
    with pytest.raises(ConfigError, match=message):
        finetune(settings(**changes))
    assert not settings().output.exists() or not any(settings().output.iterdir())
