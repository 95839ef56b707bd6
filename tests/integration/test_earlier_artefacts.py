"""What earlier versions wrote still loads, resumes and predicts. tests/earlier/README.md says what there is.

Every generation is used through its own commands, which written.json lists, on a copy of its folder.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import unimol_scale
from unimol_scale.config import build, read_yaml
from unimol_scale.engine.run.run_config import PretrainConfig
from unimol_scale.objectives.config import ObjectiveConfig

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
GENERATIONS = sorted(path.parent for path in (REPOSITORY / "tests" / "earlier").glob("*/written.json"))
PROGRAMS = {
    "build": [sys.executable, str(REPOSITORY / "conformer_gen" / "build.py")],
    "pretrain": [sys.executable, str(REPOSITORY / "launch" / "pretrain.py")],
    "unimol-scale": [str(BIN / "unimol-scale")],
}
STOPPED = [
    (path, command["arguments"])
    for path in GENERATIONS
    for command in json.loads((path / "written.json").read_text())["commands"]
    if command["ended"] == "stopped"
]
CLOSE = {"rtol": 0.0, "atol": 1e-5}


class Generation:
    """A copy of what one version wrote, and the commands that wrote it.

    Attributes:
        folder: the copy; commands run in it.
    """

    def __init__(self, original: Path, folder: Path) -> None:
        self.folder = shutil.copytree(original, folder)
        self._written = json.loads((folder / "written.json").read_text())
        (folder / "launch").symlink_to(REPOSITORY / "launch")  # where a ladder of 2026-11-28 looks for it

    def commands(self, program, ended="finished", verb=None):
        """Return the arguments of every command of a program that ended so."""
        found = [c["arguments"] for c in self._written["commands"] if (c["program"], c["ended"]) == (program, ended)]
        return [arguments for arguments in found if verb in (None, arguments[0])]

    def run(self, program, *arguments):
        """Run a command on one rank, as a user would; return what it said."""
        done = subprocess.run(
            [*PROGRAMS[program], *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{program} {' '.join(map(str, arguments))}:\n{done.stdout}"
        return done.stdout

    def was_written_here(self, folder):
        """Let the settings of the runs in a folder name places in this copy, as if it had never been moved."""
        for path in folder.rglob("config.yaml"):
            path.write_text(path.read_text().replace(self._written["folder"], str(self.folder)))

    def needs_its_conformers(self):
        """Skip where RDKit is another one: it makes other conformers, and neither values nor bytes can be the same."""
        if self._written["versions"]["rdkit"] != version("rdkit"):
            pytest.skip(f"written with RDKit {self._written['versions']['rdkit']}, and here is {version('rdkit')}")


@pytest.fixture(params=GENERATIONS, ids=lambda path: path.name)
def earlier(request, tmp_path):
    return Generation(request.param, tmp_path / "earlier")


def option(arguments, name):
    return arguments[arguments.index(name) + 1]


def with_output(arguments, output):
    """Return the arguments with another output."""
    place = arguments.index("--output") + 1
    return [*arguments[:place], str(output), *arguments[place + 1 :]]


def shards(store):
    return {
        str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("shard-*")) if path.is_file()
    }


def events(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_stores_are_intact_and_known_as_finished(earlier):
    builds = earlier.commands("build")
    assert {option([*arguments, "--backend", "arrow"], "--backend") for arguments in builds} == {"arrow", "lmdb"}
    for arguments in builds:
        earlier.run("unimol-scale", "store", "verify", option(arguments, "--output"))
    # With another RDKit the same command would not be for the same store.
    earlier.needs_its_conformers()
    assert "already finished: nothing to do" in earlier.run("build", *builds[0])


def test_a_killed_build_is_finished_with_the_bytes_of_a_fresh_one(earlier):
    earlier.needs_its_conformers()
    killed = earlier.commands("build", "killed")
    assert killed
    for arguments in killed:
        store = earlier.folder / option(arguments, "--output")
        kept = [path for path in (store / ".build" / "embedded").rglob("*") if path.is_file()]
        assert kept, "no conformer was made before the kill"
        assert "generating conformers" in earlier.run("build", *arguments)
        earlier.run("build", *with_output(arguments, "fresh"))
        assert shards(store) == shards(earlier.folder / "fresh")
        assert shards(store)


@pytest.mark.parametrize(("original", "arguments"), STOPPED, ids=lambda it: it.name if isinstance(it, Path) else it[5])
def test_a_stopped_run_goes_on_with_the_losses_it_would_have_had(original, arguments, tmp_path):
    earlier = Generation(original, tmp_path / "earlier")
    name = option(arguments, "--output")
    run = earlier.folder / name
    step = int((run / "checkpoints" / "latest").read_text().strip().removeprefix("step-"))
    before = events(run)
    assert max(event["step"] for event in before) == step
    assert f"(step {step})" in earlier.run("pretrain", *arguments)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert f"train.steps={summary['steps']}" in arguments
    after = events(run)
    assert after[: len(before)] == before
    found = {event["step"]: event["loss"] for event in after if "loss" in event}
    expected = json.loads((earlier.folder / "expected" / "losses.json").read_text())[name]
    assert list(found) == list(range(1, summary["steps"] + 1))
    # Another processor rounds in another way; a state that is not taken up whole is further off than that.
    assert list(found.values()) == pytest.approx(list(expected.values()), rel=1e-3)
    assert unimol_scale.from_pretrained(run)


def test_a_teacher_of_before_saw_the_graph_and_goes_on_seeing_it(earlier):
    tree, origin = read_yaml(earlier.folder / "runs" / "distill-stopped" / "config.yaml")
    assert "teacher_inputs" not in tree["objective"]["distill"]
    objective = build(PretrainConfig, tree, replace(origin, recorded=True)).objective
    assert objective.distill.teacher_inputs == "full"
    assert "teacher_inputs" not in objective.identity["settings"]["distill"], "its hash would be another one"
    today = build(ObjectiveConfig, tree["objective"], origin)
    assert today.identity["settings"]["distill"]["teacher_inputs"] == "3d"


def test_every_generation_has_a_stopped_run_of_every_objective():
    assert GENERATIONS
    for original in GENERATIONS:
        mine = [" ".join(arguments) for generation, arguments in STOPPED if generation == original]
        for objective in ("mixture.denoise", "mixture.blend", "distill"):
            assert any(f"objective.{objective}" in line for line in mine), (original, objective)


def test_finished_work_is_known_as_finished(earlier):
    done = earlier.commands("pretrain")
    assert done
    for arguments in done:
        log = earlier.folder / option(arguments, "--output") / "metrics.jsonl"
        before = log.read_bytes()
        assert "is already finished with these settings; nothing to do" in earlier.run("pretrain", *arguments)
        assert log.read_bytes() == before
    (ladder,) = earlier.commands("unimol-scale", verb="ladder")
    earlier.was_written_here(earlier.folder / "ladder")  # a ladder of 2026-11-28 wants its store where it was
    said = earlier.run("unimol-scale", *ladder)
    assert said.count("already finished") == 2, said


def test_models_give_the_vectors_they_gave(earlier, monkeypatch):
    earlier.needs_its_conformers()
    monkeypatch.chdir(earlier.folder)
    commands = earlier.commands("unimol-scale", verb="embed")
    assert commands
    for arguments in commands:
        expected = pq.read_table(option(arguments, "--output"))
        text = Path(arguments[1]).read_text()
        smiles = (
            [row["smiles"] for row in csv.DictReader(text.splitlines())] if ".csv" in arguments[1] else text.split()
        )
        found = unimol_scale.from_pretrained(option(arguments, "--from")).embed(smiles)
        np.testing.assert_allclose(found, vectors(expected), **CLOSE, err_msg=str(arguments))
    earlier.run("unimol-scale", *with_output(commands[0], "again.parquet"))
    again = pq.read_table("again.parquet")
    assert set(again.column_names) >= set(pq.read_table(option(commands[0], "--output")).column_names)
    np.testing.assert_allclose(vectors(again), vectors(pq.read_table(option(commands[0], "--output"))), **CLOSE)


def vectors(table):
    return np.array(table["embedding"].to_pylist(), dtype=np.float32)


def test_a_fine_tuned_model_is_finished_and_predicts_what_it_predicted(earlier):
    earlier.needs_its_conformers()
    (finetune,) = earlier.commands("unimol-scale", verb="finetune")
    assert "nothing was computed" in earlier.run("unimol-scale", *finetune)
    (predict,) = earlier.commands("unimol-scale", verb="predict")
    earlier.run("unimol-scale", *with_output(predict, "predicted.csv"))
    found, expected = (
        list(csv.DictReader((earlier.folder / name).open())) for name in ("predicted.csv", option(predict, "--output"))
    )
    assert [row["smiles"] for row in found] == [row["smiles"] for row in expected]
    target = option(finetune, "--target")
    np.testing.assert_allclose([float(row[target]) for row in found], [float(row[target]) for row in expected], **CLOSE)


def test_a_table_of_losses_gives_the_law_it_gave(earlier):
    (fit,) = earlier.commands("unimol-scale", verb="fit-scaling-law")
    earlier.run("unimol-scale", *with_output(fit, "again"))
    found, expected = (
        json.loads((earlier.folder / folder / "law.json").read_text()) for folder in ("again", option(fit, "--output"))
    )
    assert found["law"]["name"] == expected["law"]["name"]
    assert found["law"]["parameters"] == pytest.approx(expected["law"]["parameters"], rel=1e-3)
    assert found["predictions"][0]["loss"] == pytest.approx(expected["predictions"][0]["loss"], rel=1e-3)
    if found["schema_version"] == expected["schema_version"]:
        assert expected.keys() <= found.keys(), "a key went away, and the version of the schema did not rise"
