"""A build from several sources: one set of molecules, whose rows say where they are from."""

import dataclasses
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import lmdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from rdkit import Chem
from rdkit.Chem import rdDistGeom

import unimol_scale as us
from benchmarks.build.faults import file_hashes
from conformer_gen.chemistry.config import ConformerConfig, CurateConfig
from conformer_gen.chemistry.conformers import ConformerFailure, CuratedMolecule, generate_conformers
from conformer_gen.config import BuildConfig
from conformer_gen.report.progress_samples import SampledProgress
from conformer_gen.run import driver
from conformer_gen.run.in_process_executor import InProcessExecutor
from conformer_gen.run.worker import ConformerGenerator
from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.joint import joint_label_units
from conformer_gen.sources.units import plan_units
from tests.helpers.bad_generators import ALKANES
from unimol_scale.cli.verbs.build import main
from unimol_scale.common.trees import flatten
from unimol_scale.errors import ConfigError, SourceError, StoreError
from unimol_scale.store.manifest import SourceCounts
from unimol_scale.store.schema import MoleculeRecord
from unimol_scale.store.shards import open_store

REPOSITORY = Path(__file__).parents[2]
ON_RAY = REPOSITORY / "tests" / "helpers" / "build_on_ray.py"
# Of the second source, two molecules are also in the first, and one is there twice.
FIRST = ["CCO", "Cc1ccccc1", "CCN", "nonsense", "CCCC", "c1ccncc1"]
SECOND = ["OCC", "CCCCC", "CCCCC", "Oc1ccccc1", "n1ccccc1", "CCC", "CC(C)C", "CCS"]


def table(path: Path, smiles: list[str], name: str, **columns: list[float | None]) -> Path:
    rows = ["smiles,id" + "".join(f",{label}" for label in columns)]
    for at, text in enumerate(smiles):
        values = ["" if column[at] is None else str(column[at]) for column in columns.values()]
        rows.append(",".join([text, f"{name}{at}", *values]))
    path.write_text("\n".join(rows))
    return path


def two(tmp_path: Path) -> tuple[SourceConfig, SourceConfig]:
    first = table(tmp_path / "first.csv", FIRST, "a", u=[1.0, 2.0, None, 4.0, 5.0, 6.0])
    second = tmp_path / "second.smi"
    second.write_text("\n".join(f"{smiles} b{at}" for at, smiles in enumerate(SECOND)))
    labelled = SourceConfig(name="csv", input=(str(first),), labels={"u": "eV"})
    return labelled, SourceConfig(name="smiles", input=(str(second),))


def config_of(tmp_path: Path, output: str = "store", **keys: object) -> BuildConfig:
    settings: dict[str, object] = {"workers": 1, "task_size": 4, "output": tmp_path / output} | keys
    return BuildConfig(**({"sources": two(tmp_path)} | settings))


def build(config: BuildConfig, generator: ConformerGenerator = generate_conformers) -> us.ConformerStore:
    """Build in this process, without the report, which would take most of the time."""
    executor = InProcessExecutor(config, SampledProgress)
    return us.ConformerStore(driver.build(config, generator, executor, with_report=False).store)


def content(store: Path) -> dict[str, str]:
    """Return the hash of every file of a store, but for the report and its pictures."""
    return {name: found for name, found in file_hashes(store).items() if not name.endswith((".png", ".md"))}


def test_all_sources_are_one_set_and_every_row_says_where_it_is_from(tmp_path: Path) -> None:
    store = us.ConformerStore(driver.build(config_of(tmp_path)).store)
    rows = {row.id: row for row in store}
    assert {name: row.smiles for name, row in rows.items()} == {
        "csv:a0": "CCO",
        "csv:a1": "Cc1ccccc1",
        "csv:a2": "CCN",
        "csv:a4": "CCCC",
        "csv:a5": "c1ccncc1",
        "smiles:b1": "CCCCC",
        "smiles:b3": "Oc1ccccc1",
        "smiles:b5": "CCC",
        "smiles:b6": "CC(C)C",
        "smiles:b7": "CCS",
    }
    assert store.label_units == {"u": "eV"}
    assert {name: row.labels["u"] for name, row in rows.items() if not np.isnan(row.labels["u"])} == {
        "csv:a0": 1.0,
        "csv:a1": 2.0,
        "csv:a4": 5.0,
        "csv:a5": 6.0,
    }
    failures = pq.read_table(store.path / "failures.parquet").to_pylist()
    assert [(row["id"], row["smiles"]) for row in failures] == [("csv:a3", "nonsense")]
    assert store.metadata["source"] == "csv + smiles"
    assert store.metadata["parameters"]["sources"]["csv"]["inputs"] == [
        f"first.csv ({(tmp_path / 'first.csv').stat().st_size} bytes)"
    ]
    report = (store.path / "report.md").read_text()
    assert "| csv | 6 | 5 | 0 | 1 | 0 |" in report
    assert "| smiles | 8 | 5 | 3 | 0 | 0 |" in report


def test_the_order_of_the_sources_says_which_row_is_kept(tmp_path: Path) -> None:
    first, second = two(tmp_path)
    store = build(config_of(tmp_path, sources=(second, first)))
    assert {"smiles:b0", "smiles:b4"} < set(store.ids)
    assert not {"csv:a0", "csv:a5"} & set(store.ids)
    # The number of the row that was left out is not lost in silence.
    assert store.metadata["counts"]["conflicting"] == 2


def test_a_sample_by_scaffold_and_the_counts_see_all_sources(tmp_path: Path) -> None:
    path = build(config_of(tmp_path, curate=CurateConfig(target=6, temperature=0.1))).path
    counts = open_store(path).manifest
    assert (counts.counts.stored, counts.counts.not_sampled) == (6, 4)
    each = counts.counts_by_source
    assert list(each) == ["csv", "smiles"]
    for field in dataclasses.fields(SourceCounts):
        assert sum(getattr(one, field.name) for one in each.values()) == getattr(counts.counts, field.name)
    assert (each["csv"].read, each["smiles"].read) == (6, 8)
    assert all(one.not_sampled for one in each.values())


def test_neither_the_cut_of_the_work_nor_a_stop_changes_a_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is as after a kill in the middle of curation."""
    calm = build(config_of(tmp_path, "calm", task_size=500)).path
    fine = build(config_of(tmp_path, "fine", task_size=1)).path
    stopped = config_of(tmp_path, "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(InProcessExecutor, "select", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(StoreError, match="disk is full"):
            build(stopped)
    curated = sorted((stopped.directory / ".build" / "curated").rglob("*.parquet"))
    assert len(curated) == 4, "chunks of four rows, none of two sources: 4 + 2 and 4 + 4"
    for path in (curated[1], curated[3], stopped.directory / ".build" / "first_chunks.json"):
        path.unlink()
    build(stopped)
    assert content(calm) == content(fine) == content(stopped.directory)


def write_settings(tmp_path: Path) -> Path:
    labelled, plain = two(tmp_path)
    sources = [
        {"name": "csv", "input": list(labelled.input), "labels": {"u": "eV"}},
        {"name": "smiles", "input": list(plain.input)},
    ]
    path = tmp_path / "build.yaml"
    path.write_text(yaml.safe_dump({"sources": sources, "task_size": 2}))
    return path


def test_a_killed_build_goes_on_with_the_same_bytes(tmp_path: Path) -> None:
    calm = build(config_of(tmp_path, "calm")).path
    script = (
        "import sys; from conformer_gen.run import driver; from tests.helpers.bad_generators import sleep; "
        "from unimol_scale.cli.verbs.build import build_parser, config_of; "
        "driver.build(config_of(build_parser().parse_args(sys.argv[1:])), sleep)"
    )
    arguments = ["--config", str(write_settings(tmp_path)), "--workers", "1", "--output", str(tmp_path / "killed")]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    hints = tmp_path / "killed" / ".build" / "hints"
    while not list(hints.glob("embedded-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None
    process.kill()
    process.wait()
    assert main(arguments) == 0
    assert content(calm) == content(tmp_path / "killed")


@pytest.mark.ray
def test_on_ray_with_two_workers_it_is_the_same_store(tmp_path: Path) -> None:
    calm = build(config_of(tmp_path, "calm")).path
    command = [sys.executable, ON_RAY, "--config", write_settings(tmp_path), "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [*command, "--output", tmp_path / "ray"], env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert content(calm) == content(tmp_path / "ray")


def unimol_file(path: Path, smiles: list[str], conformers: int = 2) -> dict[str, np.ndarray]:
    """Write molecules with hydrogens as Uni-Mol does; return canonical SMILES → [k, n, 3] Å of all atoms."""
    written = {}
    environment = lmdb.open(str(path), subdir=False, lock=False, map_size=16 << 20)
    with environment.begin(write=True) as transaction:
        for at, text in enumerate(smiles):
            molecule = Chem.AddHs(Chem.MolFromSmiles(text))
            rdDistGeom.EmbedMultipleConfs(molecule, conformers, randomSeed=at)
            points = [conformer.GetPositions().astype(np.float32) for conformer in molecule.GetConformers()]
            atoms = [atom.GetSymbol() for atom in molecule.GetAtoms()]
            value = {"atoms": atoms, "coordinates": points, "smi": text}
            transaction.put(str(at).encode(), pickle.dumps(value))
            written[Chem.CanonSmiles(text)] = np.stack(points)
    environment.close()
    return written


def test_rows_with_geometry_keep_it_beside_rows_that_get_conformers(tmp_path: Path) -> None:
    (tmp_path / "unimol").mkdir()
    points = unimol_file(tmp_path / "unimol" / "train.lmdb", ["CCO", "CCN"])
    points |= unimol_file(tmp_path / "unimol" / "valid.lmdb", ["CCCl"])
    (tmp_path / "zinc.smi").write_text("OCC z0\nCCC z1\nCCS z2\n")
    sources: list[Mapping[str, object]] = [
        {"name": "unimol-lmdb", "input": str(tmp_path / "unimol")},
        {"name": "smiles", "input": tmp_path / "zinc.smi"},
    ]
    store = us.build_store(sources=sources, output=tmp_path / "kept", conformers=3, workers=1)
    rows = {row.id: row for row in store}
    assert set(rows) == {
        "unimol-lmdb:train:0",
        "unimol-lmdb:train:1",
        "unimol-lmdb:valid:0",
        "smiles:z1",
        "smiles:z2",
    }
    assert store.metadata["coordinate_scale"] is None, "float32, as coordinates of files have it"
    for name in ("unimol-lmdb:train:0", "unimol-lmdb:valid:0"):
        row = rows[name]
        assert row.origins == ("FILE", "FILE")
        heavy = points[row.smiles][:, : len(row.atomic_numbers)]
        np.testing.assert_allclose(row.coordinates, heavy - heavy.mean(axis=1, keepdims=True), atol=1e-5)
    assert rows["smiles:z1"].origins == ("MMFF",) * 3
    remade = (
        SourceConfig(name="unimol-lmdb", input=(str(tmp_path / "unimol"),), geometry="make"),
        SourceConfig(name="smiles", input=(str(tmp_path / "zinc.smi"),)),
    )
    made = build(config_of(tmp_path, "made", sources=remade))
    assert {row.origins for row in made} == {("MMFF",)}
    assert made.metadata["coordinate_scale"] == 0.001
    assert len(made) == len(store) == 5


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"name": "sample"}, "^sources: expected a list of dicts, one per source, got dict"),
        (["sample"], r"sources\[0\]: expected a group of keys"),
        ([{"name": "sample", "inputs": 1}], r"sources\[0\].inputs: unknown key 'inputs'; did you mean 'input'"),
    ],
)
def test_a_call_with_other_things_than_sources_is_told(tmp_path: Path, sources: object, message: str) -> None:
    with pytest.raises(us.ConfigError, match=message):
        us.build_store(sources=sources, output=tmp_path / "store")


def test_sources_of_one_kind_are_told_apart_by_their_place(tmp_path: Path) -> None:
    paths = [table(tmp_path / f"{name}.csv", [smiles], "row") for name, smiles in (("x", "CCO"), ("y", "CCN"))]
    sources = [SourceConfig(name="csv", input=(str(path),)) for path in paths]
    rows = [row.id for unit in plan_units(sources, None, 0) for row in unit.read()]
    assert rows == ["csv-1:row0", "csv-2:row0"]
    assert BuildConfig(sources=tuple(sources)).directory == Path("data/csv-1-csv-2")


def test_labels_of_one_name_need_one_unit(tmp_path: Path) -> None:
    sources = [
        SourceConfig(name="csv", input=("x.csv",), labels={"gap": unit, name: ""})
        for unit, name in (("eV", "p"), ("eV", "q"))
    ]
    assert joint_label_units(sources) == {"gap": "eV", "p": "", "q": ""}
    other = SourceConfig(name="qm9", input=("qm9",))
    with pytest.raises(ConfigError, match="the label 'gap' is in eV in csv and in Ha in qm9"):
        BuildConfig(sources=(sources[0], other))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--limit", "5"], "source.limit is for a build from one source, but this one has several"),
        (["--source", "sample"], "source.name is for a build from one source"),
        (["sources=[{name: sample, imput: 3}]"], "unknown key 'imput'; did you mean 'input'"),
        (["sources=[]"], "a build needs either source, such as source.name=sample, or a list of sources"),
        (["sources=[{name: sample, geometry: make}]"], "geometry: the source 'sample' has no coordinates"),
    ],
)
def test_what_is_wrong_with_them_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["--config", str(write_settings(tmp_path)), *words]) == 2
    assert message in capsys.readouterr().err


def test_other_sources_in_the_same_folder_are_told_by_name(tmp_path: Path) -> None:
    build(config_of(tmp_path))
    first, second = two(tmp_path)
    with pytest.raises(StoreError, match=r"source: csv \+ smiles → smiles \+ csv"):
        driver.build(config_of(tmp_path, sources=(second, first)))
    with pytest.raises(StoreError, match=r"source: csv \+ smiles → smiles") as told:
        driver.build(BuildConfig(source=second, output=tmp_path / "store"))
    assert "newer version" not in str(told.value)
    limited = dataclasses.replace(second, limit=3)
    with pytest.raises(StoreError, match=r"parameters.sources.smiles.limit: none → 3"):
        driver.build(config_of(tmp_path, sources=(first, limited)))


def test_a_dry_run_says_what_each_takes_and_all_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--config", str(write_settings(tmp_path)), "--output", str(tmp_path / "store"), "--dry-run"]
    assert main(settings) == 0
    said = capsys.readouterr().out
    assert "csv: would read 6 rows from 1 input (first.csv)" in said
    assert "smiles: would read 8 rows from 1 input (second.smi)" in said
    assert "in total: about 0.00 core-hours" in said
    assert not (tmp_path / "store").exists()


def test_the_manifest_of_one_source_has_the_keys_that_it_always_had(tmp_path: Path) -> None:
    earlier = REPOSITORY / "tests" / "earlier" / "2026-11-28" / "stores" / "arrow" / "manifest.json"
    one = build(config_of(tmp_path, sources=(), source=two(tmp_path)[1]))
    before, now = (json.loads(path.read_text()) for path in (earlier, one.path / "manifest.json"))
    for tree in (before, now):
        del tree["splits"], tree["labels"]
    assert list(flatten(now)) == list(flatten(before))
    assert one.ids[0] == "b0", "ids are as the source has them"


def refuse_odd(molecule: CuratedMolecule, config: ConformerConfig, seed: int) -> MoleculeRecord | ConformerFailure:
    """Make no conformers of alkanes with an odd number of atoms."""
    if len(molecule.smiles) % 2:
        return ConformerFailure(reason="odd", detail="by the test")
    return generate_conformers(molecule, config, seed)


@pytest.mark.parametrize(("task_size", "shard_rows"), [(500, 50_000), (3, 2)])
def test_a_number_for_validation_is_met_although_molecules_get_no_conformer(
    tmp_path: Path, task_size: int, shard_rows: int
) -> None:
    def valid_of(name: str, smiles: list[str]) -> tuple[list[str], us.ConformerStore]:
        path = tmp_path / f"{name}.smi"
        path.write_text("\n".join(smiles))
        config = BuildConfig(
            source=SourceConfig(name="smiles", input=(str(path),)),
            curate=CurateConfig(split="random", valid_count=5),
            output=tmp_path / name,
            task_size=task_size,
            shard_rows=shard_rows,
            seed=3,
        )
        store = build(config, refuse_odd)
        return store.valid.smiles.tolist(), store

    even = [smiles for smiles in ALKANES if len(smiles) % 2 == 0]
    valid, store = valid_of("all", ALKANES)
    expected, _ = valid_of("even", even)
    assert len(valid) == 5
    assert set(valid) == set(expected), "those of a set that never had the failed molecules"
    assert sorted(valid + store.train.smiles.tolist()) == sorted(even)
    assert not set(valid) & set(store.train.smiles.tolist())
    assert open_store(store.path).manifest.splits["valid"].rows == 5
    assert store.metadata["parameters"]["valid_count"] == 5
    assert "valid_fraction" not in store.metadata["parameters"]


@pytest.mark.parametrize(
    ("curate", "message"),
    [
        ({"split": "random", "valid_count": 6}, "would have only 10 molecules: at most half of them"),
        ({"split": "scaffold", "valid_count": 1, "target": 8, "temperature": 0.01}, "every Murcko scaffold has more"),
    ],
)
def test_a_number_that_the_set_cannot_give_is_refused_before_conformers_are_made(
    tmp_path: Path, curate: dict[str, object], message: str
) -> None:
    config = config_of(tmp_path, curate=CurateConfig(**curate))
    if "scaffold" in message:
        smiles = tmp_path / "rings.smi"
        smiles.write_text("\n".join(["CC", "CCC", "Cc1ccccc1", "CCc1ccccc1"]))
        source = SourceConfig(name="smiles", input=(str(smiles),))
        config = dataclasses.replace(config, sources=(), source=source, curate=CurateConfig(valid_count=1))
    with pytest.raises(SourceError, match=message):
        build(config)
    assert not (config.directory / ".build" / "embedded").exists()
