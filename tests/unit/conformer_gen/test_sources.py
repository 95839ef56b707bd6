"""Every way in which a row of molecules is written, and what is said when a file is something else."""

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from conformer_gen.sources.reader import SourceConfig, SourceName, read_source
from unimol_scale.errors import ConfigError, SourceError


def rows(name: SourceName, *paths: Path, **keys: str) -> list[tuple[str, str]]:
    config = SourceConfig(name=name, input=paths, **keys)
    return [(row.id, row.smiles) for row in read_source(config)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("smiles zinc_id\nCCO 12\nCCN 13\n", [("12", "CCO"), ("13", "CCN")]),
        ("CCO 12\nCCN 13", [("12", "CCO"), ("13", "CCN")]),
        ("smiles\tzinc_id\tinchikey\tfeatures\nCCO\t12\tKEY\t\n", [("12", "CCO")]),
        ("smiles,zinc_id\nCCO,12\n", [("12", "CCO")]),
        ("zinc_id,smiles\n12,CCO\n", [("12", "CCO")]),
        ("smiles zinc_id\r\n\r\nCCO 12\r\n   \r\nCCN 13\r\n", [("12", "CCO"), ("13", "CCN")]),
        ("CCO\nCCN 13\n", [("tranche:1", "CCO"), ("13", "CCN")]),
        ("\ufeffsmiles zinc_id\nCCO 12\n", [("12", "CCO")]),
        ("# a comment\nCCO 12\n", [("12", "CCO")]),
        ("", []),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_smiles_files_in_every_dress(tmp_path: Path, text: str, expected: list[tuple[str, str]], packed: bool) -> None:
    path = tmp_path / ("tranche.smi.gz" if packed else "tranche.smi")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert rows("zinc20", path) == expected
    assert rows("zinc20", tmp_path) == expected


def test_real_tranches(shared_data: Path) -> None:
    folder = shared_data / "zinc20"
    old, new = rows("zinc20", folder / "AAAA-2018.smi"), rows("zinc20", folder / "ADAC.txt")
    assert len(old) == 4144
    assert old[0] == ("ZINC000000001084", "Cn1cnc2c1c(=O)n(C)c(=O)n2C")
    assert new[0] == ("39053618", "Cc1ncc2ccn(C)c2n1")
    assert all(Chem.MolFromSmiles(smiles) is not None for _, smiles in old[:200] + new[:200])


def test_the_sample_is_whole() -> None:
    sample = rows("sample")
    assert len(sample) == 4999
    assert sample[0] == ("1", "CC1=CC(=O)C=CC1=O")


def test_csv_and_parquet_find_or_take_their_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('label,SMILES,name\n1,"CCO",ethanol\n,,\n2,CCN,"amine, a"\n')
    expected = [("ethanol", "CCO"), ("a:2", ""), ("amine, a", "CCN")]
    assert rows("csv", tmp_path / "a.csv") == expected
    table = pa.table({"drug": ["CCO", None], "cid": [7, 8]})
    pq.write_table(table, tmp_path / "b.parquet")
    assert rows("parquet", tmp_path / "b.parquet", smiles_column="drug", id_column="cid") == [("7", "CCO"), ("8", "")]
    with pytest.raises(SourceError, match="none of the columns drug, cid"):
        rows("parquet", tmp_path / "b.parquet")
    with pytest.raises(SourceError, match="did you mean 'SMILES'"):
        rows("csv", tmp_path / "a.csv", smiles_column="SMILE")


def test_sdf_yields_one_block_a_record_even_if_the_last_is_unterminated(tmp_path: Path) -> None:
    blocks = []
    for name, smiles in (("first", "CCO"), ("", "CCN")):
        molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
        rdDistGeom.EmbedMolecule(molecule, 1)
        molecule.SetProp("_Name", name)
        blocks.append(Chem.MolToMolBlock(molecule))
    (tmp_path / "two.sdf").write_text(f"{blocks[0]}$$$$\n{blocks[1]}")
    read = list(read_source(SourceConfig(name="sdf", input=(tmp_path,))))
    assert [row.id for row in read] == ["first", "two:2"]
    assert [Chem.MolFromMolBlock(row.block).GetNumAtoms() for row in read] == [3, 3]


def test_what_is_not_a_source_says_so(tmp_path: Path) -> None:
    (tmp_path / "page.smi").write_text("\n<!DOCTYPE html>\n<html></html>")
    with pytest.raises(SourceError, match="web page"):
        rows("zinc20", tmp_path / "page.smi")
    with pytest.raises(SourceError, match="does not exist"):
        rows("zinc20", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"holds no \.smi, \.txt, \.csv file"):
        rows("zinc20", tmp_path / "empty")
    (tmp_path / "H23P130.smi").write_text("CCO 1\n")
    with pytest.raises(SourceError, match="ZINC22"):
        rows("zinc20", tmp_path / "H23P130.smi")
    (tmp_path / "cut.smi.gz").write_bytes(gzip.compress(b"CCO 1\n" * 5000)[:40])
    with pytest.raises(SourceError, match="can not be read to its end"):
        rows("zinc20", tmp_path / "cut.smi.gz")


def test_a_source_without_its_input_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="needs --input"):
        SourceConfig(name="zinc20")
    with pytest.raises(ConfigError, match="takes no --input"):
        SourceConfig(name="sample", input=(Path("x"),))
