"""Ladders that take their learning rates from a law, and count what an objective itself costs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from unimol_scale.checkpoints.weights import save_pretrained
from unimol_scale.cli.main import main
from unimol_scale.common.summary_file import Summary
from unimol_scale.config import to_tree
from unimol_scale.engine.planning.objective_counts import count_objective
from unimol_scale.errors import ConfigError
from unimol_scale.model.accounting import Heads, count_parameters, forward_flops, mean_flops, training_flops
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.model.presets import preset
from unimol_scale.scaling.ladder.ladder import plan, read_ladder
from unimol_scale.scaling.ladder.model_for_size import SizedModel
from unimol_scale.scaling.ladder.next_run import TemplateRun, flops_per_molecule
from unimol_scale.scaling.rates.rate_law_file import KIND, read_rate_law
from unimol_scale.scaling.runs.run_records import RunRecord

COEFFICIENTS = {"a": 1.0, "b": -0.4, "c": -0.1, "d": 0.25}
LAW = {
    "schema_version": 1,
    "kind": KIND,
    "coefficients": COEFFICIENTS,
    "ranges": {"N": [1e5, 1e6], "D": [1e5, 1e7], "batch": [64, 64]},
    "parameters_counted": "total",
}


def write(folder: Path, law: dict[str, object] = LAW, **keys: object) -> Path:
    (folder / "law.json").write_text(json.dumps(law))
    tree = {
        "name": "l",
        "data": "store",
        "sizes": ["0.1M", "2M"],
        "steps": [2000, 20000],
        "rate_law": str(folder / "law.json"),
        "overrides": {"train": {"global_batch_size": 64}},
        **keys,
    }
    (folder / "l.yaml").write_text(yaml.safe_dump({key: value for key, value in tree.items() if value is not None}))
    return folder / "l.yaml"


def test_every_run_has_the_rate_of_its_size_and_data(tmp_path: Path) -> None:
    for rung in plan(read_ladder(write(tmp_path))):
        n, d = count_parameters(preset(rung.size)).total, rung.steps * 64
        rate = np.exp(1.0 - 0.4 * np.log(n) - 0.1 * np.log(d) + 0.25 * np.log(64))
        assert rung.overrides["train.learning_rate"] == pytest.approx(rate, rel=0.005)
        beyond = [note.split(" is ")[0] for note in rung.rate_notes]
        assert beyond == (["N"] if rung.size == "2M" else [])


def test_branches_have_the_rate_of_their_trunk(tmp_path: Path) -> None:
    rungs = plan(read_ladder(write(tmp_path, schedule="wsd", warmup=0.1)))
    longest = plan(read_ladder(write(tmp_path, steps=[20000])))
    for size, alone in zip(("0.1M", "2M"), longest, strict=True):
        rates = {rung.overrides["train.learning_rate"] for rung in rungs if rung.size == size}
        assert rates == {alone.overrides["train.learning_rate"]}


def test_a_trunk_may_have_the_rate_of_the_middle_of_its_branches(tmp_path: Path) -> None:
    keys = {"sizes": ["0.1M"], "schedule": "wsd", "warmup": 0.1, "steps": [2000, 8000, 32000]}
    rungs = plan(read_ladder(write(tmp_path, trunk_rate="middle", **keys)))
    (alone,) = plan(read_ladder(write(tmp_path, sizes=["0.1M"], steps=[8000])))
    assert {rung.overrides["train.learning_rate"] for rung in rungs} == {alone.overrides["train.learning_rate"]}


def test_a_trunks_rate_is_refused_where_no_law_sets_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trunk_rate applies only with rate_law"):
        read_ladder(write(tmp_path, trunk_rate="middle", schedule="wsd", warmup=0.1, rate_law=None))


def test_the_plan_tells_the_rates_and_what_is_extrapolated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ladder", str(write(tmp_path)), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "learning rates by" in told
    assert "0.1M at 2000 steps 0." in told
    assert "extrapolated: N is" in told
    assert "for 2M at 2000 steps, 2M at 20000 steps" in told
    assert "train.learning_rate=0.0" in told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"overrides": {"train.global_batch_size": 64, "train.learning_rate": 1e-3}}, "is already set by rate_law"),
        ({"overrides": {}}, "rate_law: 0.1M needs a train.global_batch_size"),
        ({"rate_law": "nowhere.json"}, "rate_law: nowhere.json cannot be read"),
        ({"law": {"law": {"name": "chinchilla"}}}, "is not a law of the learning rate"),
        ({"law": {**LAW, "coefficients": {"b": 1.0}}}, "has the coefficients b"),
        ({"law": {**LAW, "ranges": None}}, "is damaged"),
        ({"law": {**LAW, "schema_version": 2}}, "of version 2, not 1"),
    ],
)
def test_a_ladder_whose_rates_are_not_to_be_had_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(read_ladder(write(tmp_path, **change)))  # type: ignore[arg-type]


def test_a_law_comes_back_from_its_file(tmp_path: Path) -> None:
    write(tmp_path)
    law = read_rate_law(tmp_path / "law.json")
    assert (dict(law.coefficients), law.ranges["D"]) == (COEFFICIENTS, (1e5, 1e7))


@pytest.mark.parametrize("objective", ["blend", "mixture"])
def test_budgets_in_flops_are_of_the_objective_itself(tmp_path: Path, objective: str) -> None:
    (tmp_path / "store").mkdir()
    histogram = {10: 3, 20: 1}
    tree = {"splits": {"train": {"size_histogram": {str(atoms): count for atoms, count in histogram.items()}}}}
    (tmp_path / "store" / "manifest.json").write_text(json.dumps(tree))
    overrides: dict[str, object] = {"train": {"global_batch_size": 64}}
    if objective == "mixture":
        overrides["objective"] = {"mixture": {"denoise": 0.5, "blend": 0.5}}
    budgets = {"data": str(tmp_path / "store"), "steps": None, "flops": [1e13], "sizes": ["0.1M"], "rate_law": None}
    path = write(tmp_path, objective=objective, overrides=overrides, **budgets)
    (rung,) = plan(read_ladder(path), count_objective)
    settings = {"objective": {"name": objective, **overrides.get("objective", {})}}  # type: ignore[dict-item]
    per_molecule = mean_flops(count_objective("0.1M", settings).training_flops, histogram)
    assert (rung.steps - 1) * 64 * per_molecule < 1e13 <= rung.steps * 64 * per_molecule
    assert per_molecule != mean_flops(lambda atoms: training_flops(preset("0.1M"), atoms), histogram)


def saved_teacher(folder: Path) -> Path:
    torch.manual_seed(0)
    save_pretrained(HeadedModel(preset("0.06M"), Heads()), folder)
    return folder


def test_a_student_costs_its_teachers_forward_pass_too(tmp_path: Path) -> None:
    teacher = saved_teacher(tmp_path / "teacher")
    settings = {"objective": {"name": "distill", "distill": {"teacher": str(teacher)}}}
    found = count_objective("0.1M", settings)
    student = replace(preset("0.1M"), geometry=False)
    width = preset("0.06M").atom_width
    heads = Heads(projection=width if width != student.atom_width else 0)
    for atoms in (10, 30):
        alone = training_flops(student, atoms, heads)
        assert found.training_flops(atoms) == pytest.approx(alone + forward_flops(preset("0.06M"), atoms, Heads()))
    assert found.parameters["total"] == count_parameters(student, heads).total


def test_the_next_student_is_not_charged_a_larger_teacher(tmp_path: Path) -> None:
    teacher = saved_teacher(tmp_path / "teacher")
    objective = {"name": "distill", "distill": {"teacher": str(teacher)}}
    settings = {"objective": objective, "model": to_tree(replace(preset("0.1M"), geometry=False))}
    counted = count_objective("0.1M", settings)
    record = RunRecord(
        name="r", source="runs/r", size="0.1M", parameters=1e5, molecules=1000.0, loss=1.0,
        flops=1000.0 * counted.training_flops(20), comparable={"objective": "distill"},
    )  # fmt: skip
    template = TemplateRun(record=record, settings=settings, summary=Summary(Path("s"), {}))
    model = replace(preset("2M"), geometry=False)
    sized = SizedModel(size="2M", changes={"geometry": False}, model=model, parameters=2e6)
    wanted = count_objective("2M", {**settings, "model": to_tree(model)}).training_flops(20)
    assert flops_per_molecule(template, sized, count_objective) == pytest.approx(wanted, rel=1e-6)
