"""Whole builds, on Ray and without: deterministic, complete, not stopped by what kills a worker or the driver."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from conformer_gen.chemistry.config import ConformerConfig
from conformer_gen.chemistry.conformers import ConformerFailure, CuratedMolecule, generate_conformers
from conformer_gen.config import BuildConfig
from conformer_gen.run import child_executor, driver
from conformer_gen.run.worker import ConformerGenerator
from conformer_gen.sources.reader import SourceConfig
from tests.helpers.bad_generators import ALKANES, die_or_hang, full, greedy, refuse, wrong
from unimol_scale.errors import ConformerError, SourceError, StoreError
from unimol_scale.store.maintain import Verified, verify
from unimol_scale.store.schema import ConformerOrigin, MoleculeRecord
from unimol_scale.store.shards import open_store

SCRIPT = Path(__file__).parents[1] / "helpers" / "build_on_ray.py"


def config_of(tmp_path: Path, lines: list[str], **keys: object) -> BuildConfig:
    path = tmp_path / "input.smi"
    path.write_text("\n".join(f"{smiles} id{number}" for number, smiles in enumerate(lines)))
    settings: dict[str, object] = {"workers": 2, "task_size": 8, "output": tmp_path / "store"} | keys
    return BuildConfig(source=SourceConfig(name="smiles", input=(path,)), **settings)


def failures(store: Path) -> list[dict[str, str]]:
    return pq.read_table(store / "failures.parquet").to_pylist()


def test_the_sample_store_is_complete_and_intact(sample_store: Path) -> None:
    store = open_store(sample_store)
    counts = store.manifest.counts
    assert counts.read == 205
    assert counts.stored == len(store.split("train")) + len(store.split("valid")) > 195
    assert 0 < len(store.split("valid")) <= 0.06 * counts.stored
    assert verify(store) == Verified(damages=(), implausible=())
    assert {path.name for path in sample_store.iterdir()} >= {"report.md", "atoms.png", "failures.parquet", "train"}
    assert not (sample_store / ".build").exists()
    scaffolds = [set(store.split(name).column("scaffold").to_pylist()) for name in ("train", "valid")]
    assert scaffolds[1]
    assert not scaffolds[0] & scaffolds[1]


@pytest.mark.ray
def test_ray_workers_and_kills_do_not_change_a_byte(sample_store: Path, tmp_path: Path) -> None:
    """The store of ``sample_store`` (without Ray) again: two workers of Ray, killed half-way, resumed."""
    output = tmp_path / "store"
    keys = ["--limit", "205", "--workers", "2", "--output", str(output), "task_size=20"]
    command = [sys.executable, str(SCRIPT), "--source", "sample", *keys]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list((output / ".build" / "embedded").glob("*/0*.arrow"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, "the build ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (output / "manifest.json").exists()
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert (output / "manifest.json").read_bytes() == (sample_store / "manifest.json").read_bytes()
    assert verify(open_store(output)) == Verified(damages=(), implausible=())
    assert (output / "failures.parquet").read_bytes() == (sample_store / "failures.parquet").read_bytes()
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert "already finished" in again.stdout
    other = subprocess.run([*command, "--seed", "1"], env=environment, capture_output=True, text=True, check=False)
    assert other.returncode == 2
    assert "  seed: 0 → 1\n" in other.stderr


def shipped(crash: str, hang: str) -> ConformerGenerator:
    """The same, nested, so that Ray ships it by value, and no other process could import it."""

    def generate(molecule: CuratedMolecule, config: ConformerConfig, seed: int) -> MoleculeRecord | ConformerFailure:
        if molecule.smiles == crash:
            os.kill(os.getpid(), signal.SIGSEGV)
        if molecule.smiles == hang:
            time.sleep(1000)
        return generate_conformers(molecule, config, seed)

    return generate


@pytest.mark.parametrize(
    "generator",
    [pytest.param(shipped(ALKANES[5], ALKANES[12]), marks=pytest.mark.ray, id="on Ray"), die_or_hang],
)
def test_molecules_that_kill_or_hang_their_worker_are_failures_and_the_rest_is_there(
    tmp_path: Path, generator: ConformerGenerator
) -> None:
    config = config_of(tmp_path, ALKANES, conformers=ConformerConfig(timeout_s=1), limit_s=3.0)
    store = driver.build(config, generator).store
    assert {(row["id"], row["stage"], row["reason"]) for row in failures(store.path)} == {
        ("id5", "embed", "worker_died"),
        ("id12", "embed", "too_slow"),
    }
    assert store.manifest.counts.stored == len(ALKANES) - 2
    stored = [smiles for name in ("train", "valid") for smiles in _all_smiles(store.split(name))]
    assert sorted(stored) == sorted(set(ALKANES) - {ALKANES[5], ALKANES[12]})


def _all_smiles(split: object) -> list[str]:
    return split.smiles(np.arange(len(split)))


def test_a_small_build_neither_imports_nor_starts_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # an import of it fails
    monkeypatch.delitem(sys.modules, "conformer_gen.run.ray_executor", raising=False)
    store = driver.build(config_of(tmp_path, ALKANES), greedy).store
    assert [(row["id"], row["reason"]) for row in failures(store.path)] == [("id7", "out_of_memory")]
    assert store.manifest.counts.stored == len(ALKANES) - 1
    assert verify(store) == Verified(damages=(), implausible=())


def test_a_build_without_ray_that_is_killed_goes_on_at_once(tmp_path: Path) -> None:
    config = config_of(tmp_path, ALKANES)
    script = (
        "import sys; from pathlib import Path; from conformer_gen.run import driver; "
        "from tests.helpers.bad_generators import sleep; "
        "from conformer_gen.config import BuildConfig; from conformer_gen.sources.config import SourceConfig; "
        "source = SourceConfig(name='smiles', input=(sys.argv[1],)); "
        "driver.build(BuildConfig(source=source, output=Path(sys.argv[2]), task_size=8, workers=2), sleep)"
    )
    arguments = [sys.executable, "-c", script, *map(str, (*config.source.input, config.directory))]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])}
    process = subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list((config.directory / ".build" / "hints").glob("embedded-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None
    process.kill()
    process.wait()
    assert driver.build(config).store.manifest.counts.stored == len(ALKANES)


def test_what_a_task_raises_without_ray_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the disk is full: make room"):
        driver.build(config_of(tmp_path, ALKANES), full)
    with pytest.raises(RuntimeError, match="LookupError: of the generator"):
        driver.build(config_of(tmp_path, ALKANES), wrong)


def test_a_child_that_does_not_start_is_no_fault_of_the_molecules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_executor, "CHILD", "raise SystemExit(1)")
    with pytest.raises(StoreError, match="did not start"):
        driver.build(config_of(tmp_path, ALKANES))


def test_every_row_is_accounted_for(tmp_path: Path) -> None:
    lines = ["CCO", "OCC", "not-a-smiles", "c1ccccc1O", "*C", "N#[C][Co]([C]#N)([C]#N)([C]#N)([C]#N)[C]#N", "CCN.Cl"]
    store = driver.build(config_of(tmp_path, lines, backend="lmdb", workers=1)).store
    counts = store.manifest.counts
    assert (counts.read, counts.stored, counts.duplicates, counts.failed) == (7, 3, 1, 3)
    assert [(row["id"], row["smiles"], row["stage"], row["reason"]) for row in failures(store.path)] == [
        ("id2", "not-a-smiles", "curate", "not_parsed"),
        ("id4", "*C", "curate", "dummy_atom"),
        ("id5", lines[5], "embed", "no_conformer"),
    ]


def test_a_build_without_a_usable_molecule_leaves_reasons_and_no_store(tmp_path: Path) -> None:
    config = config_of(tmp_path, ["nonsense", "*"], workers=1)
    with pytest.raises(SourceError, match="none of the 2 rows"):
        driver.build(config)
    assert len(failures(config.directory)) == 2
    assert not (config.directory / "manifest.json").exists()
    (tmp_path / "second").mkdir()
    with pytest.raises(ConformerError, match="none of 1 molecules got a conformer"):
        driver.build(config_of(tmp_path / "second", ["CCO"], workers=1), refuse)


def test_geometry_of_an_sdf_is_kept(tmp_path: Path) -> None:
    blocks = []
    for number, smiles in enumerate(["OCCc1ccccn1", "CC(N)=O", "OCC1CN1"]):
        molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
        rdDistGeom.EmbedMolecule(molecule, number)
        blocks.append(Chem.MolToMolBlock(molecule) + "$$$$\n")
    (tmp_path / "three.sdf").write_text("".join(blocks))
    source = SourceConfig(name="sdf", input=(tmp_path / "three.sdf",))
    store = driver.build(BuildConfig(source=source, output=tmp_path / "store", workers=1)).store
    assert store.manifest.coordinate_scale is None
    found = 0
    for name in ("train", "valid"):
        split = store.split(name)
        for index in range(len(split)):
            columns, smiles = split.gather(np.array([index])), split.smiles(np.array([index]))[0]
            number = int(split.ids(np.array([index]))[0].split(":")[1])
            original = Chem.MolFromMolBlock(blocks[number - 1])
            order = list(original.GetSubstructMatch(Chem.MolFromSmiles(smiles)))
            expected = original.GetConformer().GetPositions()[order]
            # Lengths do not see the centring; none of these molecules has heavy atoms that could be swapped.
            bonds = columns.bond_index
            lengths = [np.linalg.norm(p[bonds[:, 0]] - p[bonds[:, 1]], axis=1) for p in (columns.coordinates, expected)]
            np.testing.assert_allclose(*lengths, atol=1e-5)
            assert columns.conformer_origin.tolist() == [ConformerOrigin.FILE]
            found += 1
    assert found == 3
