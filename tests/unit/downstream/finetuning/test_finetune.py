"""A whole fine-tuning: what it leaves behind, and what it refuses before any time is spent."""

import csv
import dataclasses
import json
import shutil

import matplotlib.image
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rdkit import Chem

from conformer_gen.chemistry.config import ConformerConfig, CurateConfig
from conformer_gen.chemistry.conformers import CuratedMolecule, generate_conformers
from conformer_gen.chemistry.curate import curate_molecule
from conformer_gen.chemistry.identity import stable_hash
from conformer_gen.sources.molecule import SourceMolecule
from tests.helpers.store_samples import random_record, write_store
from tests.helpers.tiny_finetuning import AROMATIC, CARBON, MOLECULES, SEEDS, TINY, fitting, write_table
from unimol_scale import config as strict
from unimol_scale.checkpoints.weights import load_pretrained, save_pretrained
from unimol_scale.downstream.config import FinetuneConfig, FinetuneTrainConfig
from unimol_scale.downstream.finetuning import results
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.downstream.finetuning.model.saved_model import load_member, read_config
from unimol_scale.downstream.finetuning.predict import predict_file
from unimol_scale.errors import ConfigError, SourceError, StoreError
from unimol_scale.model.accounting import DENOISE_HEADS
from unimol_scale.model.model_with_heads import HeadedModel


def columns(path):
    return {name: np.array(values, dtype=object) for name, values in pq.read_table(path).to_pydict().items()}


def test_a_fine_tuning_leaves_models_predictions_pictures_and_a_report(finished):
    config, done = finished
    folder = config.output
    assert done == results.read(folder)
    assert (done.rows, done.skipped, sum(done.split_sizes.values())) == (33, 2, 31)
    assert len(done.seeds) == SEEDS
    assert done.mean == pytest.approx(np.mean([seed.test for seed in done.seeds]))
    recorded = strict.build(FinetuneConfig, *strict.read_yaml(folder / "config.yaml"))
    assert recorded == dataclasses.replace(config, hydrogens=False, pooling="mean")  # what was decided
    for name in ("parity.png", "loss.png", "course.png"):
        picture = matplotlib.image.imread(folder / name)
        assert min(picture.shape[:2]) > 200
        assert (picture[..., :3] < 0.5).any()
    report = (folder / "report.md").read_text()
    assert f"rmse of the test rows: **{done.mean:.4g}** ± {done.seed_std:.2g} atoms over 2 seeds" in report
    assert "![](parity.png)" in report
    assert "33 rows in the data, 31 used, 2 without a usable molecule (skipped.csv)" in report
    assert "31 rows have 30 distinct molecules, 1 of which have different labels" in report
    with (folder / "skipped.csv").open() as file:
        skipped = list(csv.DictReader(file))
    assert [(row["row"], row["smiles"], row["reason"]) for row in skipped] == [
        ("31", "not a molecule", "not_parsed"),
        ("33", "C1CC", "not_parsed"),
    ]
    assert len(read_config(folder).members) == SEEDS


def test_scores_are_those_of_the_predictions_that_are_written(finished):
    config, done = finished
    for seed in done.seeds:
        table = columns(config.output / f"predictions-seed-{seed.seed}.parquet")
        assert table["row"].tolist() == list(range(1, 34))
        assert [row for row in range(33) if table["predicted size"][row] is None] == [30, 32]
        assert {None, "train", "valid", "test"} == set(table["split"].tolist())
        for part, expected in (("valid", seed.valid), ("test", seed.test)):
            at = table["split"] == part
            error = (table["size"][at] - table["predicted size"][at]).astype(float)
            assert np.sqrt(np.mean(error**2)) == pytest.approx(expected)


def test_the_pretrained_weights_are_what_training_starts_from(place, settings, tmp_path):
    still = FinetuneTrainConfig(learning_rate=1e-12, epochs=1, weight_decay=0.0, dropout=0.0)
    pretrained = load_pretrained(place / "pretrained").backbone.state_dict()
    for reinitialise in (False, True):
        folder = tmp_path / str(reinitialise)
        done = finetune(settings(seeds=1, reinitialise=reinitialise, train=still, output=folder))
        config = read_config(folder)
        state = load_member(folder, config, config.members[0]).backbone.state_dict()
        same = [torch.allclose(state[name], tensor, atol=1e-6) for name, tensor in pretrained.items()]
        assert all(same) is not reinitialise
        assert (done.start, done.start_sha256 is None) == (("scratch", True) if reinitialise else ("pretrained", False))


def test_seeds_differ_and_a_seed_is_repeated_to_the_last_bit(finished, settings):
    config, done = finished
    assert done.seeds[0].losses != done.seeds[1].losses
    alone = finetune(dataclasses.replace(config, seed=0, seeds=1, output=settings().output))
    assert alone.seeds[0] == done.seeds[0]


def test_models_of_two_seeds_start_from_other_random_weights(settings):
    still = FinetuneTrainConfig(learning_rate=1e-12, epochs=1, weight_decay=0.0, dropout=0.0)
    finetune(settings(seeds=2, train=still))
    config = read_config(settings().output)
    first, second = (load_member(settings().output, config, member).state_dict() for member in config.members)
    assert torch.allclose(first["backbone.atom_norm.weight"], second["backbone.atom_norm.weight"])
    assert not torch.allclose(first["dense.weight"], second["dense.weight"])


def test_missing_labels_of_several_targets_are_no_zeros(place, settings):
    labels = np.stack([CARBON, AROMATIC], axis=1).astype(object)
    labels[::3, 1] = ""
    labels[1::7, 0] = "NaN"
    data = write_table(place / "gaps.csv", a=labels[:, 0], b=labels[:, 1])
    done = finetune(settings(data=data, targets=("all",), seeds=1, metric="mae"))
    assert done.targets == ("a", "b")
    table = columns(settings().output / "predictions-seed-0.parquet")
    assert [value is None for value in table["b"]] == [at % 3 == 0 for at in range(30)]
    assert [value is None for value in table["a"]] == [at % 7 == 1 for at in range(30)]
    for at, target in enumerate(("a", "b")):
        rows = (table["split"] == "test") & np.array([value is not None for value in table[target]])
        error = np.abs((table[target][rows] - table[f"predicted {target}"][rows]).astype(float))
        assert done.seeds[0].test_by_target[at] == pytest.approx(error.mean())


def test_energies_far_from_zero_are_learnt(place, settings):
    data = write_table(place / "energy.csv", energy=[f"{-400.0 + 1e-3 * c:.6f}" for c in CARBON])
    done = finetune(settings(data=data, targets=("energy",), seeds=1, metric="mae", train=fitting(epochs=30)))
    assert done.mean < 2e-3  # their spread is 2.6e-3


def test_a_target_that_has_one_class_only_among_the_training_rows_is_told(place, settings):
    splits = ["train"] * 20 + ["valid"] * 5 + ["test"] * 5
    flat = [0] * 20 + [0, 1, 0, 1, 0] * 2
    mixed = [0, 1] * 15
    data = write_table(place / "flat.csv", flat=flat, mixed=mixed, split=splits)
    given = {"data": data, "split": "column", "split_column": "split", "seeds": 1}
    done = finetune(settings(**given, targets=("flat", "mixed")))
    shared, one_class = done.notes
    assert one_class == "targets with only one class among the training rows: flat"
    assert shared.startswith("of 5 test rows, 0 (0.0 %) have a molecule that is also in training or validation, and")
    assert one_class in (settings().output / "report.md").read_text()
    with pytest.raises(ConfigError, match="'flat' has only the label 0 among the 20 training rows of the column split"):
        finetune(settings(**given, targets=("flat",), output=settings().output / "other"))


def test_a_test_molecule_that_training_has_too_is_told(place, settings):
    splits = ["train"] * 20 + ["valid"] * 5 + ["test"] * 5
    smiles = [*MOLECULES[:27], "OCC", *MOLECULES[28:]]
    data = write_table(place / "shared.csv", smiles=smiles, y=range(30), split=splits)
    done = finetune(settings(data=data, targets=("y",), split="column", split_column="split", seeds=1))
    repeated, shared = done.notes
    assert "30 rows have 29 distinct molecules" in repeated
    assert shared.startswith(
        "of 5 test rows, 1 (20.0 %) have a molecule that is also in training or validation (such as C"
    )
    assert shared.endswith("and 1 (20.0 %) have a scaffold that is also there")


def test_classes_that_are_fitted_as_numbers_are_told(place, settings):
    data = write_table(place / "classes.csv", y=[-1, 1] * 15)
    assert finetune(settings(data=data, targets=("y",), seeds=1)).notes[-1] == (
        "the labels of 'y' are -1, 1, fitted as numbers; if they are classes, write them as 0 and 1"
    )


def test_a_batch_is_no_larger_than_the_training_set(place, settings):
    losses = [
        finetune(settings(seeds=1, train=fitting(epochs=2, batch_size=size), output=place / f"b{size}")).seeds[0].losses
        for size in (24, 500)
    ]
    assert losses[0] == losses[1]


def with_splits(place, name, **labels):
    splits = ["train"] * 20 + ["valid"] * 5 + ["test"] * 5
    return {"data": write_table(place / name, split=splits, **labels), "split": "column", "split_column": "split"}


@pytest.mark.parametrize(
    ("labels", "change", "message"),
    [
        ([2.5] * 30, {}, "'y' has only the label 2.5 among the 20 training rows"),
        ([1, 2] * 10 + [""] * 5 + [1] * 5, {}, "a part is empty"),
        ([0, 1] * 10 + [1] * 5 + [0, 1, 0, 1, 1], {}, "the 5 valid rows of the column split have no score"),
        ([0, 1] * 10 + [0, 1, 0, 1, 1] + [1] * 5, {}, "the 5 test rows .* all 5 labels are 1: one class only"),
        ([""] * 30, {}, "all 30 labels of the target 'y' are missing"),
        ([1] * 29 + ["high"], {}, r"not numbers: row 30 \(O=Cc1ccccc1\): 'high'"),
        ([0, 2] * 15, {"task": "classification"}, "neither 0 nor 1"),
        ([0, 1] * 15, {"metric": "rmse"}, "metric rmse does not apply to classification"),
        ([0, 1] * 15, {"loss": "mae"}, "loss mae applies to regression"),
        ([1] * 15 + ["1_000"] * 15, {}, "not numbers: row 16 .*'1_000'"),
    ],
)  # fmt: skip
def test_labels_that_teach_or_judge_nothing_are_named(place, settings, labels, change, message):
    given = with_splits(place, "judged.csv", y=labels)
    with pytest.raises((ConfigError, SourceError), match=message):
        finetune(settings(**given, targets=("y",), **change))
    assert not settings().output.exists()


def test_a_target_without_training_labels_is_named(place, settings):
    given = with_splits(place, "untaught.csv", y=[1, 2] * 15, z=[""] * 20 + [1, 2] * 5)
    with pytest.raises(ConfigError, match="'z' has no label among the 20 training rows"):
        finetune(settings(**given, targets=("y", "z")))


@pytest.mark.parametrize("name", ["split", "predicted y", "y seed_std"])
def test_a_target_may_not_be_named_as_a_column_of_the_predictions(place, settings, name):
    data = write_table(place / "named.csv", **{"y": range(30), name: range(30)})
    with pytest.raises(ConfigError, match=f"the target '{name}' has the name of a column of the predictions"):
        finetune(settings(data=data, targets=("y", name)))


def test_what_does_not_fit_the_task_is_refused_before_conformers_are_made(settings, monkeypatch):
    monkeypatch.setattr("unimol_scale.downstream.finetuning.labelled_rows.prepare", None)
    with pytest.raises(ConfigError, match="metric roc_auc does not apply to regression"):
        finetune(settings(metric="roc_auc"))
    with pytest.raises(ConfigError, match="loss huber applies to regression"):
        finetune(settings(targets=("aromatic",), loss="huber"))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no GPU that torch can use"):
            finetune(settings(device="cuda"))


def test_rows_without_a_molecule_are_an_error_unless_they_may_be_skipped(place, settings):
    data = write_table(place / "two.csv", smiles=[*MOLECULES[:28], "C1CC", ""], y=range(30))
    with pytest.raises(SourceError, match=r"2 of 30 rows have no usable molecule: row 29 'C1CC'.*--skip-bad"):
        finetune(settings(data=data, targets=("y",)))


def test_molecules_beyond_the_limit_of_atoms_are_rows_without_a_molecule(settings):
    with pytest.raises(SourceError, match=r"row 7 'CC.=O.Nc1ccc.O.cc1': too_many_atoms"):
        finetune(settings(max_atoms=10))


def test_a_model_of_graphs_is_not_shown_distances(settings, place):
    torch.manual_seed(0)
    save_pretrained(HeadedModel(dataclasses.replace(TINY, geometry=False), DENOISE_HEADS), place / "student")
    with pytest.raises(ConfigError, match="inputs 3d needs a model that sees distances"):
        finetune(settings(pretrained=str(place / "student"), inputs="3d"))
    done = finetune(settings(pretrained=str(place / "student"), seeds=1))
    assert read_config(settings().output).inputs == "2d"
    assert np.isfinite(done.mean)


def labelled_store(folder, *, hydrogens=False):
    """Return a store with labels whose conformers are depictions."""
    records = []
    for text, size, aromatic in zip(MOLECULES, CARBON + AROMATIC, AROMATIC, strict=True):
        curated = curate_molecule(SourceMolecule(id="", smiles=text), CurateConfig())
        molecule = CuratedMolecule(
            id=text,
            smiles=curated.smiles,
            key=stable_hash(curated.smiles),
            scaffold=stable_hash(curated.scaffold_smiles),
        )
        record = generate_conformers(molecule, ConformerConfig(engine="depiction", hydrogens=hydrogens), seed=0)
        records.append(dataclasses.replace(record, labels=(size, aromatic)))
    return write_store(
        folder, records[:27], records[27:], labels={"size": "atoms", "aromatic": ""}, shard_rows=9, hydrogens=hydrogens
    ).path


def test_a_store_with_labels_is_fine_tuned_on_with_what_it_holds(settings, tmp_path):
    store = labelled_store(tmp_path / "store")
    with pytest.raises(StoreError, match="holds 2D depictions instead of conformers"):
        finetune(settings(data=store))
    with pytest.raises(SourceError, match="no label 'siz'; did you mean 'size'"):
        finetune(settings(data=store, targets=("siz",), inputs="2d"))
    with pytest.raises(ConfigError, match="task classification applies to one target"):
        finetune(settings(data=store, targets=("size", "aromatic"), inputs="2d", task="classification"))
    with pytest.raises(ConfigError, match="max_atoms needs a table"):
        finetune(settings(data=store, inputs="2d", max_atoms=10))
    done = finetune(settings(data=store, inputs="2d", seeds=1, pretraining_store=store))
    assert done.rows == 30
    assert f"{done.split_sizes['test']} (100.0 %) are in" in done.leakage
    table = columns(settings().output / "predictions-seed-0.parquet")
    assert dict(zip(table["smiles"], table["size"], strict=True)) == dict(
        zip(MOLECULES, CARBON + AROMATIC, strict=True)
    )


def test_the_data_fields_of_sdf_are_labels_by_their_names(settings, tmp_path):
    records = [
        f"{Chem.MolToMolBlock(Chem.MolFromSmiles(text))}>  <size>\n{size}\n\n>  <melting point>\n{at}\n\n$$$$\n"
        for at, (text, size) in enumerate(zip(MOLECULES, CARBON + AROMATIC, strict=True))
    ]
    (tmp_path / "labelled.sdf").write_text("".join(records))
    done = finetune(settings(data=tmp_path / "labelled.sdf", seeds=1))
    assert (done.name, done.rows, done.targets) == ("labelled", 30, ("size",))
    assert "whose own coordinates are not used" in done.notes[-1]
    expected = finetune(settings(seeds=1, output=tmp_path / "table"))
    assert done.seeds == expected.seeds
    both = finetune(settings(data=tmp_path / "labelled.sdf", seeds=1, targets=("all",), output=tmp_path / "all"))
    assert both.targets == ("size", "melting point")
    with pytest.raises(SourceError, match="no column 'siz'; did you mean 'size'"):
        finetune(settings(data=tmp_path / "labelled.sdf", targets=("siz",), output=tmp_path / "no"))


def test_errors_in_different_units_have_no_common_mean(place, settings, tmp_path):
    data = write_table(place / "units.csv", gap=CARBON / 27.0, size=100.0 * (CARBON + AROMATIC))
    changes = {"data": data, "targets": ("gap", "size"), "train": fitting(epochs=2)}
    done = finetune(settings(**changes, units={"gap": "eV", "size": "g/mol"}))
    gap, size = done.target_mean(0), done.target_mean(1)
    line, report = done.describe(), (settings().output / "report.md").read_text()
    assert f"test rmse gap {gap:.4g} ± " in line
    assert f"size {size:.4g} ± " in line
    assert f"{done.mean:.4g}" not in line + report
    standardised = np.mean([done.standardised(seed) for seed in done.seeds])
    spreads = read_config(settings().output).members[0].std_L
    assert standardised == pytest.approx((gap / spreads[0] + size / spreads[1]) / 2)
    assert f"the mean in standard deviations of the training labels is {standardised:.3g}" in report
    same = finetune(settings(**changes, units={"gap": "eV", "size": "eV"}, output=tmp_path / "same"))
    assert f"test rmse {same.mean:.4g} ± {same.seed_std:.2g} eV" in same.describe()
    without = finetune(settings(**changes, output=tmp_path / "without"))
    assert f"{without.mean:.4g}" not in without.describe()


def test_a_model_that_is_no_better_than_the_mean_says_so_first(place, settings):
    splits = ["train"] * 20 + ["valid"] * 5 + ["test"] * 5
    rng = np.random.default_rng(0)
    data = write_table(place / "noise.csv", y=rng.normal(size=30), split=splits)
    given = {"data": data, "targets": ("y",), "split": "column", "split_column": "split", "seeds": 1}
    done = finetune(settings(**given, train=fitting(epochs=30, learning_rate=3e-2)))
    labels = columns(settings().output / "predictions-seed-0.parquet")
    train, test = (labels["y"][labels["split"] == part].astype(float) for part in ("train", "test"))
    assert done.trivial == pytest.approx((np.sqrt(np.mean((test - train.mean()) ** 2)),))
    assert done.test_molecules == (5,)
    assert done.mean > done.trivial[0]
    first = (settings().output / "report.md").read_text().splitlines()[0]
    assert "CAUTION: only 5 test molecules" in first
    assert f"no better than predicting the mean of the training labels (rmse {done.trivial[0]:.3g})" in first


def test_results_of_before_are_read(finished):
    config, done = finished
    path = config.output / "results.json"
    tree = json.loads(path.read_text())
    for name in ("trivial", "test_molecules", "label_std"):
        del tree[name]
    old = strict.build(results.FinetuneResult, tree, strict.Origin(name="old"))
    assert old.mean == done.mean
    assert "CAUTION" not in old.describe()


def test_the_spread_of_seeds_is_told_to_be_no_error_bar(finished):
    config, done = finished
    tables = [columns(config.output / f"predictions-seed-{seed.seed}.parquet") for seed in done.seeds]
    test = tables[0]["split"] == "test"
    values = np.stack([table["predicted size"][test].astype(float) for table in tables])
    within = np.abs(values.mean(0) - tables[0]["size"][test].astype(float)) <= 2 * values.std(0, ddof=1)
    assert (
        f"is not an error bar: {within.mean():.0%} of the test labels lie within twice the spread"
        in (config.output / "report.md").read_text()
    )


def test_the_store_that_a_run_was_pretrained_on_is_found_from_within_the_run(place, tmp_path, settings):
    store = next((place / "cache").glob("*/store"))
    run = tmp_path / "run"
    shutil.copytree(place / "pretrained", run / "model")
    (run / "config.yaml").write_text(f"data: {{path: {store}}}\n")
    for at, given in enumerate((run, run / "model")):
        done = finetune(settings(pretrained=str(given), seeds=1, output=tmp_path / str(at), train=fitting(epochs=1)))
        assert f"are in {store}" in done.leakage, given


def test_that_leakage_was_not_checked_is_said_in_the_report(place, tmp_path, settings):
    run = tmp_path / "run"
    shutil.copytree(place / "pretrained", run / "model")
    (run / "config.yaml").write_text("data: {path: data/gone}\n")
    done = finetune(settings(pretrained=str(run), seeds=1, output=tmp_path / "out", train=fitting(epochs=1)))
    line = f"leakage: not checked, because the store data/gone of {run} is not on this machine"
    assert done.leakage.startswith(line)
    assert line in (tmp_path / "out" / "report.md").read_text()


def test_molecules_larger_than_those_of_pretraining_are_told(settings, tmp_path):
    small = [random_record(at, max_atoms=3) for at in range(9)]
    store = write_store(tmp_path / "small", small).path
    done = finetune(settings(seeds=1, pretraining_store=store, train=fitting(epochs=1)))
    assert any(f"{store} (3 heavy atoms)" in note for note in done.notes)
    assert "are larger than 99 % of those in" in (settings().output / "report.md").read_text()


def test_of_random_weights_no_pretraining_is_told(settings, tmp_path):
    store = write_store(tmp_path / "small", [random_record(at, max_atoms=3) for at in range(9)]).path
    done = finetune(settings(seeds=1, pretraining_store=store, reinitialise=True, train=fitting(epochs=1)))
    assert done.leakage is not None
    assert not any("larger than" in note for note in done.notes)


def test_hydrogens_of_a_store_do_not_make_its_molecules_larger(settings, tmp_path):
    pretraining = write_store(tmp_path / "small", [random_record(at, max_atoms=3) for at in range(9)]).path
    store = labelled_store(tmp_path / "store", hydrogens=True)
    one_epoch = fitting(epochs=1)
    done = finetune(settings(data=store, inputs="2d", seeds=1, pretraining_store=pretraining, train=one_epoch))
    larger = sum(Chem.MolFromSmiles(text).GetNumAtoms() > 3 for text in MOLECULES)
    assert any(note.startswith(f"of {len(MOLECULES)} molecules, {larger} (") for note in done.notes)


def test_a_released_checkpoint_is_fine_tuned_and_its_predictions_do_not_depend_on_their_company(
    shared_golden, settings, tmp_path
):
    one_step = FinetuneTrainConfig(epochs=1, batch_size=32)
    config = settings(pretrained=str(shared_golden / "checkpoint.pt"), seeds=1, train=one_step, skip_bad=True)
    done = finetune(config)
    assert np.isfinite(done.mean)
    assert len(done.start_sha256) == 64
    together = columns(config.output / "predictions-seed-0.parquet")["predicted size"]
    for row in (0, 6):
        (tmp_path / "one.smi").write_text(MOLECULES[row] + "\n")
        predict_file(
            tmp_path / "one.smi", config.output, tmp_path / "one.parquet", smiles_column=None, skip_bad=False,
            cache=tmp_path / "cache", max_pairs=10_000, device_name="cpu",
        )  # fmt: skip
        assert columns(tmp_path / "one.parquet")["size"][0] == pytest.approx(together[row], rel=1e-4)
