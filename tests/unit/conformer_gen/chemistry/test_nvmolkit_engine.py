"""The GPU engine against a stand-in for nvmolkit 0.6 that makes conformers, comes short, refuses and raises as told."""

import dataclasses
import importlib.metadata
import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from conformer_gen.chemistry.config import ConformerConfig, CurateConfig
from conformer_gen.chemistry.conformers import ConformerFailure, CuratedMolecule, generate_conformers
from conformer_gen.chemistry.identity import stable_hash
from conformer_gen.chemistry.nvmolkit_engine import generate_on_gpu, require_gpus, versions
from conformer_gen.config import BuildConfig
from conformer_gen.run import worker
from conformer_gen.run.worker import ConformerJob
from conformer_gen.run.workspace import plan_build
from conformer_gen.selection.pieces import CONFORMERS, FAILURES, Piece, done_pieces
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.reader import SourceConfig
from unimol_scale.errors import ConfigError, ConformerError
from unimol_scale.store.schema import ConformerOrigin, Layout, MoleculeRecord

CONFIG = ConformerConfig(count=2, engine="nvmolkit", gpus=(3, 5))
ALKANES = ["C" * n for n in range(2, 9)]
GPU_SEED_SHIFT = 17  # makes what the stand-in makes differ from what the CPU would


@dataclasses.dataclass
class Gpu:
    """What the stand-in does with a molecule, by its SMILES, and what was asked of it."""

    comes_short: set[str] = dataclasses.field(default_factory=set)
    refuses: set[str] = dataclasses.field(default_factory=set)
    refuses_to_minimise: set[str] = dataclasses.field(default_factory=set)
    broken: bool = False
    placed: list[str] = dataclasses.field(default_factory=list)
    batches: list[list[str]] = dataclasses.field(default_factory=list)
    gpus: set[int] = dataclasses.field(default_factory=set)

    def place(self, molecules, params, confsPerMolecule=1, maxIterations=-1, hardwareOptions=None) -> None:
        names = [Chem.MolToSmiles(Chem.RemoveHs(molecule)) for molecule in molecules]
        self.batches.append(names)
        self.gpus |= set(hardwareOptions.gpuIds)
        assert params.useRandomCoords
        assert not any(molecule.GetNumConformers() for molecule in molecules)
        for name, molecule in zip(names, molecules, strict=True):
            if self.broken or name in self.refuses:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            count = confsPerMolecule - (name in self.comes_short)
            rdDistGeom.EmbedMultipleConfs(molecule, count, randomSeed=GPU_SEED_SHIFT)
            self.placed.append(name)

    def minimise(self, molecules, maxIters=200, properties=None, hardwareOptions=None) -> list[list[float]]:
        for molecule in molecules:
            name = Chem.MolToSmiles(Chem.RemoveHs(molecule))
            assert rdForceFieldHelpers.MMFFHasAllMoleculeParams(molecule), f"nvmolkit raises for {name}"
            if name in self.refuses_to_minimise:
                raise ValueError("lacking MMFF atom types", {"none": [], "no_params": [0]})
        pairs = [rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(molecule, maxIters=maxIters) for molecule in molecules]
        return [[energy for _, energy in pair] for pair in pairs]


@dataclasses.dataclass
class HardwareOptions:
    preprocessingThreads: int = -1
    batchSize: int = -1
    batchesPerGpu: int = -1
    gpuIds: list[int] = dataclasses.field(default_factory=list)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    gpu = Gpu()
    parts = {
        "embedMolecules": {"EmbedMolecules": gpu.place},
        "mmffOptimization": {"MMFFOptimizeMoleculesConfs": gpu.minimise},
        "types": {"HardwareOptions": HardwareOptions},
    }
    monkeypatch.setitem(sys.modules, "nvmolkit", types.ModuleType("nvmolkit"))
    for name, content in parts.items():
        module = types.ModuleType(f"nvmolkit.{name}")
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, f"nvmolkit.{name}", module)
        monkeypatch.setattr(sys.modules["nvmolkit"], name, module, raising=False)
    return gpu


def molecule(smiles: str, **keys: object) -> CuratedMolecule:
    return CuratedMolecule(id=smiles, smiles=smiles, key=stable_hash(smiles), scaffold=1, **keys)


def run(smiles: list[str], config: ConformerConfig = CONFIG) -> dict[str, MoleculeRecord | ConformerFailure]:
    """Return the result of every molecule; the started positions must be the batch's, then each molecule's."""
    started = []
    batch = [(10 + at, molecule(text)) for at, text in enumerate(smiles)]
    results = list(generate_on_gpu(batch, config, 0, 3, lambda position, molecules=1: started.append(position)))
    assert started == [None, *range(10, 10 + len(smiles))]
    return dict(zip(smiles, results, strict=True))


def made_on_cpu(smiles: str, config: ConformerConfig = CONFIG) -> MoleculeRecord:
    record = generate_conformers(molecule(smiles), config, 0)
    assert isinstance(record, MoleculeRecord)
    return record


def is_from_cpu(record: MoleculeRecord | ConformerFailure) -> bool:
    assert isinstance(record, MoleculeRecord), record
    return np.array_equal(record.coordinates, made_on_cpu(record.smiles).coordinates)


def test_what_the_gpu_makes_is_a_record_like_any_other(gpu: Gpu) -> None:
    results = run([*ALKANES, "C[Se]CC"])
    for smiles, record in results.items():
        assert isinstance(record, MoleculeRecord)
        assert record.smiles == record.id == smiles
        assert not is_from_cpu(record)
        force_field = ConformerOrigin.UFF if "Se" in smiles else ConformerOrigin.MMFF
        assert record.conformer_origin.tolist() == [force_field] * 2
        np.testing.assert_allclose(record.energy.min(), made_on_cpu(smiles).energy.min(), atol=3)
    assert gpu.batches == [[*ALKANES, "CC[Se]C"]]
    assert gpu.gpus == {3}


def test_molecules_with_fewer_conformers_than_asked_go_to_the_cpu(gpu: Gpu) -> None:
    gpu.comes_short = {"CCC", "CCCCC"}
    results = run(ALKANES)
    assert {smiles for smiles, record in results.items() if is_from_cpu(record)} == gpu.comes_short


def test_a_molecule_that_raises_for_its_batch_goes_to_the_cpu_and_the_others_do_not(gpu: Gpu) -> None:
    gpu.refuses, gpu.refuses_to_minimise = {"CCCC"}, {"CCCCCCC"}
    results = run(ALKANES)
    assert {smiles for smiles, record in results.items() if is_from_cpu(record)} == {"CCCC", "CCCCCCC"}


def test_a_molecule_that_fails_on_the_cpu_too_is_a_failure(gpu: Gpu) -> None:
    gpu.refuses = {"N#[C][Co]([C]#N)([C]#N)([C]#N)([C]#N)[C]#N"}
    results = run(["CC", *gpu.refuses, "this is no SMILES"])
    assert isinstance(results["CC"], MoleculeRecord)
    reasons = [result.reason for result in results.values() if isinstance(result, ConformerFailure)]
    assert reasons == ["no_conformer", "not_reparsed"]


def test_a_gpu_that_stops_working_ends_the_build_with_a_cause(gpu: Gpu) -> None:
    gpu.broken = True
    with pytest.raises(ConformerError, match=r"raised for 7 of 7 molecules.* GPU 3 .*illegal memory access"):
        run(ALKANES)


def test_geometry_of_a_file_never_sees_the_gpu(gpu: Gpu) -> None:
    given = np.array([[[0, 0, 0], [1.5, 0, 0]]], np.float32)
    batch = [(0, molecule("CC", conformers=given, origins=(ConformerOrigin.DFT,)))]
    (record,) = generate_on_gpu(batch, CONFIG, 0, 3, lambda position, molecules=1: None)
    assert isinstance(record, MoleculeRecord)
    assert record.conformer_origin.tolist() == [ConformerOrigin.DFT]
    assert not gpu.batches


def test_a_build_is_refused_before_it_starts_where_nvmolkit_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvmolkit", None)
    with pytest.raises(ConfigError, match=r"pip install 'unimol-scale\[nvmolkit\]'"):
        require_gpus(CONFIG)


def test_a_store_names_the_version_of_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert versions(ConformerConfig()) == {}
    monkeypatch.setattr(importlib.metadata, "version", {"nvmolkit": "0.6.0"}.__getitem__)
    assert versions(CONFIG) == {"nvmolkit": "0.6.0"}
    monkeypatch.undo()
    if importlib.util.find_spec("nvmolkit") is None:
        with pytest.raises(ConfigError, match="nvmolkit cannot be imported here"):
            versions(CONFIG)


def test_the_plan_of_a_build_names_the_engine_and_not_the_gpus_of_this_machine() -> None:
    source = SourceConfig(name="sample")
    plans = [plan_build(BuildConfig(source=source, conformers=ConformerConfig(gpus=gpus))) for gpus in ((0,), (1, 2))]
    assert plans[0] == plans[1]
    assert plans[0]["conformer_recipe"]["engine"] == "rdkit"


def test_a_build_is_refused_before_it_starts_where_a_gpu_does_not_answer(gpu: Gpu) -> None:
    require_gpus(CONFIG)
    assert gpu.gpus == {3, 5}
    gpu.broken = True
    with pytest.raises(ConfigError, match="GPU 3 cannot make a conformer"):
        require_gpus(CONFIG)
    gpu.broken, gpu.comes_short = False, {"CCO"}
    with pytest.raises(ConfigError, match="GPU 3 cannot make a conformer of CCO: it gives no conformer"):
        require_gpus(CONFIG)


def test_a_piece_goes_to_the_gpu_as_a_whole_and_every_molecule_of_it_is_accounted_for(gpu: Gpu, tmp_path: Path) -> None:
    gpu.comes_short, gpu.refuses = {"CCC"}, {"CCCC", "N#[C][Co]([C]#N)([C]#N)([C]#N)([C]#N)[C]#N"}
    smiles = [*ALKANES, "[Co](C#N)(C#N)(C#N)(C#N)(C#N)C#N"]
    positions = range(len(smiles))
    rows = [SourceMolecule(id=str(at), smiles=text) for at, text in enumerate(smiles)]
    # The second chunk takes the second GPU.
    piece = Piece(1, 0, len(smiles))
    worker.curate_piece(tmp_path, piece, positions, rows, CurateConfig())
    job = ConformerJob(config=CONFIG, seed=0, layout=Layout())
    assert worker.generate_piece(tmp_path, piece, positions, (), job) == len(smiles)
    (done,) = done_pieces(tmp_path, CONFORMERS)
    assert done.counts == (len(ALKANES), 0, 1)
    assert pq.read_table(done.path(tmp_path, FAILURES)).column("reason").to_pylist() == ["no_conformer"]
    assert len(gpu.batches[0]) == len(smiles)
    assert gpu.gpus == {5}
