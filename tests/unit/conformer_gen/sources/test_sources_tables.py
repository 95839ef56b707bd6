"""CSV and Parquet: columns found or given, labels with their units, rows whose columns are mixed up."""

import csv
import gzip
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit import Chem, rdBase

from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.reader import check_source, label_units, read_source
from unimol_scale.errors import SourceError


def config_of(path: Path, **keys: object) -> SourceConfig:
    return SourceConfig(name="parquet" if path.suffix == ".parquet" else "csv", input=(str(path),), **keys)


def read(path: Path, **keys: object) -> list[SourceMolecule]:
    return list(read_source(config_of(path, **keys)))


def names_and_smiles(path: Path, **keys: object) -> list[tuple[str, str]]:
    return [(row.id, row.smiles) for row in read(path, **keys)]


def test_csv_and_parquet_find_or_take_their_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('label,SMILES,name\n1,"CCO",ethanol\n,,\n2,CCN,"amine, a"\n')
    assert names_and_smiles(tmp_path / "a.csv") == [("ethanol", "CCO"), ("a:2", ""), ("amine, a", "CCN")]
    table = pa.table({"drug": ["CCO", None], "cid": [7, 8]})
    pq.write_table(table, tmp_path / "b.parquet")
    keys = {"smiles_column": "drug", "id_column": "cid"}
    assert names_and_smiles(tmp_path / "b.parquet", **keys) == [("7", "CCO"), ("8", "")]
    with pytest.raises(SourceError, match="none of the columns drug, cid"):
        read(tmp_path / "b.parquet")
    with pytest.raises(SourceError, match="did you mean 'SMILES'"):
        read(tmp_path / "a.csv", smiles_column="SMILE")


@pytest.mark.parametrize(
    "text",
    [
        "smiles;name;y\nCCO;a, b;1\n",
        'smiles;"note, long, very long, in words, unread";name;y\nCCO;;a, b;1\n',
        "smiles\tname\ty\nCCO\ta, b\t1\n",
        'smiles,name,y\r\n"CCO","a, b",1\r\n\r\n',
        '\ufeff"smiles","name",y\nCCO,"a, b",1',
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_csv_in_every_dress(tmp_path: Path, text: str, packed: bool) -> None:
    path = tmp_path / ("a.csv.gz" if packed else "a.csv")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    (row,) = read(path, labels={"y": "eV"})
    assert (row.id, row.smiles, row.labels) == ("a, b", "CCO", (1.0,))


def test_several_columns_that_may_be_smiles_are_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("canonical_smiles,Structure,y\nCC,OCC,1\n")
    with pytest.raises(SourceError, match=r"the columns canonical_smiles, Structure may all be SMILES.*smiles_column"):
        read(path)
    assert [row.smiles for row in read(path, smiles_column="Structure")] == ["OCC"]
    path.write_text("smiles,smiles,y\nCC,OCC,1\n")
    for wanted in (None, "smiles"):
        with pytest.raises(SourceError, match="rename all but one"):
            read(path, smiles_column=wanted)


def test_a_table_without_header_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("CCO,1\nCCN,2\n")
    with pytest.raises(SourceError, match="a header in the first line"):
        check_source(config_of(tmp_path / "a.csv"))


def test_labels_are_numbers_or_missing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("smiles,y,z\nCCO,1.5e-3,\nCCN,NA,nan\nCCC, 2 ,None\n")
    config = config_of(tmp_path / "a.csv", labels={"z": "K", "y": "kcal/mol"})
    assert label_units(config) == {"z": "K", "y": "kcal/mol"}
    labels = [row.labels for row in read_source(config)]
    assert [y for _, y in labels] == pytest.approx([0.0015, math.nan, 2.0], nan_ok=True)
    assert all(math.isnan(z) for z, _ in labels)
    pq.write_table(pa.table({"smiles": ["C", "CC"], "y": [None, True], "z": ["1", ""]}), tmp_path / "a.parquet")
    labels = [row.labels for row in read(tmp_path / "a.parquet", labels={"y": "", "z": ""})]
    assert labels[0] == pytest.approx((math.nan, 1.0), nan_ok=True)
    assert labels[1] == pytest.approx((1.0, math.nan), nan_ok=True)


@pytest.mark.parametrize("cell", ["high", "inf", "1,5", "> 3"])
def test_a_label_that_is_no_number_is_found_before_anything_is_built(tmp_path: Path, cell: str) -> None:
    (tmp_path / "a.csv").write_text(f'smiles,y\nCCO,1\nCCN,"{cell}"\n')
    with pytest.raises(SourceError, match=rf"a\.csv: row 2 \(line 3\), column 'y' is '{cell}', which is not a number"):
        check_source(config_of(tmp_path / "a.csv", labels={"y": "eV"}))
    check_source(config_of(tmp_path / "a.csv"))
    with pytest.raises(SourceError, match="has no column 'Y'; valid: smiles, y"):
        check_source(config_of(tmp_path / "a.csv", labels={"Y": "eV"}))


def test_a_row_with_too_many_or_too_few_fields_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("smiles,y,note\nCCO,1,\nCCN,a,b,c\nCCC\nCCCC,2\nCCCCC,3,x,,\n")
    rows = read(tmp_path / "a.csv", labels={"y": "eV"})
    assert [bool(row.problem) for row in rows] == [False, True, True, False, False]
    assert "row 2 (line 3) of" in rows[1].problem
    assert "4 fields, but the header has 3" in rows[1].problem


def test_a_quote_that_is_never_closed_loses_its_own_row_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('smiles,name\nCCO,1\nCCN,"2\nCCC,3\nCCCC,4\n')
    rows = read(tmp_path / "a.csv")
    assert [(row.id, bool(row.problem)) for row in rows] == [("1", False), ("a:2", True), ("3", False), ("4", False)]
    assert "row 2 (line 3): a quote in this line is not closed" in rows[1].problem
    (tmp_path / "a.csv").write_text('name,smiles\n1,CCO\n2,"CCN\n' + "3,CCC\n" * 50_000)
    rows = read(tmp_path / "a.csv")
    assert [at for at, row in enumerate(rows) if row.problem] == [1]
    assert len(rows) == 2 + 50_000


@pytest.mark.parametrize(
    "lines",
    [
        ['CCN,"2', "CCC,3", 'CCCC,"4"'],  # closed by the next quote
        ['CCN,"2', "CCC,3", 'CCCC,4"'],  # closed at the end of a later row
        ['CCN,"2', "CCC,3", 'CCCC,"'],
        ['"CCN,2', "CCC,3", 'CCCC,4"'],
    ],
)
def test_a_quote_that_a_later_row_closes_swallows_none_between(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "a.csv").write_text("\n".join(["smiles,name", "CCO,1", *lines, "CCCCC,5"]) + "\n")
    rows = read(tmp_path / "a.csv")
    assert [row.smiles for row in rows if not row.problem][:2] == ["CCO", "CCC"]
    assert rows[-1].smiles == "CCCCC"
    assert len(rows) == 5
    assert "line 3" in rows[1].problem


def test_text_of_several_lines_in_quotes_is_one_field(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('smiles,name\nCCO,"a, b\nmade by A, in 1999\n""c"""\nCCN,d\n')
    assert names_and_smiles(tmp_path / "a.csv") == [('a, b\nmade by A, in 1999\n"c"', "CCO"), ("d", "CCN")]


def test_a_header_is_a_record_and_not_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('smiles,"solubility\n(log mol/L)",method\nCCO,1.5,a\nCCC,0.5,b\n')
    rows = read(tmp_path / "a.csv", labels={"solubility (log mol/L)": "log M"})
    assert [(row.smiles, row.labels, row.problem) for row in rows] == [("CCO", (1.5,), ""), ("CCC", (0.5,), "")]
    (tmp_path / "a.csv").write_text('smiles,"solubility\nCCO,1.5\nCCC,0.5\n')
    with pytest.raises(SourceError, match="the header in line 1 cannot be read: a quote in it is not closed"):
        read(tmp_path / "a.csv")


def test_bytes_in_parquet_are_text_and_nested_columns_one_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for kind in (pa.binary(), pa.large_binary(), pa.binary(3)):
        pq.write_table(pa.table({"smiles": pa.array([b"CCO", None], kind), "id": pa.array([b"one", b"two"])}), path)
        assert names_and_smiles(path) == [("one", "CCO"), ("two", "")]
    pq.write_table(pa.table({"smiles": [["CCO", "C"]], "y": [{"a": 1.0}], "n": [3]}), path)
    with pytest.raises(SourceError, match=r"column 'smiles' holds list<.*>, not one value per row"):
        check_source(config_of(path))
    with pytest.raises(SourceError, match="column 'n' holds int64, not SMILES"):
        check_source(config_of(path, smiles_column="n"))
    pq.write_table(pa.table({"smiles": ["CCO"], "y": [{"a": 1.0}]}), path)
    with pytest.raises(SourceError, match=r"column 'y' holds struct<.*>, not one value per row"):
        check_source(config_of(path, labels={"y": ""}))


def test_a_csv_that_is_cut_off_keeps_whole_rows_and_tells(tmp_path: Path) -> None:
    packed = gzip.compress(("smiles,y\n" + "".join(f"{'C' * (n % 97)}O,{n}\n" for n in range(9000))).encode())
    (tmp_path / "a.csv.gz").write_bytes(packed[: len(packed) // 2])
    config = config_of(tmp_path / "a.csv.gz", labels={"y": "eV"})
    check_source(config)
    *rows, last = read_source(config)
    assert len(rows) > 1000
    assert [row.labels[0] for row in rows] == list(range(len(rows)))
    assert last.problem


def test_what_is_no_parquet_file_says_so(tmp_path: Path) -> None:
    pq.write_table(pa.table({"smiles": ["C"] * 1000}), tmp_path / "whole.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "whole.parquet").read_bytes()[:-20])
    with pytest.raises(SourceError, match="not a Parquet file, or not all of one"):
        read(tmp_path / "cut.parquet")


def test_real_tables(shared_data: Path) -> None:
    corrupt = read(shared_data / "odd" / "micro_ZINC_corrupt.csv", smiles_column="SMILES1")
    assert len(corrupt) == 200
    # Some are no SMILES; curation refuses those, reading must not.
    with (shared_data / "odd" / "micro_ZINC_corrupt.csv").open(encoding="utf-8", newline="") as file:
        assert [row.smiles for row in corrupt] == [row["SMILES1"] for row in csv.DictReader(file)]
    with rdBase.BlockLogs():
        assert sum(Chem.MolFromSmiles(row.smiles) is None for row in corrupt) == 3
    sizes = {"BBBP": 2050, "ESOL_delaney-processed": 1128, "FreeSolv_SAMPL": 642, "Lipophilicity": 4200, "bace": 1513}
    for name, size in sizes.items():
        rows = read(shared_data / "moleculenet" / f"{name}.csv")
        assert len(rows) == size
        assert not any(row.problem for row in rows)
    tox = read(shared_data / "moleculenet" / "tox21.csv", labels={"NR-AR": "", "SR-p53": ""})
    assert len(tox) == 7831
    assert 0 < sum(math.isnan(row.labels[1]) for row in tox) < 2000


def test_the_extension_of_a_smiles_is_read_alike_from_every_format(tmp_path: Path) -> None:
    binol = "Oc1ccc2ccccc2c1-c1c(O)ccc2ccccc12"
    molecules = {"r": f"{binol} |wU:10.10|", "s": f"{binol} |wD:10.10|", "rac": "C[C@H](O)CC |&1:1|", "p": "CCO"}
    (tmp_path / "a.smi").write_text("".join(f"{text} {name}\n" for name, text in molecules.items()))
    (tmp_path / "tabs.smi").write_text("smiles\tid\n" + "".join(f"{t}\t{name}\n" for name, t in molecules.items()))
    (tmp_path / "commas.smi").write_text("smiles,id\n" + "".join(f"{t},{name}\n" for name, t in molecules.items()))
    (tmp_path / "a.csv").write_text("smiles,id\n" + "".join(f"{text},{name}\n" for name, text in molecules.items()))
    table = pa.table({"smiles": list(molecules.values()), "id": list(molecules)})
    pq.write_table(table, tmp_path / "a.parquet")
    for source, file in (
        ("smiles", "a.smi"),
        ("smiles", "tabs.smi"),
        ("smiles", "commas.smi"),
        ("csv", "a.csv"),
        ("parquet", "a.parquet"),
    ):
        rows = list(read_source(SourceConfig(name=source, input=(str(tmp_path / file),))))
        assert {row.id: row.smiles for row in rows} == molecules, file
