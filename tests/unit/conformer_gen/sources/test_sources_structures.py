"""Sources with geometry: SDF, PCQM4Mv2 in both forms, QM9 in three; geometry and labels come from the files."""

import gzip
import io
import math
import tarfile
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from conformer_gen.chemistry.config import CurateConfig
from conformer_gen.chemistry.curate import Curated, curate_molecule
from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.reader import check_source, label_units, read_source
from unimol_scale.errors import SourceError
from unimol_scale.store.schema import ConformerOrigin

SMILES = ("OCCN", "CC(C)=O", "c1ccoc1")


def placed(smiles: str) -> Chem.Mol:
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(molecule, randomSeed=1) == 0
    return molecule


def sdf(*smiles: str, names: tuple[str, ...] = (), fields: str = "") -> str:
    text = ""
    for number, one in enumerate(smiles):
        molecule = placed(one)
        molecule.SetProp("_Name", names[number] if names else "")
        text += Chem.MolToMolBlock(molecule) + fields.format(number) + "$$$$\n"
    return text


def tar_gz(name: str, content: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content.encode())
        archive.addfile(entry, io.BytesIO(content.encode()))
    return buffer.getvalue()


def config_of(name: str, *paths: Path, **keys: object) -> SourceConfig:
    return SourceConfig(name=name, input=tuple(map(str, paths)), **keys)


def read(name: str, *paths: Path, **keys: object) -> list[SourceMolecule]:
    return list(read_source(config_of(name, *paths, **keys)))


def curated(row: SourceMolecule) -> Curated:
    result = curate_molecule(row, CurateConfig())
    assert isinstance(result, Curated), result
    return result


@pytest.mark.parametrize("suffix", [".sdf", ".sdf.gz", ".tar.gz"])
def test_sdf_plain_packed_and_archived(tmp_path: Path, suffix: str) -> None:
    text = sdf("CCO", "CCN", names=("first", ""))
    content = {".sdf": text.encode(), ".sdf.gz": gzip.compress(text.encode()), ".tar.gz": tar_gz("two.sdf", text)}
    (tmp_path / f"two{suffix}").write_bytes(content[suffix])
    rows = read("sdf", tmp_path)
    assert [row.id for row in rows] == ["first", "two:2"]
    assert [curated(row).smiles for row in rows] == ["CCO", "CCN"]
    assert {row.origin for row in rows} == {ConformerOrigin.FILE}


def test_an_sdf_record_that_is_not_whole_is_a_problem_and_one_without_terminator_is_not(tmp_path: Path) -> None:
    text = sdf("CCO", "CCN")
    (tmp_path / "a.sdf").write_text(text.removesuffix("$$$$\n"))
    assert [row.problem for row in read("sdf", tmp_path)] == ["", ""]
    (tmp_path / "a.sdf").write_text(text[: text.rindex("M  END")])
    assert [bool(row.problem) for row in read("sdf", tmp_path)] == [False, True]
    (tmp_path / "a.sdf").write_bytes(gzip.compress(sdf(*["CCO"] * 40).encode())[:-30])
    *rows, last = read("sdf", tmp_path)
    assert len(rows) > 5
    assert last.id == "a:truncated"


def test_data_fields_of_an_sdf_are_labels(tmp_path: Path) -> None:
    (tmp_path / "a.sdf").write_text(sdf("CCO", "CCN", fields=">  <gap>  (1)\n1.{}\n\n> <note>\nx\n\n"))
    assert [row.labels for row in read("sdf", tmp_path, labels={"gap": "eV"})] == [(1.0,), (1.1,)]
    with pytest.raises(SourceError, match="record 1, field 'note' is 'x'"):
        check_source(config_of("sdf", tmp_path, labels={"note": ""}))
    with pytest.raises(SourceError, match=r"no record of .* has the data field 'gab'; did you mean 'gap'"):
        check_source(config_of("sdf", tmp_path, labels={"gab": "eV"}))


def write_pcqm(folder: Path, structures: str, rows: int = 4) -> SourceConfig:
    lines = [*(f"{at},{smiles},{5 + at}" for at, smiles in enumerate(SMILES)), "3,CCS,", "4,CCCl,"][:rows]
    (folder / "raw").mkdir(exist_ok=True)
    (folder / "raw" / "data.csv.gz").write_bytes(
        gzip.compress(("idx,smiles,homolumogap\n" + "\n".join(lines) + "\n").encode())
    )
    (folder / "pcqm4m-v2-train.sdf.tar.gz").write_bytes(tar_gz("pcqm4m-v2-train.sdf", structures))
    return config_of("pcqm4mv2", folder)


def test_pcqm4mv2_takes_geometry_from_the_sdf_and_the_gap_from_the_csv(tmp_path: Path) -> None:
    config = write_pcqm(tmp_path, sdf(*SMILES))
    assert label_units(config) == {"gap": "eV"}
    assert config.kind.has_geometry
    check_source(config)
    rows = list(read_source(config))
    assert [row.id for row in rows] == ["0", "1", "2", "3"]
    assert [row.origin for row in rows] == [ConformerOrigin.DFT] * 3 + [None]
    assert [row.labels[0] for row in rows] == pytest.approx([5, 6, 7, math.nan], nan_ok=True)
    for smiles, row in zip(SMILES, rows, strict=False):
        result = curated(row)
        assert result.smiles == Chem.CanonSmiles(smiles)
        assert result.origins == (ConformerOrigin.DFT,)
    assert curated(rows[3]).conformers is None  # of a test molecule they are made


def test_pcqm4mv2_files_that_do_not_fit_together_are_found_out(tmp_path: Path) -> None:
    shifted = list(read_source(write_pcqm(tmp_path, sdf(*SMILES[1:]))))
    assert [getattr(curate_molecule(row, CurateConfig()), "reason", "") for row in shifted[:2]] == [
        "geometry_mismatch"
    ] * 2
    too_many = list(read_source(write_pcqm(tmp_path, sdf(*SMILES), rows=2)))
    assert [bool(row.problem) for row in too_many] == [False, False, True]
    (tmp_path / "second.sdf").write_text(sdf("CCO"))
    with pytest.raises(SourceError, match="one CSV and at most one SDF"):
        read("pcqm4mv2", tmp_path)


def test_pcqm4mv2_without_one_record_gives_no_molecule_the_geometry_of_its_neighbour(tmp_path: Path) -> None:
    smiles = ["CCCO", "CC(C)O", "COCC", "C[C@H](F)Cl", "C[C@@H](F)Cl", "CCN"]  # isomers side by side
    table = tmp_path / "data.csv"
    table.write_text("idx,smiles,homolumogap\n" + "".join(f"{at},{one},{at}\n" for at, one in enumerate(smiles)))
    for missing in range(5):
        (tmp_path / "train.sdf").write_text(sdf(*(one for at, one in enumerate(smiles) if at != missing)))
        results = [curate_molecule(row, CurateConfig()) for row in read("pcqm4mv2", tmp_path)]
        kept = [result.smiles if isinstance(result, Curated) else result.reason for result in results]
        assert kept[missing:5] == ["geometry_mismatch"] * (5 - missing)
        assert kept[:missing] == [Chem.CanonSmiles(one) for one in smiles[:missing]]
        assert kept[5] == "CCN"  # without geometry, as the test molecules are


def test_pcqm4mv2_rows_after_a_cut_in_the_sdf_are_problems_not_molecules_without_geometry(tmp_path: Path) -> None:
    text = sdf(*SMILES)
    rows = list(read_source(write_pcqm(tmp_path, text[: text.rindex("M  END")])))
    assert [bool(row.problem) for row in rows] == [False, False, True, True]


def test_pcqm4mv2_as_extended_smiles(tmp_path: Path, shared_data: Path) -> None:
    path = shared_data / "pcqm4mv2" / "pcqm4mv2-2k.csv"
    rows = read("pcqm4mv2", path)
    assert len(rows) == 1999
    assert rows[0].labels == pytest.approx((3.0476751256,))
    results = [curated(row) for row in rows[:100]]
    for result in results:
        assert result.conformers is not None
        full = Chem.AddHs(Chem.MolFromSmiles(result.smiles))
        assert result.conformers.shape == (1, full.GetNumAtoms(), 3)
        assert max(bond_lengths(full, result.conformers[0])) < 2.6


def bond_lengths(molecule: Chem.Mol, positions: np.ndarray) -> list[float]:
    ends = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()]
    return [float(np.linalg.norm(positions[first] - positions[last])) for first, last in ends]


def xyz(index: int, smiles: str) -> str:
    molecule = placed(smiles)
    values = "157.7\t157.71\t157.706\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749"
    lines = [
        str(molecule.GetNumAtoms()),
        f"gdb {index}\t{values}\t-40.47893\t-40.476062\t-4.0475117*^1\t-40.498597\t6.469\t",
    ]
    positions = molecule.GetConformer().GetPositions()
    for atom, (x, y, z) in zip(molecule.GetAtoms(), positions, strict=True):
        lines.append(f"{atom.GetSymbol()}\t{x:.10f}\t{y:.10f}\t{z:.4f}*^0\t-0.5")
    return "\n".join([*lines, "1341.307\t1341.3284", f"{smiles}\t{smiles}\t", "InChI=1S/x\tInChI=1S/x"]) + "\n"


def test_qm9_as_xyz_archive_folder_and_file(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:bz2") as archive:
        for index, smiles in enumerate(SMILES, start=1):
            content = xyz(index, smiles).encode()
            entry = tarfile.TarInfo(f"dsgdb9nsd_{index:06d}.xyz")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "dsgdb9nsd.xyz.tar.bz2").write_bytes(buffer.getvalue())
    (tmp_path / "folder").mkdir()
    for index, smiles in enumerate(SMILES, start=1):
        (tmp_path / "folder" / f"dsgdb9nsd_{index:06d}.xyz").write_text(xyz(index, smiles))
    for place in (tmp_path / "archive", tmp_path / "folder"):
        config = config_of("qm9", place)
        check_source(config)
        rows = list(read_source(config))
        assert [row.id for row in rows] == ["gdb_1", "gdb_2", "gdb_3"]
        labels = dict(zip(label_units(config), rows[0].labels, strict=True))
        assert (labels["mu"], labels["gap"], labels["h298"], labels["cv"]) == (0.0, 0.5048, -40.475117, 6.469)
        for smiles, row in zip(SMILES, rows, strict=True):
            result = curated(row)
            assert result.smiles == Chem.CanonSmiles(smiles)
            assert result.origins == (ConformerOrigin.DFT,)
    assert label_units(config)["h298"] == "Ha"


def test_qm9_drops_what_its_authors_could_not_characterize_but_counts_it(tmp_path: Path) -> None:
    for index, smiles in enumerate(SMILES, start=1):
        (tmp_path / f"{index}.xyz").write_text(xyz(index, smiles))
    (tmp_path / "uncharacterized.txt").write_text("====\nIndex   B3LYP  Corina\n       2  CC(C)=O   CC(O)=C\n")
    (tmp_path / "readme.txt").write_text("1 molecule a file\n")
    assert [bool(row.problem) for row in read("qm9", tmp_path)] == [False, True, False]


def test_an_xyz_file_in_another_form_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("3\nwater\nO 0 0 0\nH 0 0 1\nH 0 1 0\n")
    (tmp_path / "b.xyz").write_text(xyz(7, "CCO")[:200])
    (tmp_path / "c.xyz").write_text(xyz(8, "CCO"))
    rows = read("qm9", tmp_path)
    assert [bool(row.problem) for row in rows] == [True, True, False]


def test_qm9_as_sdf_beside_csv(tmp_path: Path) -> None:
    header = ["mol_id", *label_units(config_of("qm9", tmp_path)), "u0_atom"]
    names = tuple(f"gdb_{number}" for number in (1, 2, 3))
    table = "\n".join([",".join(header), *(",".join([name, *map(str, range(16))]) for name in names)])
    (tmp_path / "gdb9.sdf.csv").write_text(table + "\n")
    (tmp_path / "gdb9.sdf").write_text(sdf(*SMILES, names=names))
    rows = read("qm9", tmp_path)
    assert [row.id for row in rows] == list(names)
    assert rows[1].labels == tuple(range(15))
    assert [curated(row).smiles for row in rows] == [Chem.CanonSmiles(smiles) for smiles in SMILES]
    (tmp_path / "gdb9.sdf").write_text(sdf(*SMILES, names=("gdb_1", "gdb_3", "gdb_4")))
    with pytest.raises(SourceError, match=r"row 2 .*'gdb_2'.* record 2 .*'gdb_3'.*do not belong together"):
        read("qm9", tmp_path)
    (tmp_path / "gdb9.sdf.csv").unlink()
    with pytest.raises(SourceError, match="give both or neither"):
        read("qm9", tmp_path)


def test_qm9_as_parquet(shared_data: Path) -> None:
    config = config_of("qm9", shared_data / "qm9")
    rows = list(read_source(config))
    assert len(rows) == 14_170
    labels = dict(zip(label_units(config), rows[0].labels, strict=True))
    assert (labels["A"], labels["gap"], labels["g298"]) == (17.04187, 0.403, -197.659721)
    for row in rows[::200]:
        result = curated(row)
        full = Chem.AddHs(Chem.MolFromSmiles(result.smiles))
        assert result.conformers is not None
        assert result.conformers.shape == (1, full.GetNumAtoms(), 3)
        assert max(bond_lengths(full, result.conformers[0])) < 1.8


def test_targets_of_uni_mols_records_are_labels_if_asked_for(shared_data: Path) -> None:
    path = shared_data / "uni-mol-lmdb" / "clintox_valid.lmdb"
    rows = read("unimol-lmdb", path, labels={"target_0": "", "target_1": ""})
    assert len(rows) == 148
    assert {label for row in rows for label in row.labels} == {0.0, 1.0}
    assert {row.labels for row in read("unimol-lmdb", path)} == {()}
    with pytest.raises(SourceError, match="has the targets target_0, target_1"):
        check_source(config_of("unimol-lmdb", path, labels={"toxic": ""}))
