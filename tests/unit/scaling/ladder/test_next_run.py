import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.helpers.simulated_runs import BATCH, write_ladder
from unimol_scale.cli.main import main
from unimol_scale.common.units import powers
from unimol_scale.config import to_tree
from unimol_scale.errors import ConfigError, RunError
from unimol_scale.model.accounting import count_parameters, training_flops
from unimol_scale.model.presets import PRESETS
from unimol_scale.scaling.ladder.ladder import plan, read_ladder
from unimol_scale.scaling.ladder.model_for_size import model_for_parameters
from unimol_scale.scaling.ladder.next_run import NextRun, choose_next, write_next
from unimol_scale.scaling.ladder.run_command import command
from unimol_scale.scaling.law.analysis import parameters_of_size
from unimol_scale.scaling.rates.rate_law_file import KIND
from unimol_scale.scaling.runs.read_runs import read_runs

SIZES = ("0.1M", "0.2M", "0.5M", "1M", "2M")
ATOMS = 17
RATES = {"0.1M": 8e-3, "0.2M": 6e-3, "0.5M": 4e-3, "1M": 3e-3, "2M": 2e-3}


def make_runs(root: Path, rates: dict[str, float] = RATES, **ladder: object) -> Path:
    """Write runs whose FLOPs are the model's own and whose configuration is a trainer's."""
    write_ladder(root, sizes=SIZES, steps=(200, 800, 3200), seeds=(0, 1), noise=0.001, **ladder)  # type: ignore[arg-type]
    for folder in root.iterdir():
        size, steps, seed = folder.name.split("-")
        model = PRESETS[size]
        train = {"steps": int(steps), "global_batch_size": BATCH, "learning_rate": rates[size], "precision": "fp32"}
        tree = {
            "size": size,
            "output": str(folder),
            "seed": int(seed),
            "model": to_tree(model),
            "data": {"path": "data/sample", "max_pairs": 24000, "labels": []},
            "objective": {"name": "denoise", "denoise": {"noise": 0.2}, "distill": {"teacher": None}},
            "train": {**train, "warmup_steps": int(steps) // 10},
            "zero": {"stage": 3},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(tree))
        summary = json.loads((folder / "summary.json").read_text())
        summary["flops"] = training_flops(model, ATOMS) * summary["molecules"]
        (folder / "summary.json").write_text(json.dumps(summary))
    return root


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_runs(tmp_path_factory.mktemp("place") / "runs")


@pytest.fixture(scope="module")
def choice(runs: Path) -> NextRun:
    return choose_next([runs], "4e14", "chinchilla", bootstrap=100)


def test_the_budget_is_spent_where_the_true_law_is_lowest(choice: NextRun) -> None:
    budget = 4e14
    assert choice.flops == pytest.approx(budget, rel=0.01)
    assert choice.molecules == choice.steps * BATCH
    per_molecule = training_flops(choice.sized.model, ATOMS)
    assert choice.molecules == pytest.approx(budget / per_molecule, rel=0.01)
    assert choice.sized.parameters == count_parameters(choice.sized.model).total

    def true_loss(parameters: float, flops: float) -> float:
        return 0.3 + 60.0 / parameters**0.4 + 150.0 / (budget / flops) ** 0.5

    best = min(true_loss(count_parameters(m).total, training_flops(m, ATOMS)) for m in PRESETS.values())
    chosen = true_loss(choice.sized.parameters, per_molecule)
    assert chosen < 1.01 * best
    assert choice.loss == pytest.approx(chosen, rel=0.01)
    assert choice.interval[0] < choice.loss < choice.interval[1]


def test_a_ladder_file_is_written_that_the_ladder_accepts(choice: NextRun, tmp_path: Path, runs: Path) -> None:
    path = tmp_path / "next.yaml"
    write_next(choice, path)
    config = read_ladder(path)
    (rung,) = plan(config)
    assert rung.steps == choice.steps
    assert rung.folder.parent == runs
    assert rung.overrides["train.warmup_steps"] == pytest.approx(0.1 * choice.steps, abs=1)
    assert rung.overrides["train.precision"] == "fp32"  # settings of the nearest run go along
    assert rung.overrides["objective.denoise.noise"] == 0.2
    for key, value in choice.sized.changes.items():
        assert rung.overrides[f"model.{key}"] == value
    line = " ".join(command(config, rung, 1))
    assert "distill" not in line
    assert "--data data/sample" in line
    text = path.read_text()
    for reason in choice.lines:
        assert f"#   {reason}\n" in text
    with pytest.raises(ConfigError, match="already exists"):
        write_next(choice, path)


def test_the_command_says_what_to_expect_and_what_it_costs(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ladder", "--next", str(runs), "--output", "my.yaml", "--law", "chinchilla"]) == 0
    output = capsys.readouterr().out
    assert "expected validation loss: " in output
    assert "interval of the law" in output
    assert "next: unimol-scale ladder my.yaml" in output
    costliest = 3200 * BATCH * training_flops(PRESETS["2M"], ATOMS)
    assert f"the best use of {powers(4 * costliest)} FLOPs" in output
    assert main(["ladder", "my.yaml", "--dry-run"]) == 0
    assert "1 runs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rates", "budget", "expected", "how"),
    [
        (RATES, "4e15", lambda n: 2e-3 > n > 2e-4, "continued beyond 2M"),
        (RATES, "2e13", lambda n: 8e-3 > n > 2e-3, "interpolated in log-log between the best runs of"),
        (dict.fromkeys(SIZES, 1e-3), "4e15", lambda n: n == 1e-3, "that of every run"),
        (dict(zip(SIZES, (1e-3, 1e-3, 1e-3, 1e-3, 5e-3), strict=True)), "4e15", lambda n: n == 5e-3, "not raised"),
    ],
)
def test_the_learning_rate_comes_from_the_neighbours_and_is_explained(
    tmp_path: Path, rates: dict[str, float], budget: str, expected: Callable[[float], bool], how: str
) -> None:
    runs = make_runs(tmp_path / "runs", rates)
    choice = choose_next([runs], budget, "chinchilla", bootstrap=0)
    assert expected(choice.learning_rate), choice.learning_rate
    (line,) = [line for line in choice.lines if line.startswith("learning rate")]
    assert how in line


def test_a_law_of_the_best_rate_sets_it_by_size_and_data(runs: Path, tmp_path: Path) -> None:
    law = {
        "schema_version": 1,
        "kind": KIND,
        "coefficients": {"a": 1.0, "b": -0.4, "c": -0.1},
        "parameters_counted": "total",
    }
    law["ranges"] = {"N": [1e4, 1e5], "D": [1e3, 1e9]}
    (tmp_path / "law.json").write_text(json.dumps(law))
    choice = choose_next([runs], "2e13", "chinchilla", bootstrap=0, rate_law=tmp_path / "law.json")
    n, d = choice.sized.parameters, choice.molecules
    assert choice.learning_rate == pytest.approx(np.exp(1.0 - 0.4 * np.log(n) - 0.1 * np.log(d)), rel=1e-6)
    assert choice.tree["overrides"]["train"]["learning_rate"] == pytest.approx(choice.learning_rate, rel=0.005)
    (line,) = [line for line in choice.lines if line.startswith("learning rate")]
    assert "law.json; extrapolated: N is" in line


def test_the_warm_up_of_a_branch_is_not_stretched_over_a_longer_run(tmp_path: Path) -> None:
    runs = make_runs(tmp_path / "runs")
    for path in runs.rglob("config.yaml"):
        tree = yaml.safe_load(path.read_text())
        if tree["train"]["steps"] > 200:  # so that a branch of 200 steps, which warmed up for 60, is the only template
            path.unlink()
            continue
        tree["train"] = {**tree["train"], "warmup_steps": 60, "schedule": "wsd"}
        path.write_text(yaml.safe_dump(tree))
    choice = choose_next([runs], "4e14", "chinchilla", bootstrap=0)
    write_next(choice, tmp_path / "next.yaml")
    (rung,) = plan(read_ladder(tmp_path / "next.yaml"))
    assert choice.steps > 400
    assert rung.overrides["train.warmup_steps"] == pytest.approx(60, abs=1)


def test_a_model_is_made_for_any_number_of_parameters() -> None:
    for parameters in np.geomspace(3e4, 3e9, 14):
        sized = model_for_parameters(float(parameters), {})
        assert sized.parameters == pytest.approx(parameters, rel=0.13 if parameters < 2e5 else 0.11), sized
        assert sized.model.atom_width == 16 * sized.model.heads
    assert model_for_parameters(1.1e9, {}).changes == {}
    for parameters, layers, width in [(124e3, 3, 48), (250e3, 3, 80), (1.3e6, 5, 160)]:  # not 1 × 64, 8 × 48, 4 × 176
        shape = model_for_parameters(parameters, {}).model
        assert (shape.layers, shape.atom_width) == (layers, width)
    between = model_for_parameters(7e6, {"dropout": 0.3})
    assert between.size == "4M"
    assert between.model.dropout == between.changes["dropout"] == 0.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "lots"], "not a number of FLOPs"),
        (["--law", "power"], "has no trade-off between size and data"),
        (["--law", "powr"], "unknown law 'powr'"),
        (["--slurm"], "on that file with --slurm"),
        (["--rate-law", "nowhere.json"], "nowhere.json cannot be read"),
    ],
)
def test_a_mistake_is_told(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    output = tmp_path / "n.yaml"
    assert main(["ladder", "--next", str(runs), "--output", str(output), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_ladder_wants_a_file_or_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ladder"]) == 2
    assert "either a ladder file, or --next" in capsys.readouterr().err


def test_runs_of_one_budget_choose_nothing(tmp_path: Path) -> None:
    write_ladder(tmp_path, sizes=SIZES)
    with pytest.raises(RunError, match="runs that differ in both"):
        choose_next([tmp_path])


def test_a_size_whose_model_was_changed_is_not_mistaken_for_the_preset(tmp_path: Path) -> None:
    write_ladder(tmp_path, sizes=SIZES, steps=(200, 800, 3200))
    stretched = tmp_path / "next-2M-3200-0"
    (tmp_path / "2M-3200-0").rename(stretched)
    summary = json.loads((stretched / "summary.json").read_text())
    summary["name"], summary["parameters"]["total"] = stretched.name, 2_500_000
    (stretched / "summary.json").write_text(json.dumps(summary))
    records, _ = read_runs([tmp_path])
    with pytest.raises(RunError, match=r"2M does not name one model: .* 1\.80388e\+06 and 2\.5e\+06 parameters"):
        parameters_of_size("2M", records, "total")


def test_the_trainer_takes_what_was_written(tmp_path: Path) -> None:
    from unimol_scale.config import read_settings, to_yaml
    from unimol_scale.engine.run.run_config import resolve

    runs = make_runs(tmp_path / "runs")
    settings = ["train.precision=fp32", f"train.global_batch_size={BATCH}", "objective.denoise.token_weight=2"]
    settings += ["train.learning_rate=2e-3", "model.dropout=0.2", "data.validation_repeats=4"]
    for folder in runs.iterdir():
        size, steps, _ = folder.name.split("-")
        flags = {"data": {"path": "data/sample"}, "output": str(folder)}
        lengths = [f"train.steps={steps}", f"train.warmup_steps={int(steps) // 10}"]
        template = resolve(size, *read_settings(None, flags, [*settings, *lengths]))
        (folder / "config.yaml").write_text(to_yaml(template))
    choice = choose_next([runs], "5e15", "chinchilla", bootstrap=0)  # between presets
    assert "layers" in choice.sized.changes
    write_next(choice, tmp_path / "next.yaml")
    config = read_ladder(tmp_path / "next.yaml")
    (rung,) = plan(config)
    words = command(config, rung, 1)
    assignments = [word for word in words if "=" in word]
    resolved = resolve(rung.size, *read_settings(None, {"data": {"path": "data/sample"}, "output": "x"}, assignments))
    assert resolved.model == choice.sized.model
    assert resolved.model.dropout == 0.2
    assert resolved.objective_sha256 == template.objective_sha256  # or the fit would refuse to take it in
    assert resolved.data == template.data
    assert resolved.train.steps == choice.steps
    assert resolved.train.precision == "fp32"


def test_what_a_run_of_before_does_not_record_the_next_one_is_told(tmp_path: Path) -> None:
    runs = make_runs(tmp_path / "runs")
    absent = {"objective.denoise.shown": "all", "objective.denoise.noise_std": 0.3}
    recorded = {"noise_std": 0.2}
    for folder in runs.iterdir():
        tree = yaml.safe_load((folder / "config.yaml").read_text())
        tree["objective"] = {"name": "denoise", "denoise": recorded}
        (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    choice = choose_next([runs], "4e14", "chinchilla", bootstrap=0, absent=absent)
    assert choice.tree["overrides"]["objective"]["denoise"] == {"shown": "all", **recorded}


def test_a_run_whose_configuration_is_torn_lends_nothing_and_the_next_one_does(tmp_path: Path) -> None:
    runs = make_runs(tmp_path / "runs")
    before = choose_next([runs], "4e14", "chinchilla", bootstrap=0)
    (template,) = [line.split(";")[0].rsplit(" ", 1)[1] for line in before.lines if line.startswith("other settings")]
    (runs / template / "config.yaml").write_text("model: {layers: 2\ntrain:")
    choice = choose_next([runs], "4e14", "chinchilla", bootstrap=0)
    assert any(
        line.startswith("warning:") and f"{template}/config.yaml is not valid YAML" in line for line in choice.lines
    )
    assert choice.sized == before.sized
    for folder in runs.iterdir():
        (folder / "config.yaml").write_text("[]")
    with pytest.raises(RunError, match="none can be read"):
        choose_next([runs], "4e14", "chinchilla", bootstrap=0)


def test_the_next_run_after_branches_decays_as_they_did_and_does_it_all_itself(tmp_path: Path) -> None:
    make_runs(tmp_path / "runs")
    for folder in (tmp_path / "runs").iterdir():
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["train"] |= {"schedule": "wsd", "decay_fraction": 0.3, "keep_steps": [10]}
        (folder / "config.yaml").write_text(yaml.safe_dump({**config, "branch_from": "runs/trunk"}))
        summary = json.loads((folder / "summary.json").read_text())
        branch = {"trunk": "runs/trunk", "own": {"flops": 1.0}}
        (folder / "summary.json").write_text(json.dumps({**summary, "schedule": "wsd", "branch": branch}))
    write_next(choose_next([tmp_path / "runs"], "4e14", "chinchilla", bootstrap=0), tmp_path / "next.yaml")
    (rung,) = plan(read_ladder(tmp_path / "next.yaml"))
    assert (rung.overrides["train.schedule"], rung.overrides["train.decay_fraction"]) == ("wsd", 0.3)
    assert not {"train.keep_steps", "branch_from"} & rung.overrides.keys()
