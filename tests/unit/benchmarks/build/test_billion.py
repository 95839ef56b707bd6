"""The rows of the simulated build: distributed as they should be, and the same wherever they are made."""

import errno
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from rdkit import Chem

from benchmarks.build.billion.generated_rows import ZINC20, curated_table, records, smiles_of, source_rows
from benchmarks.build.billion.simulated_build import Folder, Measured, Pass
from benchmarks.build.billion.tables import build_tables
from benchmarks.build.billion.training_path import link_or_copy
from conformer_gen.selection.pieces import CURATED_SCHEMA
from unimol_scale.store.schema import Layout, arrow_schema


def test_scaffolds_are_as_many_as_in_zinc20() -> None:
    scaffolds = ZINC20.scaffolds(np.arange(118_969, dtype=np.uint64))
    for rows, found_in_tranches in ((1_000, 941), (10_000, 8_474), (118_969, 73_077)):
        assert len(np.unique(scaffolds[:rows])) == pytest.approx(found_in_tranches, rel=0.08)


def test_a_row_is_the_same_in_whatever_chunk_it_is_made() -> None:
    whole = curated_table(5_000, np.arange(2_000))
    assert whole.schema == CURATED_SCHEMA
    half = curated_table(6_000, np.arange(1_000)).drop_columns("position")
    assert half == whole.slice(1_000).drop_columns("position")
    assert [row.smiles for row in source_rows(6_000, 6_003)] == smiles_of(
        np.arange(6_000, 6_003, dtype=np.uint64)
    ).to_pylist()
    assert all(Chem.MolFromSmiles(smiles) for smiles in whole["smiles"].slice(0, 50).to_pylist())
    keys = pc.drop_null(curated_table(0, np.arange(100_000))["key"])
    assert 1 - len(keys.unique()) / len(keys) == pytest.approx(ZINC20.duplicates, rel=0.2)


def test_records_are_a_store_s() -> None:
    curated = curated_table(0, np.arange(100))
    batch = records(curated, seed=1)
    assert batch.schema == arrow_schema(Layout())
    assert batch["key"] == pa.array(curated["key"])
    batch.validate(full=True)


def test_the_tables_say_what_a_billion_rows_take() -> None:
    one = Pass(name="assembly", seconds=3.6, driver_s=0.36, tasks_s=3.6, driver_bytes=2**20, task_bytes=2**20)
    folder = Folder(name="train", bytes=500_000_000, files=20, most=20)
    build = Measured(rows=1_000_000, passes=(one,), folders=(folder,), counts={"stored": 1})
    text = "\n".join(build_tables([build]))
    assert "| assembly | 0.36 + 3.60 (3.6) |" in text
    assert "| assembly | 1,000,000 | 0.10 | 1.0 | – | – |" in text
    assert "503 GB and 0.0 million files" in text


def test_a_build_that_ended_with_the_selection_is_compared_as_far_as_it_went() -> None:
    def measured(name: str, rows: int, driver_mib: int) -> Pass:
        s = rows / 1_000_000
        return Pass(
            name=name, seconds=s, driver_s=s, tasks_s=s, driver_bytes=driver_mib * 2**20, task_bytes=rows,
        )  # fmt: skip

    folders = tuple(Folder(name=name, bytes=1_000_000, files=1, most=1) for name in ("curated", "train"))
    small = Measured(
        rows=1_000_000,
        passes=(measured("selection", 1_000_000, 100), measured("assembly", 1_000_000, 110)),
        folders=folders,
        counts={"stored": 1},
    )
    large = Measured(rows=11_000_000, passes=(measured("selection", 11_000_000, 120),), folders=folders[:1], counts={})
    text = "\n".join(build_tables([small, large]))
    assert "| selection | 1.00 + 1.00 (1.0) | 1.00 + 1.00 (1.0) |" in text
    assert "| assembly | 1.00 + 1.00 (1.0) | – |" in text
    assert "| assembly | 110, 1 | – |" in text
    assert "| train/ | 1.0; 1; 1 | – |" in text
    # 20 MiB more for ten million rows more.
    assert "| selection | 11,000,000 | 0.28 | 0.3 | +20 | 2,133 |" in text
    assert "| assembly | 1,000,000 | 0.28 | 0.3 | – | – |" in text
    assert "2 GB and 0.0 million files" in text


def test_a_shard_with_as_many_links_as_there_can_be_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a store of 838 million molecules can be made of one small shard."""
    link = Path.hardlink_to

    def limited(place: Path, original: Path) -> None:
        if original.stat().st_nlink >= 3:
            raise OSError(errno.EMLINK, "Too many links")
        link(place, original)

    monkeypatch.setattr(Path, "hardlink_to", limited)
    original = tmp_path / "shard"
    original.write_bytes(b"molecules")
    for at in range(8):
        original = link_or_copy(original, tmp_path / f"{at}")
    assert {(tmp_path / f"{at}").read_bytes() for at in range(8)} == {b"molecules"}
    assert len({(tmp_path / f"{at}").stat().st_ino for at in range(8)}) == 3
