"""Tables whose columns are in other units, or hold no losses: the cause is named, and what can be fitted is."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.simulated_runs import write_ladder
from unimol_scale.cli.main import main
from unimol_scale.errors import RunError
from unimol_scale.scaling.law.column_checks import loss_causes, unit_causes
from unimol_scale.scaling.law.points import make_points
from unimol_scale.scaling.runs.read_runs import read_runs

SIZES = (1e6, 3e6, 1e7, 3e7, 1e8)
BUDGETS = (1e8, 1e9, 1e10)
Change = Callable[[int, dict[str, float]], dict[str, object]]


def write(path: Path, change: Change = lambda place, row: dict(row), delimiter: str = ",") -> Path:
    """Write the table of a language model's law, C = 6ND; ``change`` gets place and values of every row."""
    rows = []
    for size in SIZES:
        for budget in BUDGETS:
            loss = 1.7 + 400 / size**0.34 + 410 / budget**0.28
            rows.append(change(len(rows), {"N": size, "D": budget, "C": 6 * size * budget, "loss": loss}))
    lines = [rows[0].keys(), *(map(str, row.values()) for row in rows)]
    path.write_text("".join(delimiter.join(line) + "\n" for line in lines))
    return path


def times(column: str, factor: float, rows: Callable[[int], bool] = lambda place: True) -> Change:
    return lambda place, row: {**row, column: row[column] * factor if rows(place) else row[column]}


def fit(path: Path, *arguments: str) -> int:
    folder = str(path.parent / "report")
    return main(
        ["fit-scaling-law", str(path), "--bootstrap", "0", "--law", "chinchilla", "--output", folder, *arguments]
    )


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (times("C", 1e-9), "less than training can cost: it seems to be in GFLOP (1e+09)"),
        (times("C", 1e-15), "less than training can cost: it seems to be in PFLOP (1e+15)"),
        (times("C", 1 / 8.64e19), "it seems to be in petaflop/s-days (8.64e+19)"),
        (times("C", 1e-5), "less than training can cost: it seems to be in another unit than FLOPs"),
        (times("C", 1e6), "C is 1e+06 times 6·N·D, more than training can cost"),
        (times("N", 1e-6), "N is at most 100: it seems to be in millions of parameters"),
        (times("D", 1e-6), "D seems to be in millions, D in steps"),
        (times("D", 1e-8), "D is at most 100: it seems to be in millions or in epochs"),
    ],
)
def test_a_unit_that_cannot_be_meant_is_told(tmp_path: Path, change: Change, cause: str) -> None:
    records, _ = read_runs([write(tmp_path / "t.csv", change)])
    points = make_points(records, "total")
    assert cause in " ".join(points.cautions)


def test_the_right_units_are_not_doubted(tmp_path: Path) -> None:
    for factor in (1, 100, 2000):  # tokens, then molecules of 30 and of 100 atoms
        records, _ = read_runs([write(tmp_path / "t.csv", times("C", factor))])
        assert unit_causes(make_points(records, "total").columns) == []
    records, _ = read_runs([write_ladder(tmp_path / "runs", steps=(200, 800))])
    points = make_points(records, "total")
    assert [*unit_causes(points.columns), *loss_causes(points.columns, points.loss)] == []


@pytest.mark.parametrize(
    ("change", "budget", "causes"),
    [
        (times("C", 1e-15), "1e20", ["times the C of the costliest run (6e+03)", "it seems to be in PFLOP"]),
        (times("C", 1), "1e36", ["it is 1.7e+17 times the C of the costliest run (6e+18)"]),
        (times("C", 1), "1e5", ["times the C of the cheapest run (6e+14)"]),
    ],
)
def test_a_budget_out_of_reach_names_the_cause_and_the_report_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Change, budget: str, causes: list[str]
) -> None:
    path = write(tmp_path / "t.csv", change)
    assert fit(path, "--budget", budget) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "exponents" not in error
    report = (tmp_path / "report" / "report.md").read_text()
    law = json.loads((tmp_path / "report" / "law.json").read_text())
    for cause in causes:
        assert cause in error
        assert cause in report
        assert cause in law["unanswered"][0]
    assert law["law"]["parameters"]["alpha"] == pytest.approx(0.34, rel=1e-2)


def test_a_budget_in_reach_is_answered_beside_one_that_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(write(tmp_path / "t.csv"), "--budget", "1e20", "--budget", "1e36") == 2
    output = capsys.readouterr()
    assert "the budget is 16.7 times the C of the costliest run" in " ".join(output.out.split())
    assert "1e+36" in output.err
    law = json.loads((tmp_path / "report" / "law.json").read_text())
    assert [best["flops"] for best in law["optima"]] == [1e20]


def test_a_table_with_size_and_compute_is_told_how_its_data_follow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "t.csv", lambda place, row: {key: row[key] for key in ("N", "C", "loss")})
    assert fit(path) == 2
    assert 'it has N and C, from which D can be computed: --column "D=C/(6N)"' in capsys.readouterr().err
    for formula in ("D=C/(6N)", "D = C / (6 * N)", "D=C/6/N"):
        assert fit(path, "--column", formula) == 0
    law = json.loads((tmp_path / "report" / "law.json").read_text())
    assert law["law"]["parameters"]["beta"] == pytest.approx(0.28, rel=1e-2)
    path = write(tmp_path / "t.csv", lambda place, row: {"params": row["N"], "flops": row["C"], "loss": row["loss"]})
    capsys.readouterr()
    assert fit(path) == 2
    error = capsys.readouterr().err
    assert "no column 'N' for N and no column 'D' for D" in error
    assert '--column "D=C/(6N)"' in error
    assert fit(path, "--column", "N=params", "--column", "C=flops", "--column", "D=C/(6N)") == 0


def shown_in(column: str, form: Callable[[float], str], rows: Callable[[int], bool] = lambda place: True) -> Change:
    return lambda place, row: {**row, column: form(row[column]) if rows(place) else row[column]}


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (
            shown_in("N", lambda n: f"{n / 1e6:g}Mio", lambda place: place in (3, 4)),
            [r"row 4 \(line 5\): 'N' must be a number, not '3Mio'", r"row 5 \(line 6\) has '3Mio'; .* in one unit"],
        ),
        (
            shown_in("C", lambda c: f"{c / 1e15:g} PF", lambda place: place == 2),
            [r"row 3 \(line 4\): 'C' must be a number, not '60 PF'; write all of them as plain numbers"],
        ),
        (shown_in("C", lambda c: f"{c:g} FLOP/s"), ["row 1 .* 10 more; write all of them as plain numbers"]),
        (shown_in("N", lambda n: f'"{n:,.0f}"'), ["not '1,000,000'.*write them without separators"]),
        (shown_in("N", lambda n: f"{n:,.0f}".replace(",", " ")), ["not '1 000 000'.*write them without separators"]),
        (shown_in("N", lambda n: f"{n:,.0f}"), [r"row 1 \(line 2\) has 6 fields, the header has 4"]),
        (shown_in("loss", lambda loss: f"{loss * 10:.1f}%"), ["not '77.1%'.*without %"]),
        (
            shown_in("loss", lambda loss: "", lambda place: place == 6),
            [r"row 7 \(line 8\): 'loss' must be a number, not ''$"],
        ),
        (
            times("C", 1e-15, lambda place: place in (0, 7)),
            [r"different units: C/\(6ND\) is about 1 in most rows, but .*row 1 .* has 1e-15, .*row 8 .* has 1e-15"],
        ),
        (times("N", 1e-6, lambda place: place > 11), ["different units.*row 13 .* has 1e.06"]),
    ],
)
def test_values_in_several_spellings_or_units_are_refused_by_their_rows(
    tmp_path: Path, change: Change, messages: list[str]
) -> None:
    path = write(tmp_path / "t.csv", change)
    for message in messages:
        with pytest.raises(RunError, match=message):
            read_runs([path])


def test_counts_may_be_written_with_the_suffixes_of_papers(tmp_path: Path) -> None:
    plain, _ = read_runs([write(tmp_path / "plain.csv")])
    change = shown_in("N", lambda n: f"{n / 1e6:g}M" if n < 1e7 else f"{n / 1e9:g}B")
    shown, _ = read_runs([write(tmp_path / "t.csv", change)])
    assert [record.parameters for record in shown] == pytest.approx([record.parameters for record in plain])
    with pytest.raises(RunError, match="'loss' must be a number, not '2M'"):
        read_runs([write(tmp_path / "t.csv", shown_in("loss", lambda loss: "2M"))])


@pytest.mark.parametrize(
    ("column", "factor", "message"),
    [
        ("N", 1e-6, r"give N in different units: some have 1 to 30, others 1e\+06 to 1e\+08; .*row 1 .*, .*row 6 "),
        ("D", 1e-6, r"give D in different units: .*row 1 .*, .*row 6 .*, .*row 11 "),
        ("loss", 100.0, "give the loss in different units: .*row 1 .*, .*row 6 .*, .*row 11 "),
    ],
)
def test_two_units_in_one_column_are_refused_without_compute_to_compare(
    tmp_path: Path, column: str, factor: float, message: str
) -> None:
    def change(place: int, row: dict[str, float]) -> dict[str, object]:
        values = times(column, factor, lambda place: place % 5 == 0)(place, row)
        return {key: value for key, value in values.items() if key != "C"}

    with pytest.raises(RunError, match=message):
        read_runs([write(tmp_path / "t.csv", change)])


def test_sizes_of_eight_decades_are_one_unit(tmp_path: Path) -> None:
    rows = [f"{768 * 8**power},{budget},{3 + 1 / (power + 1)}" for power in range(8) for budget in ("1e9", "1e10")]
    (tmp_path / "t.csv").write_text("\n".join(["N,D,loss", *rows]))
    assert len(read_runs([tmp_path / "t.csv"])[0]) == 16


def test_a_decimal_comma_is_told(tmp_path: Path) -> None:
    change = shown_in("loss", lambda loss: f"{loss:.3f}".replace(".", ","))
    with pytest.raises(RunError, match=r"not '7,707'.*write them with(out separators| a decimal point)"):
        read_runs([write(tmp_path / "t.csv", change, ";")])


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("N,D,loss,loss\n1e6,1e8,2,3\n")
    with pytest.raises(RunError, match="two columns 'loss'; rename"):
        read_runs([tmp_path / "t.csv"])


def test_losses_that_rise_or_do_not_vary_are_told_as_what_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accuracy = write(tmp_path / "t.csv", lambda place, row: {**row, "loss": 1 / row["loss"]})
    assert fit(accuracy) == 2
    assert "the loss rises with N in 100% of the pairs of runs that differ only in it" in capsys.readouterr().err
    assert fit(accuracy, "--law", "auto") == 2
    assert capsys.readouterr().err.count("the loss rises with N in 100%") == 1
    same = write(tmp_path / "t.csv", lambda place, row: {**row, "loss": 0.5})
    for law in ("auto", "chinchilla"):
        assert fit(same, "--law", law) == 2
        error = capsys.readouterr().err
        assert error.count("the loss is 0.5 in every run: is it the right column?") == 1
    overfitted = write(tmp_path / "t.csv", lambda place, row: {**row, "loss": row["loss"] * row["N"] ** 0.2})
    assert fit(overfitted) == 2
    error = capsys.readouterr().err
    assert "its term A in N vanishes" in error
    assert "the loss rises with N in 100%" in error
    one_size = write(tmp_path / "t.csv", lambda place, row: {**row, "N": 1e6, "D": 1e8, "loss": row["loss"]})
    assert fit(one_size, "--hold-out", "none") == 2
    assert "N is constant" in capsys.readouterr().err
