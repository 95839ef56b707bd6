import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.simulated_runs import write_ladder, write_run
from unimol_scale.cli.main import main
from unimol_scale.scaling.law.registry import LAWS
from unimol_scale.scaling.runs.read_runs import read_runs


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return write_ladder(tmp_path / "runs", steps=(200, 800, 3200), noise=0.001)


def test_fit_prints_the_law_and_writes_the_report(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit-scaling-law", "runs", "--predict", "42M@1M", "--bootstrap", "100"]) == 0
    output = capsys.readouterr().out
    folder = tmp_path / "reports" / "scaling-law"
    law = json.loads((folder / "law.json").read_text())
    assert law["law"]["name"] == "chinchilla"
    assert f"{law['law']['parameters']['alpha']:.5g}" in output
    assert f"held-out error: {law['held_out_error']:.2%}" in output
    assert f"{law['predictions'][0]['loss']:.5g}" in output
    assert "reports/scaling-law/report.md" in output
    assert (folder / "report.md").is_file()


def test_a_skipped_run_is_told_and_the_rest_is_fitted(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(runs / "late", "4M", 6400, summary={"status": "stopped"})
    assert main(["fit-scaling-law", str(runs), "--bootstrap", "0", "--output", str(tmp_path / "report")]) == 0
    output = capsys.readouterr().out
    assert "late: left out because its status is 'stopped'" in output
    assert "late: left out" in (tmp_path / "report" / "report.md").read_text()


def test_a_torn_log_and_a_torn_summary_do_not_stop_the_fit(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = runs / "1M-800-0" / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join([*lines[:4], lines[4][:30], *lines[5:], '{"step": 801, "valid/']))
    (runs / "0.5M-800-0" / "summary.json").write_text('{"status": "finished", "na')
    assert main(["fit-scaling-law", str(runs), "--bootstrap", "0", "--output", str(tmp_path / "report")]) == 0
    output = capsys.readouterr().out
    assert f"{runs / '0.5M-800-0'}: left out because it cannot be read" in output
    assert "warning: damaged lines of metrics.jsonl were ignored, by run: 1M-800-0 (1)" in output
    report = (tmp_path / "report" / "report.md").read_text()
    assert "1M-800-0 (1)" in report
    assert "0.5M-800-0: left out" in report
    for folder in sorted(runs.iterdir())[:-1]:
        (folder / "summary.json").write_text("")
    assert main(["fit-scaling-law", str(runs), "--bootstrap", "0", "--output", str(tmp_path / "report")]) == 2
    assert "17 runs were left out, see the notes above" in capsys.readouterr().err


def test_a_table_is_fitted_with_named_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{n:.0f},{3.0 + 2000 / n**0.5:.6f}" for n in (1e5, 3e5, 1e6, 3e6, 1e7, 3e7)]
    (tmp_path / "t.csv").write_text("size,D,loss\n" + "\n".join(row.replace(",", ",1e6,") for row in rows) + "\n")
    arguments = ["fit-scaling-law", str(tmp_path / "t.csv"), "--column", "N=size", "--law", "saturating"]
    assert main([*arguments, "--hold-out", "none", "--output", str(tmp_path / "report")]) == 0
    law = json.loads((tmp_path / "report" / "law.json").read_text())["law"]
    assert law["parameters"]["E"] == pytest.approx(3.0, rel=1e-4)
    assert law["parameters"]["alpha"] == pytest.approx(0.5, rel=1e-4)
    assert "saturating in N" in capsys.readouterr().out


def test_a_budget_and_trajectories_are_asked_for_on_the_command_line(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fit-scaling-law", str(runs), "--law", "chinchilla", "--bootstrap", "50", "--budget", "1e14"]
    assert main([*arguments, "--hold-out", "2", "--output", str(tmp_path / "ends")]) == 0
    output = capsys.readouterr().out
    assert "Compute-optimal" in output
    assert "Pearson" in output
    tree = json.loads((tmp_path / "ends" / "law.json").read_text())
    assert set(tree["statistics"]) == {"2M", "4M", "all"}
    (best,) = tree["optima"]
    assert best["parameters_interval"][0] < best["parameters"] < best["parameters_interval"][1]
    assert tree["burn_in"] is None
    assert main([*arguments, "--trajectories", "--output", str(tmp_path / "along")]) == 0
    assert "mean over 24 points" in capsys.readouterr().out
    tree = json.loads((tmp_path / "along" / "law.json").read_text())
    assert (tree["burn_in"], tree["burn_in_steps"]) == (0.25, None)
    assert len(tree["points"]) > 100
    more = ["--trajectories", "--burn-in-steps", "50", "--bootstrap", "0"]
    assert main([*arguments, *more, "--output", str(tmp_path / "steps")]) == 0
    tree = json.loads((tmp_path / "steps" / "law.json").read_text())
    assert (tree["burn_in"], tree["burn_in_steps"]) == (None, 50)
    assert min(point["S"] for point in tree["points"]) > 50


def write_sweeps(path: Path) -> Path:
    lines = ["name,N,D,batch,lr,loss"]
    for n in (1e5, 4e5, 1.6e6, 6.4e6):
        for rate in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2):
            away = math.log(rate / (0.8 * n**-0.45))
            lines.append(f"{n:g}-{rate:g},{n:g},1e6,64,{rate:g},{(1 + 1000 / n**0.5) * math.exp(0.02 * away**2)}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_rates_are_fitted_and_a_ladder_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit-scaling-law", str(write_sweeps(tmp_path / "t.csv")), "--rates", "--bootstrap", "50"]) == 0
    told = capsys.readouterr().out
    assert "Doubling the parameters multiplies the best rate by 0.73" in told
    law = json.loads((tmp_path / "reports" / "rates" / "law.json").read_text())
    assert law["coefficients"]["b"] == pytest.approx(-0.45, abs=1e-3)
    assert set(law) == set(law["schema"])
    assert law["checklist"]["Fit"]["algorithm"] == "linear least squares"
    report = (tmp_path / "reports" / "rates" / "report.md").read_text()
    assert "D is 1e+06 in every sweep, so its effect is not fitted" in report
    for picture in ("rates.png", "rate_law.png"):
        assert f"]({picture})" in report
        assert (tmp_path / "reports" / "rates" / picture).stat().st_size > 10_000
    text = "name: l\ndata: s\nsizes: [1M]\nsteps: [20000]\nrate_law: reports/rates/law.json\n"
    (tmp_path / "l.yaml").write_text(text + "overrides: {train.global_batch_size: 64}\n")
    assert main(["ladder", "l.yaml", "--dry-run"]) == 0
    assert f"train.learning_rate={0.8 * 937840**-0.45:.2g}" in capsys.readouterr().out
    assert main(["fit-scaling-law", "t.csv", "--rates", "--predict", "1M@1M"]) == 2
    assert "--predict belongs to a law of the loss" in capsys.readouterr().err


def test_run_folders_that_differ_in_the_rate_alone_are_a_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for size in ("0.1M", "1M", "4M"):
        for rate in (1e-3, 3e-3, 1e-2, 3e-2):
            folder = write_run(
                tmp_path / "runs" / f"{size}-{rate:g}",
                size,
                400,
                law=lambda n, d, rate=rate: (0.3 + 60 / n**0.4) * math.exp(0.02 * math.log(rate * n**0.4 / 1.5) ** 2),
            )
            settings = (folder / "config.yaml").read_text()
            (folder / "config.yaml").write_text(settings + f"  learning_rate: {rate}\n  schedule: cosine\n")
    output = ["--bootstrap", "0", "--output", str(tmp_path / "report")]
    assert main(["fit-scaling-law", str(tmp_path / "runs"), "--rates", *output]) == 0
    law = json.loads((tmp_path / "report" / "law.json").read_text())
    assert law["coefficients"]["b"] == pytest.approx(-0.4, abs=0.01)
    setup = law["checklist"]["Training setup"]
    assert (setup["schedule"], setup["learning rate"]) == ("cosine", "0.001, 0.003, 0.01, 0.03")
    assert setup["warm-up"] == "not recorded"
    capsys.readouterr()
    assert main(["fit-scaling-law", str(tmp_path / "runs"), *output]) == 2
    assert "they differ in the learning rate: --rates finds the best one" in capsys.readouterr().err


def test_tasks_are_predicted_through_the_loss(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records, _ = read_runs([runs])
    lines = ["run,task,metric,value", *(f"{run.name},gap,mae,{0.2 * run.loss**1.5:.8f}" for run in records)]
    (tmp_path / "tasks.csv").write_text("\n".join(lines) + "\n")
    arguments = ["fit-scaling-law", str(runs), "--law", "chinchilla", "--bootstrap", "100", "--predict", "42M@1M"]
    assert main([*arguments, "--task", str(tmp_path / "tasks.csv"), "--output", str(tmp_path / "report")]) == 0
    tree = json.loads((tmp_path / "report" / "law.json").read_text())
    task = tree["tasks"]["gap"]
    (predicted,) = task["predictions"]
    assert predicted["error"] == pytest.approx(0.2 * tree["predictions"][0]["loss"] ** 1.5, rel=1e-3)
    assert predicted["interval"][0] < predicted["error"] < predicted["interval"][1]
    assert f"an error of {predicted['error']:.4g}" in capsys.readouterr().out
    report = (tmp_path / "report" / "report.md").read_text()
    assert "![Tasks](tasks.png)" in report
    assert main([*arguments, "--task", str(tmp_path / "none.csv"), "--output", str(tmp_path / "report")]) == 2
    assert "none.csv does not exist" in capsys.readouterr().err


def test_a_table_of_others_is_of_samples_or_tokens_never_of_molecules(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(n, d, 1.7 + 400 / n**0.34 + 410 / d**0.28) for n in (1e7, 1e8, 1e9) for d in (1e9, 1e10, 1e11)]
    lines = [f"{n / 1e6:g}M,{d / 1e9:g}B,{loss}" for n, d, loss in rows]
    (tmp_path / "t.csv").write_text("\n".join(["N,tokens,loss", *lines]) + "\n")
    fixed = ["--hold-out", "none", "--bootstrap", "0", "--output", str(tmp_path / "report"), "--column", "C=6ND"]
    for unit, more in (("token", []), ("sample", ["--data-unit", "sample"])):
        command = ["fit-scaling-law", str(tmp_path / "t.csv"), "--law", "chinchilla", "--column", "D=tokens"]
        assert main([*command, *fixed, *more, "--budget", "1e19", "--predict", "10B@1T"]) == 0
        told = capsys.readouterr().out + (tmp_path / "report" / "report.md").read_text().split("## law.json")[0]
        assert f"FLOPs per {unit}" in told
        assert "molecule" not in told.replace("--distinct", "")
        law = json.loads((tmp_path / "report" / "law.json").read_text())
        assert law["data_unit"] == unit
        assert law["law"]["parameters"]["alpha"] == pytest.approx(0.34, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["runs", "--hold-out", "most"], "--hold-out most"),
        (["runs", "--predict", "1M"], "not SIZE@MOLECULES"),
        (["runs", "--column", "N"], "not KEY=HEADER"),
        (["runs", "--law", "unimol2", "--variable", "N"], "--variable belongs"),
        (["runs", "--burn-in", "0.5"], "--burn-in needs --trajectories"),
        (["runs", "--budget", "lots"], "--budget 'lots' is not a number of FLOPs"),
        (["runs", "--size-of", "a"], "not RUN=SIZE"),
        (["runs", "--distinct", "many"], "--distinct 'many' is not a number of molecules"),
        (["runs", "--distinct", "1M"], "use --law repeated"),
        (["runs", "--law", "repeated"], "not all runs record U"),
        (["runs", "--size-of", "a=1M"], "with only event files"),
        (["runs", "--leave-out", "a"], "there is no such run"),
        (["runs", "--law", "power", "--budget", "1e12"], "has no trade-off between size and data"),
        (["runs", "--output", "runs/0.1M-200-0/summary.json"], "is a file, not a folder; choose another place"),
    ],
)
def test_a_mistake_ends_with_status_2_and_one_line(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(runs.parent)
    assert main(["fit-scaling-law", *arguments, "--bootstrap", "0"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert len(error.splitlines()) == 1


def test_an_unknown_law_is_refused_with_the_names_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit-scaling-law", "runs", "--law", "cubic"]) == 2
    error = capsys.readouterr().err
    assert all(name in error for name in ("auto", *LAWS, "package.module:Name"))


def test_the_scaling_room_imports_no_torch() -> None:
    modules = ", ".join(
        f"unimol_scale.scaling.{name}" for name in ("ladder.ladder", "report.law_pictures", "report.law_report")
    )
    code = (
        f"import sys, {modules}, unimol_scale.cli.verbs.fit_scaling_law, unimol_scale.model.accounting; "
        "assert not {'torch', 'ray', 'rdkit', 'deepspeed'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_ladder_dry_run_prints_the_plan_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "l.yaml").write_text("name: l\ndata: data/sample\nranks: 2\nsizes: [0.1M, 1M]\nsteps: [10, 20]\n")
    assert main(["ladder", "l.yaml", "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "4 runs" in output
    assert output.count("unimol_scale.cli pretrain --size") == 4
    assert "to be trained" in output
    assert list(tmp_path.iterdir()) == [tmp_path / "l.yaml"]


def test_ladder_mistakes_end_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ladder", str(tmp_path / "none.yaml")]) == 2
    assert "does not exist" in capsys.readouterr().err
    (tmp_path / "l.yaml").write_text("name: l\ndata: d\nsizes: [2.1M]\nsteps: [10]\n")
    assert main(["ladder", str(tmp_path / "l.yaml")]) == 2
    assert "unknown size '2.1M'" in capsys.readouterr().err
