"""Builds from files of elements with coordinates: the same molecules as with bonds, conformers chosen, forces kept."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

import unimol_scale as us
import unimol_scale.config as strict
from conformer_gen.chemistry.config import ConformerConfig, CurateConfig
from conformer_gen.config import BuildConfig
from conformer_gen.report.progress_samples import SampledProgress
from conformer_gen.run import driver
from conformer_gen.run.in_process_executor import InProcessExecutor
from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.frame_settings import FramesConfig
from tests.helpers.frame_files import EV, ase_frames, numbers, placed, positions
from tests.helpers.random_keys import keys
from unimol_scale.data.molecule_reader import MoleculeReader
from unimol_scale.errors import ConfigError, StoreError
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseObjective
from unimol_scale.store.manifest import MANIFEST_NAME
from unimol_scale.store.schema import MoleculeRecord
from unimol_scale.store.shards import open_store

REPOSITORY = Path(__file__).parents[2]
MOLECULES = ("CC(N)C(=O)O", "C/C=C/CO", "Cc1ncc[nH]1", "CC#CC1CC1", "NC(=O)c1ccco1")


def build(output: Path, *sources: SourceConfig, **keys: object) -> list[MoleculeRecord]:
    settings = {"curate": CurateConfig(valid_fraction=0.0)} | keys
    config = BuildConfig(sources=sources, output=output, **settings)
    if len(sources) == 1:
        config = dataclasses.replace(config, source=sources[0], sources=())
    driver.build(config, executor=InProcessExecutor(config, SampledProgress), with_report=False)
    split = open_store(output).split("train")
    return split.records(np.arange(len(split)))


def source(name: str, *paths: Path, **keys: object) -> SourceConfig:
    return SourceConfig(name=name, input=tuple(map(str, paths)), **keys)


def xyz(molecule: Chem.Mol, comment: str = "") -> str:
    symbols = [atom.GetSymbol() for atom in molecule.GetAtoms()]
    lines = [f"{symbol} {x} {y} {z}" for symbol, (x, y, z) in zip(symbols, positions(molecule)[0], strict=True)]
    return "\n".join([str(len(lines)), comment, *lines, ""])


def same_geometry(first: MoleculeRecord, second: MoleculeRecord) -> bool:
    """Whether atoms in the order of one SMILES have the same distances, whichever of equal atoms come first."""
    spread = [
        np.sort(np.linalg.norm(r.coordinates[0][:, None] - r.coordinates[0][None], axis=-1), None)
        for r in (first, second)
    ]
    return first.smiles == second.smiles and np.allclose(*spread, atol=2e-3)


def test_through_xyz_come_the_molecules_of_qm9_and_pcqm4mv2(tmp_path: Path) -> None:
    placed_ones = [placed(smiles, frames=1) for smiles in MOLECULES]
    (tmp_path / "plain.xyz").write_text("".join(map(xyz, placed_ones)))
    qm9, rows = [], ["smiles,homolumogap"]
    for at, molecule in enumerate(placed_ones):
        smiles = Chem.MolToSmiles(Chem.RemoveHs(molecule), isomericSmiles=False)
        properties = "\t".join(["gdb", str(at), *["1.0"] * 15])
        qm9.append(f"{xyz(molecule, properties)}0.0\n{smiles}\t{smiles}\nInChI=1\tInChI=1\n")
        rows.append(f'"{Chem.MolToCXSmiles(molecule)}",1.0')
    for at, text in enumerate(qm9):
        (tmp_path / f"dsgdb9nsd_{at}.xyz").write_text(text)
    (tmp_path / "pcqm.csv").write_text("\n".join(rows))
    ours = build(tmp_path / "a", source("xyz", tmp_path / "plain.xyz"))
    pcqm = build(tmp_path / "b", source("pcqm4mv2", tmp_path / "pcqm.csv"))
    assert len(ours) == len(MOLECULES)
    assert all(same_geometry(*pair) for pair in zip(ours, pcqm, strict=True))
    flat = build(tmp_path / "c", source("qm9", *sorted(tmp_path.glob("dsgdb9nsd_*.xyz"))))
    # QM9's SMILES have no stereo.
    assert [Chem.CanonSmiles(r.smiles, useChiral=0) for r in ours] == [r.smiles for r in flat]


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    pytest.importorskip("ase")
    from ase.io import write

    write(tmp_path / "frames.xyz", ase_frames("CCO", "NCC(=O)O"), format="extxyz")
    return tmp_path / "frames.xyz"


def test_a_number_of_conformers_is_chosen_by_energy_and_distance(tmp_path: Path, frames: Path) -> None:
    one = source("xyz", frames)
    assert [len(record.energy) for record in build(tmp_path / "all", one)] == [3, 3]
    two = build(tmp_path / "two", one, conformers=ConformerConfig(from_file=2))
    np.testing.assert_allclose([record.energy for record in two], [[0, EV], [0, EV]], rtol=1e-6)
    window = ConformerConfig(from_file=3, energy_window=1.5 * EV)
    assert [len(record.energy) for record in build(tmp_path / "window", one, conformers=window)] == [2, 2]
    near = ConformerConfig(from_file=3, rmsd_prune=1.0)
    assert [len(record.energy) for record in build(tmp_path / "near", one, conformers=near)] == [1, 1]
    with pytest.raises(StoreError, match="from_file"):
        build(tmp_path / "two", one, conformers=ConformerConfig(from_file=1))
    with pytest.raises(ConfigError, match=r"conformers\.from_file=K"):
        BuildConfig(source=one, conformers=ConformerConfig(count=2))


def test_forces_theory_and_origins_are_in_a_store_of_several_sources(tmp_path: Path, frames: Path) -> None:
    settings = FramesConfig(keep=("forces",), origin="dft", theory="wB97M-V/def2-TZVPD", provenance="doi:10.1/x")
    (tmp_path / "made.smi").write_text("c1ccccc1 benzene\n")
    records = build(
        tmp_path / "store",
        source("xyz", frames, frames=settings),
        source("smiles", tmp_path / "made.smi"),
        conformers=ConformerConfig(hydrogens=True),
    )
    ethanol, _, benzene = records
    assert ethanol.atom_labels["forces"].shape == ethanol.coordinates.shape == (3, 9, 3)
    assert np.isfinite(ethanol.atom_labels["forces"]).all()
    assert np.isnan(benzene.atom_labels["forces"]).all()
    manifest = json.loads((tmp_path / "store" / MANIFEST_NAME).read_text())
    recorded = manifest["parameters"]["sources"]["xyz"]["frames"]
    assert (recorded["theory"], recorded["provenance"]) == (settings.theory, settings.provenance)
    assert recorded["units"]["energy"] == "eV"
    assert manifest["atom_labels"] == {"forces": "kcal/mol/Å"}
    origins = manifest["splits"]["train"]["shards"][0]["origins"]
    assert origins == {"DFT": 6, "MMFF": 1}
    without = build(tmp_path / "heavy", source("xyz", frames, frames=settings))
    np.testing.assert_array_equal(without[0].atom_labels["forces"], ethanol.atom_labels["forces"][:, :3])
    assert us.open_store(tmp_path / "store")[0].id.startswith("xyz:")


def test_the_configuration_of_denoising_learns_from_such_a_store(tmp_path: Path, frames: Path) -> None:
    settings = FramesConfig(keep=("forces",), origin="dft")
    (tmp_path / "made.smi").write_text("c1ccccc1 benzene\n")
    sources = source("xyz", frames, frames=settings), source("smiles", tmp_path / "made.smi")
    build(tmp_path / "store", *sources, conformers=ConformerConfig(hydrogens=True))
    tree, _ = strict.read_yaml(REPOSITORY / "configs" / "pretrain" / "denoising.yaml")
    recipe = tree["objective"]["denoise"] | {"noise_std": 0.1, "noise_std_of": {"dft": 0.04, "force_field": 0.2}}
    objective = DenoiseObjective(strict.build(DenoiseConfig, recipe, strict.Origin(name="test")))
    for hydrogens, sizes in (("keep", [9, 10, 12]), ("drop", [3, 5, 6])):
        batch = MoleculeReader(open_store(tmp_path / "store"), "train", hydrogens=hydrogens).read(keys(range(3)))
        made = objective.corrupt(batch, keys(range(3)))
        assert batch.num_atoms_B.tolist() == sizes
        np.testing.assert_allclose(made.noise_std_B, [0.04, 0.04, 0.2])
        assert np.isfinite(made.input.coordinates_BA3.numpy()).all()


def test_every_frame_is_accounted_for(tmp_path: Path) -> None:
    water = placed("O", frames=1)
    good, bad = xyz(water), xyz(water).replace("H ", "Xx ", 1)
    (tmp_path / "a.xyz").write_text(xyz(placed("CCO", frames=1)) + bad + good + good + "5\nends early\nC 0 0 0\n")
    records = build(tmp_path / "store", source("xyz", tmp_path / "a.xyz"))
    failures = pq.read_table(tmp_path / "store" / "failures.parquet").to_pylist()
    assert [record.smiles for record in records] == ["CCO", "O"]
    assert sorted(row["reason"] for row in failures) == ["duplicate_frame", "unknown_element", "wrong_count"]
    counts = open_store(tmp_path / "store").manifest.counts
    assert (counts.read, counts.stored, counts.failed) == (5, 2, 3)
    assert numbers(water) == [8, 1, 1]
