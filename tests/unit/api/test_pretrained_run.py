"""``us.pretrain`` inside a process that goes on afterwards, such as a notebook's, and ``us.plan``."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import unimol_scale as us
from tests.helpers.flags import flags_in
from tests.helpers.plain_training import small_store
from tests.helpers.python_program import run_program
from unimol_scale.cli.main import main
from unimol_scale.engine import pretraining

BEGINNING = """
import json, os, pathlib, signal, sys, threading, torch
import unimol_scale as us
from tests.helpers.plain_training import small_store
small_store(pathlib.Path("store"))
small = {"train.steps": 8, "train.warmup_steps": 2, "train.global_batch_size": 8, "train.precision": "fp32",
         "train.checkpoint_every": 4, "train.rehearse": False}
def told(**facts):
    json.dump(facts, open("told.json", "w"))
"""


def notebook(folder: Path, program: str) -> "tuple[dict, subprocess.CompletedProcess[str]]":
    """Run a program in a process of its own; return what it told and how it ended."""
    done = run_program(folder, BEGINNING, program)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "told.json").read_text()), done


@pytest.mark.deepspeed
def test_a_thread_trains_in_silence_and_leaves_the_process_as_it_was(tmp_path):
    program = """
    runs, handler = [], signal.getsignal(signal.SIGINT)
    torch.set_num_threads(3)
    def train():
        runs.append(us.pretrain("0.03M", data="store", output="run", settings=small))
    work = threading.Thread(target=train)
    work.start(); work.join()
    (run,) = runs
    told(how=run.how, steps=run.steps, loss=run.loss, losses=run.losses, threads=torch.get_num_threads(),
         rank=os.environ.get("RANK"), same=signal.getsignal(signal.SIGINT) is handler, folder=os.fspath(run),
         width=us.from_pretrained(run).embed("CCO", inputs="2d").shape[1],
         parameters=run.summary["parameters"]["total"], steps_set=run.settings["train"]["steps"])
    """
    found, done = notebook(tmp_path, program)
    assert (done.stdout, done.stderr) == ("", "")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert found["losses"] == summary["final"]
    assert found["loss"] == summary["final"]["valid/loss"]
    assert (found["how"], found["steps"], found["steps_set"]) == ("finished", 8, 8)
    assert (found["threads"], found["rank"], found["same"]) == (3, None, True)
    assert (found["folder"], found["width"], found["parameters"]) == ("run", 16, summary["parameters"]["total"])


@pytest.mark.deepspeed
def test_a_run_that_was_stopped_or_broke_goes_on_in_the_same_process(tmp_path):
    program = """
    from unimol_scale.engine.optimizer_step import OptimizerStep
    step, calls = OptimizerStep.__call__, []
    def disturbed(*arguments):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        if len(calls) == 9:
            raise KeyError("a bug")
        return step(*arguments)
    OptimizerStep.__call__ = disturbed
    def run(**more):
        return us.pretrain("0.03M", data="store", output="run", settings={**small, "train.steps": 12}, **more)

    first = run()
    try:
        run()
    except KeyError as error:
        kept = error  # as a notebook keeps the last one, and with it all that its frames hold
    last = run()
    try:
        run(resume=False, settings2=1)
    except us.ConfigError as error:
        wrong = str(error)
    more = us.pretrain(data="store", output="run", extend=4)
    told(first=[first.how, first.stopped, first.steps, first.loss], last=[last.how, last.stopped, last.steps],
         more=[more.how, more.steps], wrong=wrong)
    """
    found, done = notebook(tmp_path, program)
    assert done.stdout == ""
    how, stopped, steps, loss = found["first"]
    assert (how, stopped, steps) == ("stopped", True, 4)
    assert loss > 0
    assert found["last"] == ["finished", False, 12]
    assert found["more"] == ["finished", 16]
    assert "arguments of pretrain: settings2: unknown key" in found["wrong"]


def test_loader_processes_of_a_program_from_standard_input_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "<stdin>", raising=False)
    with pytest.raises(us.ConfigError, match=r"^data\.workers: .*<stdin> is not a file; write the program to a file"):
        us.pretrain("0.03M", data=small_store(tmp_path / "s"), output=tmp_path / "run", settings={"data.workers": 2})


@pytest.mark.deepspeed
def test_progress_is_shown_if_it_is_asked_for(tmp_path):
    program = """
    run = us.pretrain("0.03M", data="store", output="run", settings=small, progress=True)
    told(steps=run.steps)
    """
    _, done = notebook(tmp_path, program)
    assert done.stdout == ""
    assert "[run] step 8/8  loss" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"settings": {"train.step": 4}}, us.ConfigError, r"arguments of pretrain: train.step: .*did you mean 'steps'"),
        ({"resum": False}, us.ConfigError, "'resum'; did you mean 'resume'"),
        ({"overide": True}, us.ConfigError, "'overide'; did you mean 'override'"),
        ({"extend": "abc"}, us.ConfigError, "^extend: expected a whole number of steps, got 'abc'"),
        ({"size": 100_000}, us.ConfigError, "unknown size 100000"),
        ({"size": "9M"}, us.ConfigError, "unknown size '9M'; did you mean '4M'"),
        ({"size": None}, us.ConfigError, "^size is required"),
        ({"data": "nowhere"}, us.StoreError, "no store at .*nowhere"),
        ({"extend": 5, "resume": False}, us.ConfigError, "extend continues a run, but resume=False starts anew"),
        ({"extend": 5}, us.ConfigError, "^extend continues a run, but .* holds none"),
        ({"objective": "denoize"}, us.ConfigError, "did you mean 'denoise'"),
        ({"train": {"steps": 0}}, us.ConfigError, "train.steps must be at least 1"),
        ({"data": {"a", "b"}}, us.ConfigError, "^data: expected a list, got a set, which has no order"),
    ],
)
def test_what_is_wrong_with_a_call_is_said_by_the_names_of_its_arguments(tmp_path, arguments, error, message):
    call = {"size": "0.03M", "data": small_store(tmp_path / "store"), "output": tmp_path / "run", **arguments}
    with pytest.raises(error, match=message) as raised:
        us.pretrain(**call)
    assert not flags_in(raised.value)


def test_what_names_the_dry_run_of_the_command_names_the_call_that_does_it(tmp_path, monkeypatch):
    def full(*_, **__):
        raise us.RunError("the largest micro-batch does not fit; --dry-run shows what takes it")

    monkeypatch.setattr(pretraining, "pretrain", full)
    with pytest.raises(us.RunError, match=r"; us\.plan shows what takes it$"):
        us.pretrain("0.03M", data=small_store(tmp_path / "store"), output=tmp_path / "run")


def test_a_plan_is_the_screen_and_the_numbers_of_the_command(sample_store, capfd):
    asked = ["plan", "--size", "84M", "--gpus", "8", "--device", "a100", "--data", str(sample_store)]
    plan = us.plan(
        "84M", gpus=8, device="a100", data=sample_store, settings={"train.steps": 1000, "train.warmup_steps": 9}
    )
    assert capfd.readouterr() == ("", "")
    assert main([*asked, "train.steps=1000", "train.warmup_steps=9"]) == 0
    assert capfd.readouterr().out == f"{plan}\n"
    assert main([*asked, "train.steps=1000", "train.warmup_steps=9", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == json.loads(json.dumps(plan.tree))
    assert plan.steps.steps == plan.tree["steps"]["steps"] == 1000
    assert plan.memory.total == plan.tree["memory"]["total"]
    assert "fits" in repr(plan)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "h10"}, "^device: unknown device 'h10'; did you mean 'h100'"),
        ({"gpus": 0}, "gpus must be at least 1"),
        ({"mfu": 3.0}, "^mfu must be above 0"),
        ({"gpu_memory": "80GX"}, "^gpu_memory: '80GX' is not a size"),
        ({"data": "store"}, "^give either data, .* or atoms"),
        ({"gpus": "some"}, "arguments of plan: gpus: expected a whole number, got 'some'"),
        ({"atoms": 25.5}, "arguments of plan: atoms: expected a whole number, got 25.5"),
        ({"gpu_memory": 8.0e10}, "arguments of plan: gpu_memory: expected text"),
        ({"gpu": 8}, "'gpu'; did you mean 'gpus'"),
        ({"zero_stage": 7}, "zero.stage: unknown value 7"),
        ({"objectiv": "blend"}, "did you mean 'objective'"),
    ],
)
def test_what_is_wrong_with_a_plan_is_said_by_the_names_of_its_arguments(arguments, message):
    with pytest.raises(us.ConfigError, match=message) as raised:
        us.plan("84M", **{"gpus": 8, "atoms": 25, **arguments})
    assert not flags_in(raised.value)
