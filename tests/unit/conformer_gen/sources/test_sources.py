"""Every way in which a row of molecules is written, and what is said when a file is something else."""

import gzip
from pathlib import Path

import pytest
from rdkit import Chem

from conformer_gen.config import BuildConfig
from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.reader import read_source
from unimol_scale import config as strict
from unimol_scale.errors import ConfigError, SourceError

REPOSITORY = Path(__file__).parents[4]


def rows(name: str, *paths: Path, **keys: str) -> list[tuple[str, str]]:
    config = SourceConfig(name=name, input=tuple(map(str, paths)), **keys)
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
        ("smiles\tzinc_id\n\t12\nCCN\t13\n", [("12", ""), ("13", "CCN")]),
        ("CCO, 12\nCCN, 13\n", [("12", "CCO"), ("13", "CCN")]),
        ("CCO alcohol, common\n", [("alcohol,", "CCO")]),
        ("C1CC1 |(0,1,;1,0,;1,1,)| ring\nC1CC1 |(0,1,;1,0,;1,1,)|\n", [("ring", "C1CC1"), ("tranche:2", "C1CC1")]),
        ("structure id\nCCO 12\n", [("12", "CCO")]),
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


def test_columns_of_lines_by_number_or_name(tmp_path: Path) -> None:
    (tmp_path / "a.smi").write_text("first\tCCO\nsecond\tCCN\n")
    assert rows("smiles", tmp_path, smiles_column="2") == [("first", "CCO"), ("second", "CCN")]
    with pytest.raises(SourceError, match="give the column's number"):
        rows("smiles", tmp_path, smiles_column="molecule")
    (tmp_path / "a.smi").write_text("name ligand\nfirst CCO\n")
    assert rows("smiles", tmp_path, smiles_column="ligand") == [("first", "CCO")]


def test_what_no_parser_should_see_is_a_problem_of_its_row(tmp_path: Path) -> None:
    (tmp_path / "a.smi").write_bytes(b"CCO 1\n" * 1000 + b"C\xff\xfeC 2\nCC\x00N 3\nCCN \xe9thyl\n")
    read = list(read_source(SourceConfig(name="smiles", input=(str(tmp_path / "a.smi"),))))[1000:]
    assert [bool(row.problem) for row in read] == [True, True, False]
    assert read[2].smiles == "CCN"


def test_a_last_line_without_all_columns_of_the_header_is_cut(tmp_path: Path) -> None:
    (tmp_path / "a.smi").write_text("smiles zinc_id\nCCO 12\nCC\nCCCC")
    read = list(read_source(SourceConfig(name="zinc20", input=(str(tmp_path / "a.smi"),))))
    assert [(row.id, bool(row.problem)) for row in read] == [("12", False), ("a:2", False), ("a:3", True)]


def test_the_limit_is_of_all_files_together(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.smi").write_text("C 1\nCC 2\n")
    config = SourceConfig(name="smiles", input=(str(tmp_path),), limit=3)
    assert [row.smiles for row in read_source(config)] == ["C", "CC", "C"]


@pytest.mark.parametrize(
    ("name", "keys", "num_rows"),
    [
        ("canonSmiles.long.smi", {}, 5289),
        ("chembl_1k.smi", {}, 999),
        ("inorganic_stereo.smi", {}, 105),
        ("macro.smi", {}, 478),
        ("ntp_smiles.txt", {"smiles_column": "2"}, 444),
        ("salts.smi", {"smiles_column": "2"}, 163),
    ],
)
def test_odd_files_are_read_to_their_last_row(
    shared_data: Path, name: str, keys: dict[str, str], num_rows: int
) -> None:
    read = rows("smiles", shared_data / "odd" / name, **keys)
    assert len(read) == num_rows
    assert sum(Chem.MolFromSmiles(smiles) is not None for _, smiles in read[:100]) >= 75


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
    (tmp_path / "binary.smi").write_bytes(b"\x93\0\0\0\n")
    with pytest.raises(SourceError, match="is not text"):
        rows("zinc20", tmp_path / "binary.smi")
    (tmp_path / "packed.smi").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(SourceError, match="zip archive"):
        rows("zinc20", tmp_path / "packed.smi")


def test_a_source_without_its_input_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="needs --input"):
        SourceConfig(name="zinc20")
    with pytest.raises(ConfigError, match="takes no --input"):
        SourceConfig(name="sample", input=("x",))
    with pytest.raises(ConfigError, match="labels can be chosen for csv"):
        SourceConfig(name="qm9", input=("x",), labels={"gap": "Ha"})
    with pytest.raises(ConfigError, match="smiles_column and id_column are for"):
        SourceConfig(name="sdf", input=("x",), smiles_column="smiles")


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs" / "build").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_build_file_is_a_valid_configuration(path: Path) -> None:
    config = strict.build(BuildConfig, *strict.read_yaml(path))
    special = {
        "uni-mol2": ["unimol-lmdb", "zinc20"],
        "zinc20-drugs": ["zinc20"],
        "zinc20-two-sizes": ["zinc20", "zinc20"],
    }
    names = special.get(path.stem, [path.stem])
    assert [source.name for source in config.each_source] == names
    if path.stem == "sample":  # the file that shows every key with its default
        assert strict.to_tree(config) == strict.to_tree(BuildConfig(source=SourceConfig(name="sample"))) | {
            "output": "data/sample"
        }


def test_the_recipe_of_the_paper_has_its_own_file_and_the_example_says_so() -> None:
    folder = REPOSITORY / "configs" / "build"
    assert "not the recipe of the Uni-Mol2 paper" in (folder / "zinc20.yaml").read_text()
    config = strict.build(BuildConfig, *strict.read_yaml(folder / "uni-mol2.yaml"))
    assert [source.name for source in config.sources] == ["unimol-lmdb", "zinc20"]
    assert (config.curate.target, config.curate.valid_count) == (838_000_000, 520_000)
    assert (config.curate.temperature, config.curate.split, config.conformers.count) == (0.005, "random", 1)


def test_a_column_can_be_given_by_its_number_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "named.smi"
    path.write_text("ethanol\tCCO\nacetic acid\tCC(=O)O\n")
    tree = {"name": "smiles", "input": [str(path)], **strict.parse_overrides(["smiles_column=2"])}
    rows = read_source(strict.build(SourceConfig, tree, strict.Origin(name="command line")))
    assert [(row.id, row.smiles) for row in rows] == [("ethanol", "CCO"), ("acetic acid", "CC(=O)O")]
