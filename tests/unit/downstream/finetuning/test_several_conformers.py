"""Several conformers of a molecule: one is drawn every epoch, and predictions are the mean over all of them."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import unimol_scale as us
from tests.helpers.conformer_stores import CONFORMERS, conformer_store
from tests.helpers.tiny_finetuning import MOLECULES, TINY, column, fitting, write_table
from unimol_scale.checkpoints.weights import save_pretrained
from unimol_scale.data.input_views import STANDARD_VIEWS
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.data.batches import RowReader, SampleMaker, each_conformer_once, training_batches
from unimol_scale.downstream.data.molecules import prepare_store
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.downstream.finetuning.model.conformer_statistics import ConformerStatistics
from unimol_scale.downstream.finetuning.model.saved_model import read_config
from unimol_scale.downstream.finetuning.predict import predict_file
from unimol_scale.errors import ConfigError
from unimol_scale.model.accounting import DENOISE_HEADS
from unimol_scale.model.model_with_heads import HeadedModel

CPU = torch.device("cpu")
SPACE = SampleMaker(view=STANDARD_VIEWS["3d"], model=TINY)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A store of three conformers each, three stores with one of them, one with fewer, and a pretrained model."""
    folder = tmp_path_factory.mktemp("stores")
    conformer_store(folder / "all")
    for number in range(CONFORMERS):
        conformer_store(folder / f"only-{number}", [number])
    conformer_store(folder / "fewer", fewer=10)
    torch.manual_seed(7)
    save_pretrained(HeadedModel(TINY, DENOISE_HEADS), folder / "pretrained")
    return folder


@pytest.fixture
def settings(stores, tmp_path):
    def made(data="all", **changes):
        common = {
            "data": stores / data, "pretrained": str(stores / "pretrained"), "targets": ("size",), "split": "random",
            "seeds": 1, "output": tmp_path / "ft", "cache": stores / "cache", "conformer_workers": 1, "device": "cpu",
            "conformers": CONFORMERS, "train": fitting(epochs=3),
            "baselines": False,
        }  # fmt: skip
        return FinetuneConfig(**{**common, **changes})

    return made


@pytest.fixture(scope="module")
def finished(stores):
    """A fine-tuning on the store of three conformers."""
    config = FinetuneConfig(
        data=stores / "all", pretrained=str(stores / "pretrained"), targets=("size",), split="random", seeds=2,
        output=stores / "finished", conformers=CONFORMERS, device="cpu", train=fitting(epochs=3),
        baselines=False,
    )  # fmt: skip
    return config, finetune(config)


def reader(store, **options):
    molecules = prepare_store(store)
    return RowReader(molecules.split, molecules.position_M, column(np.arange(len(MOLECULES))), **options)


def geometry_of_rows(samples):
    """Return row → the distances that the model sees of it, of the conformers in their order."""
    found = {}
    for sample in samples:
        for at, row in enumerate(sample.row_B.tolist()):
            valid = sample.input.valid_BA[at]
            found.setdefault(row, []).append(sample.input.coordinates_BA3[at][valid].numpy())
    return found


def drawn(store, epoch, *, seed=1, max_pairs=40_000, batch_size=10, workers=0):
    config = fitting(batch_size=batch_size, max_pairs=max_pairs, workers=workers)
    loader = training_batches(reader(store, conformers=CONFORMERS), SPACE, config, seed=seed, device=CPU)
    steps = -(-len(MOLECULES) // batch_size)
    found = geometry_of_rows(sample for step in loader.steps(epoch * steps, (epoch + 1) * steps) for sample in step)
    assert sorted(found) == list(range(len(MOLECULES)))
    return {row: only for row, (only,) in found.items()}


def number_of(drawn_R, store):
    """Return which conformer was drawn of each row."""
    known = geometry_of_rows(each_conformer_once(reader(store, conformers=CONFORMERS), SPACE, 40_000, CPU))
    return [
        next(number for number, one in enumerate(known[row]) if np.array_equal(one, drawn_R[row]))
        for row in range(len(MOLECULES))
    ]


def test_every_epoch_draws_a_conformer_of_each_molecule_whatever_batch_it_is_in(stores):
    epochs = [number_of(drawn(stores / "all", epoch), stores / "all") for epoch in range(4)]
    assert {number for epoch in epochs for number in epoch} == set(range(CONFORMERS))
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert len({tuple(of_molecule) for of_molecule in zip(*epochs, strict=True)}) > 10, (
        "each molecule has its own draws"
    )
    again = drawn(stores / "all", 1, max_pairs=200, workers=1)  # in other micro-batches, by another process
    assert number_of(again, stores / "all") == epochs[1]
    assert number_of(drawn(stores / "all", 1, seed=2), stores / "all") != epochs[1]


def test_a_molecule_with_fewer_conformers_has_those_that_it_has(stores):
    found = geometry_of_rows(each_conformer_once(reader(stores / "fewer", conformers=2), SPACE, 40_000, CPU))
    assert [len(found[row]) for row in range(len(MOLECULES))] == [1] * 10 + [2] * 20
    assert set(number_of(drawn(stores / "fewer", 0), stores / "fewer")[:10]) == {0}
    labels = {}
    for sample in each_conformer_once(reader(stores / "fewer", conformers=2), SPACE, 200, CPU):
        labels |= dict(zip(sample.row_B.tolist(), sample.label_BL[:, 0].tolist(), strict=True))
    assert labels == {row: float(row) for row in range(len(MOLECULES))}


def test_the_statistics_are_over_the_conformers_of_each_row():
    values = np.array([[1.0], [5.0], [2.0], [6.0], [9.0]])
    found = ConformerStatistics.of(np.array([0, 2, 0, 2, 1]), values)
    assert found.mean_RL[:, 0].tolist() == [1.5, 9.0, 5.5]
    assert found.std_RL[[0, 2], 0] == pytest.approx([np.std([1, 2], ddof=1), np.std([5, 6], ddof=1)])
    assert np.isnan(found.std_RL[1, 0])
    alone = ConformerStatistics.of(np.array([1, 0]), np.array([[-0.0], [0.1]]))
    assert alone.mean_RL.tobytes() == np.array([[0.1], [-0.0]]).tobytes()
    assert np.isnan(alone.std_RL).all()


def predicted(file, finished, tmp_path, **options):
    config, _ = finished
    predict_file(
        file, config.output, tmp_path / "p.parquet", smiles_column=None, skip_bad=False, cache=tmp_path / "cache",
        max_pairs=10_000, device_name="cpu", **options,
    )  # fmt: skip
    table = pq.read_table(tmp_path / "p.parquet").to_pydict()  # with the labels of the store as "size"
    return {"size": table["predicted size"], "std": table.get("predicted size conformer_std")}


def test_a_prediction_is_the_mean_over_the_conformers_one_by_one(stores, finished, tmp_path):
    config, done = finished
    single = [predicted(stores / f"only-{number}", finished, tmp_path) for number in range(CONFORMERS)]
    value_KM = np.array([table["size"] for table in single])
    assert value_KM.std(0).min() > 1e-4, "conformers differ, or nothing is tested"
    assert all(value is None for table in single for value in table["std"])
    together = predicted(stores / "all", finished, tmp_path)
    assert together["size"] == pytest.approx(value_KM.mean(0), rel=1e-5)
    written = [pq.read_table(config.output / f"predictions-seed-{seed.seed}.parquet") for seed in done.seeds]
    assert together["size"] == pytest.approx(np.mean([t["predicted size"] for t in written], axis=0), rel=1e-5)
    spread_SM = np.array([table["size conformer_std"] for table in written])
    assert together["std"] == pytest.approx(spread_SM.mean(0), rel=1e-3, abs=1e-6)
    assert spread_SM.min() > 1e-4
    first = predicted(stores / "all", finished, tmp_path, conformers=1)
    assert first["size"] == pytest.approx(value_KM[0], rel=1e-5)
    assert first["std"] is None


def test_the_spread_of_one_seed_is_that_of_its_predictions(stores, settings, tmp_path):
    done = finetune(settings())
    single = []
    for number in range(CONFORMERS):
        single.append(predicted(stores / f"only-{number}", (settings(), done), tmp_path)["size"])
    table = pq.read_table(settings().output / "predictions-seed-0.parquet").to_pydict()
    assert table["size conformer_std"] == pytest.approx(np.std(single, axis=0, ddof=1), rel=1e-3, abs=1e-5)


def test_a_rerun_repeats_every_draw_and_another_conformer_is_another_training(finished, settings):
    _, done = finished
    again = finetune(settings(output=settings().output / "again"))
    assert again.seeds[0] == done.seeds[0]
    assert finetune(settings(conformers=1, output=settings().output / "one")).seeds[0].losses != done.seeds[0].losses


def test_the_validation_score_is_of_the_mean_over_conformers(finished):
    config, done = finished
    for seed in done.seeds:
        table = pq.read_table(config.output / f"predictions-seed-{seed.seed}.parquet").to_pydict()
        part = np.array(table["split"]) == "valid"
        error = (np.array(table["size"]) - np.array(table["predicted size"]))[part]
        assert np.sqrt((error**2).mean()) == pytest.approx(seed.valid)
        assert seed.valid == pytest.approx(seed.valid_scores[seed.best_epoch - 1])


def test_one_conformer_is_the_first_one_to_the_last_bit(settings):
    of_all = finetune(settings(conformers=1))
    of_one = finetune(settings("only-0", conformers=1, output=settings().output / "one"))
    assert of_all.seeds == of_one.seeds
    table = pq.read_table(settings().output / "predictions-seed-0.parquet")
    assert table == pq.read_table(settings().output / "one" / "predictions-seed-0.parquet")
    assert table.column_names == ["row", "smiles", "split", "size", "predicted size"]


def test_report_and_model_say_how_many_conformers(finished, settings):
    config, done = finished
    assert (read_config(config.output).conformers, read_config(config.output).hydrogens) == (CONFORMERS, False)
    report = (config.output / "report.md").read_text()
    spread = []
    for seed in done.seeds:
        table = pq.read_table(config.output / f"predictions-seed-{seed.seed}.parquet").to_pydict()
        spread += [s for s, part in zip(table["size conformer_std"], table["split"], strict=True) if part == "test"]
    assert (
        "- predictions are means over up to 3 conformers per molecule; the standard deviation over conformers, "
        f"averaged over test rows and seeds, is {np.mean(spread):.3g} atoms\n"
    ) in report
    finetune(settings("fewer", conformers=5))
    note = "30 of 30 molecules have fewer than the 5 requested conformers; the mean is 2.3"
    assert note in (settings().output / "report.md").read_text()


def test_a_model_without_the_key_has_one_conformer(finished, stores, tmp_path):
    config, _ = finished
    tree = json.loads((config.output / "finetuned.json").read_text())
    before = {key: value for key, value in tree.items() if key not in ("hydrogens", "conformers")}
    try:
        (config.output / "finetuned.json").write_text(json.dumps(before))
        assert (read_config(config.output).conformers, read_config(config.output).hydrogens) == (1, False)
        table = predicted(stores / "all", finished, tmp_path)
        assert table["std"] is None
    finally:
        (config.output / "finetuned.json").write_text(json.dumps(tree))
    assert table["size"] == predicted(stores / "only-0", finished, tmp_path, conformers=1)["size"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conformers": 0}, "conformers must be at least 1, got 0"),
        ({"conformers": 300}, "conformers must be 1 to 255, got 300"),
        ({"inputs": "2d"}, "conformers 3: the model sees only the 2D graph, which is the same for all conformers"),
    ],
)
def test_conformers_that_cannot_be_are_refused(settings, changes, message):
    with pytest.raises(ConfigError, match=message):
        finetune(settings(**changes))


def test_a_prediction_refuses_conformers_that_cannot_be(stores, finished, tmp_path):
    with pytest.raises(ConfigError, match="conformers must be 1 to 255, got 0"):
        predicted(stores / "all", finished, tmp_path, conformers=0)


def test_a_table_gets_its_conformers_from_smiles_in_python_and_predicts_new_molecules(stores, tmp_path):
    few = list(MOLECULES[:12])
    data = write_table(tmp_path / "few.csv", smiles=few, size=[len(text) for text in few])
    fitted = us.finetune(
        stores / "pretrained", data, target="size", output=tmp_path / "ft", split="random", seeds=2,
        fractions=[0.6, 0.2, 0.2], conformers=2, cache=tmp_path / "cache", settings={"train.epochs": 1},
        baselines=False,
    )  # fmt: skip
    rows = fitted.predictions(None)
    assert rows["size conformer_std"].shape == (12,)
    assert np.isfinite(rows["size conformer_std"]).all()
    found = us.predict(fitted, [*few[:2], "C1CC"], cache=tmp_path / "cache")
    assert found.values[:2, 0] == pytest.approx(rows["predicted size"][:2], rel=1e-4)
    assert found.conformer_std[:2, 0] == pytest.approx(rows["size conformer_std"][:2], rel=1e-2, abs=1e-6)
    assert np.isnan(found.conformer_std[2, 0])
    assert {"size", "size seed_std", "size conformer_std"} <= set(found.to_dict())
    alone = us.predict(fitted, few[:2], conformers=1, cache=tmp_path / "cache")
    assert alone.conformer_std is None
    assert "size conformer_std" not in alone.to_dict()
    with pytest.raises(ConfigError, match="unknown key 'conformer'; did you mean 'conformers'"):
        us.finetune(stores / "pretrained", data, target="size", output=tmp_path / "x", conformer=2)
