"""A random sample of a source's rows: exact, the same for a seed, fair, and honest about data that is missing."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from conformer_gen.config import BuildConfig
from conformer_gen.run.workspace import plan_build
from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.reader import read_source
from conformer_gen.sources.row_sample import sample_rows
from unimol_scale.errors import ConfigError


def rows_of(count: int) -> list[SourceMolecule]:
    return [SourceMolecule(id=str(number)) for number in range(count)]


def drawn(count: int, wanted: int, seed: int = 0) -> list[int]:
    return [int(row.id) for row in sample_rows(rows_of(count), wanted, seed)]


def test_a_sample_is_exact_ordered_and_the_same_for_a_seed() -> None:
    sample = drawn(10_000, 100)
    assert len(set(sample)) == 100
    assert sample == sorted(sample) == drawn(10_000, 100)
    assert sample != drawn(10_000, 100, seed=1)
    assert drawn(50, 100) == list(range(50))
    # A larger sample has the smaller one in it: more rows can be added to what is there.
    assert set(sample) < set(drawn(10_000, 200))


def test_every_row_is_as_likely_as_another() -> None:
    counts = np.zeros(40)
    for seed in range(400):
        counts[drawn(40, 10, seed)] += 1
    assert counts.min() > 60  # 100 on average, with a standard deviation of 9
    assert counts.max() < 140


def test_a_sample_is_of_all_files_and_says_that_data_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.smi").write_text("".join(f"C a{number}\n" for number in range(500)))
    whole = gzip.compress("".join(f"{'CNO'[n % 3] * (n % 40 + 1)} b{n}\n" for n in range(3000)).encode())
    (tmp_path / "b.smi.gz").write_bytes(whole[:-20])
    rows = list(read_source(SourceConfig(name="smiles", input=(str(tmp_path),), sample=60), seed=3))
    assert len(rows) == 61
    assert "cut off" in rows[-1].problem
    assert {row.id[0] for row in rows[:-1]} == {"a", "b"}


def test_limit_and_sample_are_one_or_the_other_and_the_store_says_which(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give only one of them"):
        SourceConfig(name="sample", limit=10, sample=10)
    with pytest.raises(ConfigError, match="sample must be at least 1"):
        SourceConfig(name="sample", sample=0)
    plan = plan_build(BuildConfig(source=SourceConfig(name="sample", sample=10), output=tmp_path))
    assert plan["parameters"]["sample"] == 10
