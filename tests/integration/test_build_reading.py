"""Builds whose rows are read in units: the bytes are those of a build that reads every source from end to end."""

import json
import pickle
from pathlib import Path

import h5py
import lmdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from rdkit import Chem

from benchmarks.build import faults
from conformer_gen.chemistry.config import CurateConfig
from conformer_gen.config import BuildConfig
from conformer_gen.report.progress_samples import SampledProgress
from conformer_gen.run import driver, workspace
from conformer_gen.run.in_process_executor import InProcessExecutor
from conformer_gen.selection.pieces import CHUNKS_PER_UNIT, CURATED, done_pieces
from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.units import plan_units
from tests.helpers.frame_files import BOHR, ase_frames, numbers, placed, positions, write_aselmdb
from unimol_scale.errors import StoreError

ON_RAY = Path(__file__).parents[1] / "helpers" / "build_on_ray.py"
TASK_SIZE = 4
UNIT_BYTES = 4000


def smiles_of(kind: str) -> list[str]:
    """Molecules of which no other kind of file has any."""
    return [f"{'C' * n}{kind}" for n in range(1, 9)]


def write_inputs(folder: Path) -> list[dict[str, object]]:
    """Write files of every kind that is read in units, and return the sources that read them."""
    from ase.db import connect
    from ase.io import write

    folder.mkdir()
    kinds = ("xyz", "sdf", "db", "aselmdb", "hdf5", "lmdb")
    paths = {name: folder / name for name in ("a.smi", "b.smi", "table.parquet", *(f"many.{kind}" for kind in kinds))}
    paths["a.smi"].write_text("".join(f"{smiles} {smiles}\n" for smiles in smiles_of("O")))
    paths["b.smi"].write_text("not-a-molecule\n" + "".join(f"{smiles}\n" for smiles in smiles_of("N")))
    pq.write_table(
        pa.table({"smiles": smiles_of("S") * 5, "note": ["x" * 90] * 40}), paths["table.parquet"], row_group_size=3
    )
    write(paths["many.xyz"], ase_frames(*smiles_of("C=O")), format="extxyz")
    paths["many.sdf"].write_text("".join(Chem.MolToMolBlock(placed(one)) + "$$$$\n" for one in smiles_of("I")))
    with connect(paths["many.db"]) as database:
        for smiles in smiles_of("F"):
            for atoms in ase_frames(smiles):
                database.write(atoms, name=smiles)
    write_aselmdb(paths["many.aselmdb"], ase_frames(*smiles_of("Cl")))
    with h5py.File(paths["many.hdf5"], "w") as file:
        for smiles in smiles_of("Br"):
            molecule, group = placed(smiles), file.create_group(smiles)
            group["atomic_numbers"], group["smiles"] = numbers(molecule), [smiles]
            group["conformations"] = positions(molecule) / BOHR
    environment = lmdb.open(str(paths["many.lmdb"]), subdir=False, lock=False, map_size=64 << 20)
    with environment.begin(write=True) as transaction:
        for at, smiles in enumerate(smiles_of("C#C")):
            molecule = placed(smiles)
            symbols = [atom.GetSymbol() for atom in molecule.GetAtoms()]
            record = {"atoms": symbols, "coordinates": list(positions(molecule)), "smi": smiles}
            transaction.put(str(at).encode(), pickle.dumps(record))
    environment.close()
    inputs = {
        "smiles": ("a.smi", "b.smi"),
        "parquet": ("table.parquet",),
        "xyz": ("many.xyz",),
        "sdf": ("many.sdf",),
        "ase-db": ("many.db", "many.aselmdb"),
        "hdf5": ("many.hdf5",),
        "unimol-lmdb": ("many.lmdb",),
    }
    return [{"name": name, "input": [str(paths[file]) for file in files]} for name, files in inputs.items()]


def config_of(sources: list[dict[str, object]], output: Path) -> BuildConfig:
    return BuildConfig(
        sources=tuple(SourceConfig(name=one["name"], input=tuple(one["input"])) for one in sources),
        output=output,
        task_size=TASK_SIZE,
        curate=CurateConfig(valid_fraction=0.2),
    )


def build_here(config: BuildConfig) -> None:
    driver.build(config, executor=InProcessExecutor(config, SampledProgress))


def chunks_of(output: Path) -> set[int]:
    return {piece.chunk for piece in done_pieces(output / ".build", CURATED)}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    return write_inputs(tmp_path_factory.mktemp("inputs") / "files")


@pytest.fixture(scope="module")
def whole(inputs: list[dict[str, object]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hashes of the files of a store whose sources were read from end to end."""
    output = tmp_path_factory.mktemp("whole") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workspace, "UNIT_BYTES", None)
        build_here(config_of(inputs, output))
    counts = json.loads((output / "manifest.json").read_text())["counts_by_source"]
    assert {tag: one["stored"] for tag, one in counts.items()} == {
        "smiles": 16,
        "parquet": 8,
        "xyz": 8,
        "sdf": 8,
        "ase-db": 16,
        "hdf5": 8,
        "unimol-lmdb": 8,
    }
    return faults.file_hashes(output)


def test_one_large_text_is_several_units(inputs: list[dict[str, object]], tmp_path: Path) -> None:
    found = list(plan_units(config_of(inputs, tmp_path).sources, None, 0, UNIT_BYTES))
    for name in ("xyz", "sdf"):
        own = [unit for unit in found if inputs[unit.source]["name"] == name]
        assert len(own) > 2
        assert sum(next(unit.read(), None) is not None for unit in own) > 2


def test_units_in_one_process_change_no_byte(
    inputs: list[dict[str, object]], whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace, "UNIT_BYTES", UNIT_BYTES)
    build_here(config_of(inputs, tmp_path / "store"))
    assert faults.file_hashes(tmp_path / "store") == whole


@pytest.mark.ray
def test_neither_one_nor_two_readers_nor_kills_change_a_byte(
    inputs: list[dict[str, object]], whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"sources": inputs, "task_size": TASK_SIZE, "curate": {"valid_fraction": 0.2}}
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setattr(faults, "SCRIPT", ON_RAY)
    monkeypatch.setenv("PYTHONPATH", str(ON_RAY.parents[2]))
    monkeypatch.setenv("UNIT_BYTES", str(UNIT_BYTES))
    arguments = ["--config", str(tmp_path / "build.yaml")]
    faults.build([*arguments, "--workers", "1"], tmp_path / "one")
    assert faults.file_hashes(tmp_path / "one") == whole
    kills = [faults.Kill(4, "driver"), faults.Kill(12, "machine")]
    outcome = faults.build([*arguments, "--workers", "2"], tmp_path / "two", kills)
    assert outcome.kills == kills, "the build ended before it could be killed"
    assert faults.file_hashes(tmp_path / "two") == whole


@pytest.mark.parametrize(
    "unknown",
    [(workspace.UNIT_SIZE, workspace.TEXT_RANGES), (workspace.TEXT_RANGES,), ()],
    ids=["sources", "whole texts", "ranges"],
)
def test_an_unfinished_build_goes_on_with_the_units_that_it_began_with(
    inputs: list[dict[str, object]],
    whole: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unknown: tuple[str, ...],
) -> None:
    """Earlier versions read every source as one unit, and numbered the chunks of all one after another.

    Later ones read ranges of some files, but every text whole.
    """
    config, earlier = config_of(inputs, tmp_path / "store"), workspace.UNIT_SIZE in unknown
    with monkeypatch.context() as patch:
        size = None if earlier else UNIT_BYTES
        patch.setattr(workspace, "UNIT_BYTES", size)
        patch.setattr(workspace, "units_of", lambda _: (size, not unknown))
        patch.setattr(InProcessExecutor, "select", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(StoreError, match="disk is full"):
            build_here(config)
    work = config.directory / ".build"
    plan = json.loads((work / workspace.PLAN_NAME).read_text())
    plan = {key: value for key, value in plan.items() if key not in unknown}
    (work / workspace.PLAN_NAME).write_text(json.dumps(plan))
    before = chunks_of(config.directory)
    assert (max(before) == len(before) - 1) == earlier
    assert (max(before) < CHUNKS_PER_UNIT) == earlier
    for path in [*sorted((work / CURATED).rglob("*.parquet"))[::3], work / "first_chunks.json"]:
        path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(InProcessExecutor, "select", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(StoreError, match="disk is full"):
            build_here(config)
    assert chunks_of(config.directory) == before
    build_here(config)
    assert faults.file_hashes(config.directory) == whole
