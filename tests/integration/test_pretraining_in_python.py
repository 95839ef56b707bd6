"""Pretraining called by a Python process that goes on afterwards, such as a notebook's."""

import json
import subprocess
from pathlib import Path

from tests.helpers.python_program import run_program

BEGINNING = """
import json, os, pathlib, signal, sys
from tests.helpers.plain_training import SETTINGS, small_store
from unimol_scale.config import read_settings
from unimol_scale.engine.pretraining import pretrain
from unimol_scale.engine.run.run_config import resolve
from unimol_scale.errors import UnimolScaleError

def run(output, *settings):
    given = {"data": {"path": "store"}, "output": output}
    return pretrain(resolve("0.03M", *read_settings(None, given, [*SETTINGS[2:], *settings])))

small_store(pathlib.Path("store"))
"""


def python(folder: Path, program: str) -> "subprocess.CompletedProcess[str]":
    return run_program(folder, BEGINNING, program)


def test_one_process_does_several_runs_and_outlives_their_errors(tmp_path: Path) -> None:
    program = """
    before = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT")}
    small_store(pathlib.Path("all-atoms"))
    manifest = json.loads(pathlib.Path("all-atoms/manifest.json").read_text())
    pathlib.Path("all-atoms/manifest.json").write_text(json.dumps({**manifest, "hydrogens": True}))
    told = [run("a").how, run("a").how, run("b", "data.path=all-atoms").how]
    try:
        run("store")  # holds something else
    except UnimolScaleError as error:
        told.append(type(error).__name__)
    told.append(run("a", "train.steps=16").summary["steps"])
    assert before == {name: os.environ.get(name) for name in before}, "what is started later is no rank"
    json.dump(told, open("told.json", "w"))
    """
    done = python(tmp_path, program)
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "told.json").read_text())
    assert told == ["finished", "finished before", "finished", "StoreError", 16]
    seen = [json.loads((tmp_path / run / "model" / "config.json").read_text())["hydrogens"] for run in ("a", "b")]
    assert seen == [False, True], "fine-tuning shows molecules as pretraining did"


def test_ctrl_c_saves_after_the_step_and_the_process_goes_on(tmp_path: Path) -> None:
    program = """
    from unimol_scale.engine.optimizer_step import OptimizerStep
    step, done = OptimizerStep.__call__, []
    def interrupted(*arguments):
        done.append(1)
        if len(done) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*arguments)
    OptimizerStep.__call__ = interrupted
    stopped = run("a", "data.workers=0")
    json.dump([stopped.how, stopped.summary, run("a").how], open("told.json", "w"))
    """
    done = python(tmp_path, program)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "told.json").read_text()) == ["stopped", None, "finished"]


def test_ctrl_c_before_the_first_step_is_the_callers_to_handle(tmp_path: Path) -> None:
    program = """
    from unimol_scale.engine import trainer
    trainer.prepare_host_memory = lambda *_: os.kill(os.getpid(), signal.SIGINT)
    try:
        run("a")
    except KeyboardInterrupt:
        print("interrupted")
    """
    done = python(tmp_path, program)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


def test_deepspeed_gets_from_graphs_the_gradients_that_it_would_compute_itself(tmp_path: Path) -> None:
    program = """
    from unimol_scale.common.metrics_file import read_metrics
    from unimol_scale.engine import trainer

    trainer.capture_on = lambda device: lambda work: work  # a CPU replays by doing the work again
    cases = [("zero.stage=0", "train.precision=fp32"), ("zero.stage=1", "train.precision=bf16")]
    told = []
    for number, case in enumerate(cases):
        for graphs in ("false", "true"):
            output = f"{number}-{graphs}"
            run(output, *case, f"train.cuda_graphs={graphs}", "data.buckets=true", "data.max_pairs=400")
            events = read_metrics(pathlib.Path(output) / "metrics.jsonl").events
            told.append([[event["loss"], event["grad_norm"]] for event in events if "loss" in event])
    json.dump(told, open("told.json", "w"))
    """
    done = python(tmp_path, program)
    assert done.returncode == 0, done.stderr
    eager, graphed, eager_bf16, graphed_bf16 = json.loads((tmp_path / "told.json").read_text())
    assert len(eager) == len(eager_bf16) == 12
    assert graphed == eager
    assert graphed_bf16 == eager_bf16
