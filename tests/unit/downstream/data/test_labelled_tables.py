"""Files of SMILES and labels: what is read from them, what is refused, and the presets that name their columns."""

import bz2
import gzip
import lzma
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unimol_scale import config as strict
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.data.labelled_tables import check_task, infer_task, read_table
from unimol_scale.downstream.registry import METRICS, check_metric
from unimol_scale.errors import ConfigError, SourceError

PRESETS = sorted((Path(__file__).resolve().parents[4] / "configs" / "downstream").glob("*.yaml"))
# Preset → the file of the shared data folder that is its set.
AT_HAND = {
    "bbbp": ("moleculenet/BBBP.csv", 2050),
    "bace": ("moleculenet/bace.csv", 1513),
    "tox21": ("moleculenet/tox21.csv", 7831),
    "esol": ("moleculenet/ESOL_delaney-processed.csv", 1128),
    "freesolv": ("moleculenet/FreeSolv_SAMPL.csv", 642),
    "lipo": ("moleculenet/Lipophilicity.csv", 4200),
    "qm9": ("qm9/qm9_14k_labels_geometry.parquet", 14170),
}


@pytest.fixture
def written(tmp_path):
    def write(content, name="set.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def read(path, *targets, **keys):
    return read_table(path, **{"smiles_column": None, "targets": targets, **keys})


def test_labels_are_numbers_and_missing_ones_are_nan(written):
    table = read(written("id,SMILES,y,z\n1,CCO,1.5,\n2, c1ccccc1 ,-.5,n/a\n3,,+2e-3, 7 \n"), "z", "y")
    assert table.name == "set"
    assert table.smiles == ("CCO", "c1ccccc1", "")
    assert table.targets == ("z", "y")
    np.testing.assert_array_equal(table.labels_ML, [[np.nan, 1.5], [np.nan, -0.5], [7.0, 0.002]])
    assert table.splits is None


def test_a_table_without_targets_has_no_labels(written):
    assert read(written("smiles,name\nCC,a\n")).labels_ML.shape == (1, 0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b'\xef\xbb\xbfsmiles,name,y\r\nCC,"ethane, gas",1\r\n\r\nCCC,x,2\r\n'),
        ("a.csv", b'smiles,name,y\nCC,"two\nlines",1\nCCC,x,2'),
        ("a.csv", b"smiles;name;y\nCC;a;1\nCCC;b;2\n"),
        ("a.tsv", b"smiles\tname\ty\nCC\ta\t1\nCCC\tb\t2\n"),
        ("a.csv.gz", gzip.compress(b"smiles,name,y\nCC,a,1\nCCC,b,2\n", mtime=0)),
        ("a.csv", gzip.compress(b"smiles,name,y\nCC,a,1\nCCC,b,2\n", mtime=0)),
        ("a.csv.gz", gzip.compress(b"smiles,name,y\nCC,a,1\nCCC,b,2\n", mtime=0) + bytes(512)),
        ("a.csv.gz", b"smiles,name,y\nCC,a,1\nCCC,b,2\n"),
        ("a.csv.xz", lzma.compress(b"smiles,name,y\nCC,a,1\nCCC,b,2\n")),
        ("a.tsv.bz2", bz2.compress(b"smiles\tname\ty\nCC\ta\t1\nCCC\tb\t2\n")),
        ("a.csv.zst", pa.compress(b"smiles,name,y\nCC,a,1\nCCC,b,2\n", "zstd", asbytes=True)),
        ("a.csv", "smiles,name,y\r\nCC,µ,1\r\nCCC,b,2\r\n".encode("utf-16")),
        ("a.csv", "\ufeffsmiles\tname\ty\nCC\tµ\t1\nCCC\tb\t2\n".encode("utf-16-be")),
        ("a.csv", b"sep=;\r\nsmiles;name;y\r\nCC;a;1\r\nCCC;b;2\r\n"),
        ("a.csv", b'\xef\xbb\xbf"SEP=\t"\nsmiles\tname\ty\nCC\ta\t1\nCCC\tb\t2\n'),
        ("a.csv", b"smiles,name,y\rCC,a,1\rCCC,b,2\r"),
        ("a.csv", b'smiles,"name\n(any, or none)",y\nCC,a,1\nCCC,b,2\n'),
        ("a.csv", b"smiles,name,y,,\nCC,a,1,,\nCCC,b,2,,\n"),
        ("a.csv", b"smiles,name,y\nCC,a,1,\nCCC,b,2,\n"),
        ("a.csv", b"smiles;name, or what is known of it, in words;y\nCC;a;1\nCCC;b;2\n"),
        ("a.smi.gz", b"smiles name y\nCC a 1\nCCC b 2\n"),
        ("a.smi", "smiles name y\nCC a 1\nCCC b 2\n".encode("utf-16")),
        ("a.smi", b"\xef\xbb\xbfsmiles name y\nCC a 1\n\n# no row\nCCC b 2\n"),
        ("a.txt", b"smiles\tname\ty\r\nCC\ta\t1\r\nCCC\tb\t2\r\n"),
    ],
)
def test_the_same_rows_are_read_from_every_form(written, name, content):
    table = read(written(content, name), "y")
    assert table.name == "a"
    assert table.smiles == ("CC", "CCC")
    assert table.labels_ML.tolist() == [[1.0], [2.0]]


def test_lines_without_a_header_have_smiles_first_or_in_the_column_of_that_number(written):
    path = written("CCO ethanol\nCC\n", "a.smi")
    assert read(path).smiles == ("CCO", "CC")
    assert read(written("x1\tCCO\nx2\tCC\n", "b.txt"), smiles_column="2").smiles == ("CCO", "CC")
    with pytest.raises(SourceError, match="no column 'y'"):
        read(path, "y")


def test_a_line_with_a_column_too_few_is_refused_when_labels_are_read(written):
    path = written("smiles name y\nCC a 1\nCCC 2\n", "a.smi")
    with pytest.raises(SourceError, match=r"row 2 \(line 3\) has 2 columns, the header has 3"):
        read(path, "y")
    assert read(path).smiles == ("CC", "CCC")


def test_parquet_columns_of_every_kind_are_labels(tmp_path):
    columns = {
        "smiles": pa.array(["CC", None]).dictionary_encode(),
        "flag": [True, None],
        "count": [3, 4],
        "text": ["0.5", " NA "],
        "atoms": [["C"], ["C"]],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    table = read(tmp_path / "a.parquet", "flag", "count", "text")
    assert table.smiles == ("CC", "")
    np.testing.assert_array_equal(table.labels_ML, [[1.0, 3.0, 0.5], [np.nan, 4.0, np.nan]])
    assert read(tmp_path / "a.parquet", "all").targets == ("flag", "count", "text")


def test_bytes_in_parquet_are_text_and_a_nested_column_is_one_error(tmp_path):
    path = tmp_path / "a.parquet"
    for kind in (pa.binary(), pa.large_binary()):
        smiles = pa.array([b"CC", None, b"C\xffC"], kind)
        pq.write_table(pa.table({"smiles": smiles, "y": pa.array([b"1.5", b"NA", b"2"])}), path)
        table = read(path, "y")
        assert table.smiles == ("CC", "", "C\ufffdC")
        np.testing.assert_array_equal(table.labels_ML, [[1.5], [np.nan], [2.0]])
    columns = {"smiles": [["C", "O"]], "y": [{"value": 1.0}], "SMILES2": ["C"], "n": [7]}
    pq.write_table(pa.table(columns), path)
    with pytest.raises(SourceError, match=r"column 'smiles' holds list<.*>, not one value per row"):
        read(path)
    with pytest.raises(SourceError, match=r"column 'y' holds struct<.*>, not one value per row"):
        read(path, "y", smiles_column="SMILES2")
    with pytest.raises(SourceError, match="column 'n' holds int64, not SMILES"):
        read(path, smiles_column="n")


def test_parquet_is_known_by_its_content(tmp_path):
    pq.write_table(pa.table({"smiles": ["CC"], "y": [1.0]}), tmp_path / "a.csv")
    assert read(tmp_path / "a.csv", "y").labels_ML.tolist() == [[1.0]]


def test_all_takes_every_column_of_numbers_but_names_of_rows_and_the_split(written):
    lines = ("Unnamed: 0.1,Unnamed: 0,mol_id,smiles,y,name,part,empty", "0,0,7,CC,1,17,1,", "1,1,8,CCC,,b,2,")
    path = written("\n".join([*lines, "2,2,9,C,3,c,2,"]) + "\n")
    assert read(path, "all", split_column="part").targets == ("y",)
    assert read(path, "all", split_column="part").splits == ("1", "2", "2")
    with pytest.raises(SourceError, match="none of the columns"):
        read(written("smiles,name\nCC,ethane\n"), "all")


def test_all_refuses_a_column_of_numbers_with_a_slip_in_it(written):
    with pytest.raises(SourceError, match=r"'y' are not numbers: row 2 \(CCC\): '3,1'"):
        read(written('smiles,y\nCC,1\nCCC,"3,1"\nC,2\n'), "all")


def test_labels_that_are_not_numbers_are_named_and_counted(written):
    rows = "".join(f"{'C' * n},{label}\n" for n, label in enumerate(["1", "active", "inf", "2", "n.d.", "x", "y"], 1))
    with pytest.raises(SourceError) as error:
        read(written("smiles,y\n" + rows), "y")
    for part in ("5 labels", "'y'", "row 2 (CC): 'active'", "row 3 (CCC): 'inf'", "row 5 (CCCCC): 'n.d.'", "2 more"):
        assert part in str(error.value)


def test_an_infinite_number_is_refused_without_any_text_beside_it(written):
    with pytest.raises(SourceError, match=r"1 labels .* row 2 \(CCC\): '-inf'"):
        read(written("smiles,y\nCC,1\nCCC,-inf\n"), "y")


@pytest.mark.parametrize(
    ("content", "targets", "message"),
    [
        ("smiles,gap\nCC,1\n", ("gape",), "no column 'gape'; did you mean 'gap'"),
        ("smiles,y\nCC,\nCCC,NA\n", ("y",), "all 2 labels of the target 'y' are missing"),
        ("smiles,y\n", ("y",), "has no rows"),
        ("", ("y",), "is empty, or has no rows"),
        ("smiles,canonical_smiles,y\nCC,CC,1\n", ("y",), "smiles, canonical_smiles may all be SMILES"),
        ("drug,y\nCC,1\n", ("y",), "none of the columns drug, y has a usual name for SMILES"),
        ("smiles,y,y\nCC,1,2\n", ("y",), "2 columns 'y'"),
        ("smiles,y,unit\nCC,1,µM\n".encode("latin-1"), ("y",), "save it as UTF-8"),
        (
            "smiles,y (µM)\nCC,1\n".encode("latin-1"),
            ("y",),
            "line 1 holds bytes that are not UTF-8 .*µM.*save it as UTF-8",
        ),
        ("smiles,y\nCC,1\n".encode("utf-16-le"), ("y",), "UTF-16 without a byte order mark; save it as UTF-8"),
        ("smiles;y\nCC;1,5\nCCC;2\n", ("y",), r"row 1 \(CC\): '1,5'; write decimals with a point"),
        ("smiles;y\nCC;1,5\nCCC;2,5\n", ("all",), "'y' are not numbers: .*; write decimals with a point"),
        ('smiles,y\nCC,"1\nCCC,2\n', ("y",), r"row 1 \(line 2\): a quote in this line is not closed"),
        ('smiles,y,z\nCC,"1,\nCCC,2,x\nC,"3,\n', ("y",), r"row 1 \(line 2\): a quote in this line is (not )?closed"),
        ("smiles, y\nCC,True\nCCC,False\n", ("y",), "2 labels of the target 'y' are not numbers"),
        ("smiles,y\nCC,1\nCCC,2,3\n", ("y",), r"row 2 \(line 3\) has 3 fields, the header has 2"),
    ],
)
def test_a_file_that_can_not_be_taken_as_it_is_says_why(written, content, targets, message):
    path = written(content)
    with pytest.raises(SourceError, match=message) as error:
        read(path, *targets)
    assert str(path) in str(error.value)


def test_a_missing_file_and_an_unknown_kind_are_errors(written, tmp_path):
    with pytest.raises(SourceError, match="does not exist"):
        read(tmp_path / "none.csv")
    with pytest.raises(SourceError, match="must end in"):
        read(written("CC", "a.xlsx"))
    with pytest.raises(SourceError, match="is an Excel workbook; save it as CSV"):
        read(written(b"PK\x03\x04" + bytes(26) + b"[Content_Types].xml", "a.xlsx"))
    with pytest.raises(SourceError, match="is a zip archive; unpack it"):
        read(written(b"PK\x03\x04" + bytes(26) + b"a.csv", "a.zip"))
    with pytest.raises(SourceError, match="not a Parquet file"):
        read(written("CC", "a.parquet"))
    with pytest.raises(SourceError, match="cannot be read: the data is cut off"):
        read(written(gzip.compress(b"smiles\n" + b"CC\n" * 9999)[:-9], "a.csv.gz"))
    with pytest.raises(ConfigError, match="twice"):
        read(written("smiles,y\nCC,1\n"), "y", "y")


def test_the_task_is_told_from_the_labels(written):
    path = written("smiles,a,b,c\nCC,0,1,2.5\nCCC,1,,0\n")
    assert infer_task(read(path, "a")) == "classification"
    assert infer_task(read(path, "a", "b")) == "multilabel"
    assert infer_task(read(path, "a", "c")) == "regression"
    with pytest.raises(ConfigError, match="without a target"):
        infer_task(read(path))


def test_classes_other_than_0_and_1_are_named(written):
    table = read(written("smiles,a,b\nCC,0,1\nCCC,1,-1\nC,1,2\n"), "a", "b")
    check_task(table, "regression")
    check_task(read(written("smiles,a\nCC,0\nCCC,\n"), "a"), "classification")
    with pytest.raises(SourceError, match=r"2 labels of the target 'b' .* row 2 \(CCC\): -1.0, row 3 \(C\): 2.0"):
        check_task(table, "multilabel")
    with pytest.raises(ConfigError, match="use task multilabel"):
        check_task(table, "classification")


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_are_whole_and_within_the_papers_ranges(path):
    tree, origin = strict.read_yaml(path)
    preset = strict.build(FinetuneConfig, {**tree, "pretrained": "run"}, origin)
    assert None not in (preset.task, preset.metric)
    check_metric(METRICS[preset.metric], preset.task)
    assert set(preset.units) == (set(preset.targets) if preset.task == "regression" else set())
    assert ("loss" in tree) == (preset.task == "regression")
    train = preset.train
    assert 4e-5 <= train.learning_rate <= 4e-4
    assert train.batch_size in (32, 64, 128)
    assert 40 <= train.epochs <= 300
    assert 0.0 <= train.warm_up <= 0.1


def test_there_is_a_preset_for_every_set():
    sets = "bace bbbp clintox compas-1d esol freesolv hiv lipo muv pcqm4mv2 qm9 sider tox21 toxcast"
    assert [path.stem for path in PRESETS] == sets.split()


@pytest.mark.parametrize("name", AT_HAND)
def test_published_files_have_the_columns_of_their_presets(shared_data, name):
    file, rows = AT_HAND[name]
    path = next(path for path in PRESETS if path.stem == name)
    preset = strict.build(FinetuneConfig, {**strict.read_yaml(path)[0], "size": "84M"}, strict.Origin(name=name))
    table = read(shared_data / file, *preset.targets, smiles_column=preset.smiles_column)
    assert len(table.smiles) == rows
    assert not any(text != text.strip() for text in table.smiles)
    check_task(table, preset.task)
    assert infer_task(table) == preset.task
