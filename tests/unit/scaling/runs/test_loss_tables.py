"""Tables of losses, by rows of runs and by rows along runs."""

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from unimol_scale.errors import RunError
from unimol_scale.model.accounting import count_parameters, training_flops
from unimol_scale.model.presets import PRESETS
from unimol_scale.scaling.law.points import make_points
from unimol_scale.scaling.runs.read_runs import read_runs
from unimol_scale.scaling.runs.loss_tables import read_table


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_parquet_and_csv_say_the_same(tmp_path: Path) -> None:
    columns = {"N": [1e6, 2e6], "D": [1e7, 1e7], "loss": [2.5, 2.0], "name": ["a", "b"], "C": [6e13, 12e13]}
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    rows = "\n".join(",".join(str(value) for value in row) for row in zip(*columns.values(), strict=True))
    table(tmp_path / "t.csv", ",".join(columns) + "\n" + rows + "\n")
    one, two = (read_table(tmp_path / name, {})[0] for name in ("t.parquet", "t.csv"))
    for left, right in zip(one, two, strict=True):
        assert (left.name, left.parameters, left.molecules, left.flops, left.loss) == (
            right.name,
            right.parameters,
            right.molecules,
            right.flops,
            right.loss,
        )
    (tmp_path / "t.parquet").rename(tmp_path / "table")
    assert [record.loss for record in read_table(tmp_path / "table", {})[0]] == [2.5, 2.0]
    with pytest.raises(RunError, match="not a Parquet table"):
        read_table(table(tmp_path / "no.parquet", "N,D,loss\n"), {})


def test_a_table_without_rows_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no rows"):
        read_table(table(tmp_path / "t.csv", "N,D,loss\n"), {})


def test_compute_is_counted_as_language_models_do_or_by_the_models_own_arithmetic(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", "size,D,loss\n84M,1e6,0.105\n1.1B,1e6,0.087\n")
    by_model, _ = read_table(path, {"C": "model@24"})
    as_language, _ = read_table(path, {"C": "6ND"})
    assert by_model[0].flops == pytest.approx(training_flops(PRESETS["84M"], 24) * 1e6)
    assert as_language[1].flops == pytest.approx(6 * 1_129_209_696 * 1e6)
    pair_track = make_points(by_model, "pair-track").columns["N"]
    assert list(pair_track) == [count_parameters(PRESETS[name]).pair_track for name in ("84M", "1.1B")]
    with pytest.raises(RunError, match="C=model@x: give the atoms"):
        read_table(path, {"C": "model@x"})
    with pytest.raises(RunError, match="depend on each other"):
        read_table(path, {"C": "6ND", "D": "C/(6N)"})


def test_weights_steps_and_loss_terms_have_columns(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", "N,D,S,loss,loss/token,w\n1e6,1e6,100,2,1.5,1\n2e6,1e6,100,1.8,1.2,3\n")
    records, _ = read_table(path, {"weight": "w"})
    points = make_points(records, "total")
    assert points.weight.tolist() == [0.5, 1.5]
    assert points.columns["S"].tolist() == [100, 100]
    assert make_points(records, "total", "token").loss.tolist() == [1.5, 1.2]
    with pytest.raises(RunError, match="does not record how many of its parameters are pair-track"):
        make_points(records, "pair-track")


def test_rows_of_one_name_are_points_along_one_run_when_asked_for(tmp_path: Path) -> None:
    path = table(
        tmp_path / "t.csv", "name,N,D,loss\na,1e6,30,2.0\na,1e6,10,3.0\na,1e6,20,2.4\nb,2e6,10,1.0\nb,2e6,20,4.0\n"
    )
    records, notes = read_runs([path], trajectories=True)
    assert [record.name for record in records] == ["a"]
    assert records[0].curve == ((10.0, 3.0), (20.0, 2.4), (30.0, 2.0))
    assert records[0].loss == 2.0
    assert "run 'b' was left out because it diverged" in notes[0]
    with pytest.raises(RunError, match=r"duplicate run.*same name; leave one out, or use --trajectories"):
        read_runs([path])


def test_compute_that_is_told_of_whole_runs_is_no_other_unit_along_them(tmp_path: Path) -> None:
    lines = [
        f"{name},{n},{d},{6 * n * 1e9},{3 - d / 1e9}" for name, n in (("a", 1e6), ("b", 2e6)) for d in (1e3, 1e6, 1e9)
    ]
    path = table(tmp_path / "t.csv", "\n".join(["name,N,D,C,loss", *lines]) + "\n")
    records, _ = read_table(path, {}, trajectories=True)
    assert [record.flops for record in records] == [6e15, 12e15]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,N,D,loss\na,1e6,10,3\na,2e6,20,2\n", "all points along a run must have the same size"),
        ("name,N,D,loss\na,1e6,10,3\na,1e6,10,2\n", "duplicate row"),
        ("N,D,loss\n1e6,10,3\n", "no column 'name' for name"),
    ],
)
def test_rows_that_can_not_be_one_run_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        read_table(table(tmp_path / "t.csv", text), {}, trajectories=True)


@pytest.mark.parametrize(
    ("value", "message"),
    [("nan", "not a number"), ("inf", "infinite"), ("0", "is 0.0, zero"), ("-1", "negative")],
)
@pytest.mark.parametrize("column", ["loss", "N", "D", "weight"])
def test_each_bad_value_has_its_own_message(tmp_path: Path, value: str, message: str, column: str) -> None:
    row = {"N": "1e6", "D": "1e6", "loss": "2", "weight": "1", column: value}
    records, _ = read_table(table(tmp_path / "t.csv", ",".join(row) + "\n" + ",".join(row.values()) + "\n"), {})
    with pytest.raises(RunError, match=rf"t\.csv: row 1 \(line 2\): {column} .*{message}"):
        make_points(records, "total")


def test_a_run_can_be_left_out_by_name(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", "name,N,D,loss\na,1e6,10,3\nb,1e6,20,2\n")
    records, notes = read_runs([path], leave_out=["a"])
    assert [record.name for record in records] == ["b"]
    assert "(--leave-out a)" in notes[0]
    with pytest.raises(RunError, match="there is no such run"):
        read_runs([path], leave_out=["c"])


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_rows_are_counted_from_1_below_the_header_in_every_kind_of_table(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "t.csv":
        table(path, "N,D,loss\n1e6,1e6,2\n\n2e6,1e6,x\n")
        message = r"row 2 \(line 4\): 'loss' must be a number"
    else:
        parquet.write_table(pa.table({"N": [1e6, 2e6], "D": [1e6, 1e6], "loss": ["2", "x"]}), path)
        message = "row 2: 'loss' must be a number"
    with pytest.raises(RunError, match=message):
        read_table(path, {})
    table(tmp_path / "u.csv", "N,D,loss\n1e6,1e6,2\n\n2e6,1e6,3\n")
    assert [record.name for record in read_table(tmp_path / "u.csv", {})[0]] == ["row 1", "row 2"]


def test_a_table_of_losses_is_read_as_spreadsheets_write_it(tmp_path: Path) -> None:
    text = "sep=;\r\nN;D;loss;note\r\n1e6;1e6;2;µ\r\n2e6;1e6;1.5;\r\n"
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "t.csv").write_bytes(text.encode(encoding))
        assert [record.loss for record in read_table(tmp_path / "t.csv", {})[0]] == [2.0, 1.5]
    (tmp_path / "t.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match=r"line 3 holds bytes that are not UTF-8 .*save it as UTF-8"):
        read_table(tmp_path / "t.csv", {})
    table(tmp_path / "t.csv", 'N,D,loss,note\n1e6,1e6,2,"a\n2e6,1e6,1.5,b\n')
    with pytest.raises(RunError, match=r"row 1 \(line 2\): a quote in this line is not closed"):
        read_table(tmp_path / "t.csv", {})
