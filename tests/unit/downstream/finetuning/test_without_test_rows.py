"""A fine-tuning with no rows for a test: all rows train or choose the epoch, and nothing is said of how good it is."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.helpers.tiny_finetuning import AROMATIC, CARBON, MOLECULES, fitting, write_table
from unimol_scale.downstream.finetuning import results
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.errors import ConfigError


@pytest.fixture
def made(settings, tmp_path):
    def run(**changes):
        data = write_table(tmp_path / "set.csv", size=CARBON, ring=AROMATIC, ten=10.0 * CARBON)
        common = {"data": data, "targets": ("size",), "split": "random", "inputs": "2d", "seeds": 2}
        common |= {"fractions": (0.8, 0.2, 0.0), "train": fitting(epochs=2), "baselines": False}
        config = settings(**{**common, **changes})
        return config, finetune(config)

    return run


@pytest.mark.parametrize("targets", [("size",), ("size", "ten"), ("ring",)])
def test_the_report_says_that_there_is_no_test_and_shows_what_validation_gave(made, targets):
    config, done = made(targets=targets, units={"size": "atoms"})
    assert done == results.read(config.folder)
    assert done.split_sizes == {"train": 24, "valid": 6, "test": 0}
    assert np.isnan(done.mean)
    assert [seed.test for seed in done.seeds] == [None, None]
    assert (done.cautions, done.leakage) == ((), None)
    report = (config.folder / "report.md").read_text()
    assert f"# {done.describe()}" in report
    assert "no test rows; " in done.describe()
    assert f"{np.mean([seed.valid_scaled for seed in done.seeds]):.4g}" in done.describe()
    assert "no rows were set aside for a test" in report
    for word in ("CAUTION", "nan", "undefined", "parity.png", "roc.png", "test rmse", "leakage"):
        assert word not in report, word
    assert (config.folder / "course.png").is_file()
    assert sorted(path.name for path in config.folder.glob("*.png")) == ["course.png", "loss.png"]
    table = pq.read_table(config.folder / "predictions-seed-0.parquet")
    assert set(table["split"].to_pylist()) == {"train", "valid"}
    assert len(table) == len(MOLECULES)


def test_baselines_have_nothing_to_be_judged_by(made, settings, tmp_path):
    parts = ["valid" if at % 5 == 0 else "train" for at in range(30)]
    data = write_table(tmp_path / "given.csv", size=CARBON, part=parts)
    given = {"data": data, "split": "column", "split_column": "part"}
    _, done = made(**given)
    assert done.split_sizes == {"train": 24, "valid": 6, "test": 0}
    with pytest.raises(
        ConfigError, match="the column split has no test rows, which the comparison with baselines needs"
    ):
        made(**given, baselines=True, output=tmp_path / "other")
