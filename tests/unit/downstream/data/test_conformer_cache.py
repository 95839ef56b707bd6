"""The cache of conformers: its folders keep their names, and its sets are the builder's own stores."""

import logging
import types
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from conformer_gen.config import BuildConfig
from conformer_gen.run import driver
from conformer_gen.sources.config import SourceConfig
from unimol_scale.common.progress import StageProgress
from unimol_scale.downstream.data import conformer_cache
from unimol_scale.downstream.data.molecules import prepare
from unimol_scale.store.shards import open_store

SMILES = ["CCO", "c1ccccc1O"]
NO_CONFORMER = "N#[C][Co]([C]#N)([C]#N)([C]#N)([C]#N)[C]#N"


@pytest.mark.parametrize(
    ("geometry", "name"),
    [(True, "032d77caada5d548584f-5279291044cf0eb43845"), (False, "fd84add392516891bae4-5279291044cf0eb43845")],
)
def test_folders_are_named_as_by_earlier_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, geometry: bool, name: str
) -> None:
    # Of all that the name depends on, RDKit alone may be another one here.
    monkeypatch.setattr(conformer_cache, "rdBase", types.SimpleNamespace(rdkitVersion="2026.09.1"))
    prepare(SMILES, cache=tmp_path, geometry=geometry, max_atoms=None, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_set_is_the_store_that_the_build_command_makes_of_the_same_molecules(tmp_path: Path) -> None:
    smiles = [*SMILES, NO_CONFORMER, "C[C@H](N)C(=O)O"]
    prepare(smiles, cache=tmp_path / "cache", geometry=True, max_atoms=None, workers=1)
    (folder,) = (tmp_path / "cache").iterdir()
    config = BuildConfig(
        source=SourceConfig(name="parquet", input=(str(folder / "molecules.parquet"),), smiles_column="smiles"),
        curate=conformer_cache.CurateConfig(radicals="keep", valid_fraction=0.0),
        output=tmp_path / "built",
        workers=1,
    )
    built = driver.build(config).store
    cached = open_store(folder / "store")
    assert cached.manifest.splits == built.manifest.splits  # every byte of the shards
    assert cached.manifest.counts == built.manifest.counts
    failed = [pq.read_table(store.path / "failures.parquet").to_pylist() for store in (cached, built)]
    assert [row["reason"] for row in failed[0]] == ["no_conformer"]
    assert failed[0] == failed[1]
    assert not list(folder.rglob("*.png")), "nobody reads the report of a few molecules"


def test_depictions_are_not_called_conformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(conformer_cache, "QUIET", 2)
    caplog.set_level(logging.INFO, "unimol_scale")
    prepare([*SMILES, "CCN"], cache=tmp_path, geometry=False, max_atoms=None, workers=1)
    assert "drawing 2D depictions: 3 of 3 molecules" in caplog.text
    assert "generating conformers" not in caplog.text


@pytest.mark.parametrize(("quiet", "expected"), [(3, []), (2, [0, 1, 2, 3])])
def test_a_few_molecules_show_no_progress_and_more_show_each_molecule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: int, expected: list[int]
) -> None:
    shown: list[int] = []

    class Shown(StageProgress):
        def __init__(self, label: str, total: int | None, *, shown: bool) -> None:
            super().__init__(label, total, shown=shown)
            self.is_shown = shown
            assert not self.is_shown or (label, total) == ("generating conformers", 3)

        def tick(self) -> None:
            if self.is_shown:
                shown.append(self.advanced)

    monkeypatch.setattr(conformer_cache, "StageProgress", Shown)
    monkeypatch.setattr(conformer_cache, "QUIET", quiet)
    prepare([*SMILES, "CCN"], cache=tmp_path, geometry=True, max_atoms=None, workers=1)
    assert shown == expected
