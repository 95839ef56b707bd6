"""Models that are fitted in processes are those that are fitted here, whatever happens to a process."""

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.helpers.ranks import REPOSITORY
from tests.helpers.tiny_finetuning import fitting
from unimol_scale.downstream.finetuning import finetune as finetuning
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.downstream.finetuning.processes import fit_in_processes
from unimol_scale.errors import LostProcessError, RunError

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks at processes in /proc")

# A metric that kills its process the first time that a model is judged by it.
FATAL = """
import os, signal
from pathlib import Path

def fatal_error(labels, predictions):
    mark = Path(__file__).with_name("killed")
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return float(abs(labels - predictions).mean())
"""


@pytest.fixture
def one_thread():
    """Compute with one thread, as each process does; otherwise micro-batches side by side would differ in rounding."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fatal(tmp_path, monkeypatch):
    """The name of a fatal metric in a file of its own."""
    (tmp_path / "fatal_metric.py").write_text(FATAL)
    monkeypatch.syspath_prepend(tmp_path)
    return "fatal_metric:fatal_error"


def weights(folder):
    """Return the files of the models of a folder."""
    return [path.read_bytes() for path in sorted(folder.glob("seed-*.safetensors"))]


def test_processes_fit_the_models_that_one_process_fits(settings, tmp_path, one_thread, caplog):
    caplog.set_level(logging.INFO, "unimol_scale")
    config = settings(inputs="2d", seeds=3, train=fitting(epochs=3, dropout=0.2), models_at_once=1)
    alone = finetune(config)
    caplog.clear()
    several = dataclasses.replace(config, output=tmp_path / "several", models_at_once=2)
    assert finetune(several).seeds == alone.seeds
    assert weights(several.folder) == weights(config.folder)
    assert len(weights(several.folder)) == 3
    said = [record.getMessage() for record in caplog.records]
    assert any(record.name.endswith("models_progress") for record in caplog.records)  # not one after another
    assert any(
        text.startswith("training 3 models on") and "2 at a time, each for up to 3 epochs" in text for text in said
    )
    assert sorted(text.split("]")[0] for text in said if "done after 3 epochs" in text) == [
        "[set, seed 0", "[set, seed 1", "[set, seed 2",
    ]  # fmt: skip
    assert finetune(dataclasses.replace(several, models_at_once=None)).seeds == alone.seeds  # the setting may change


def test_the_models_of_every_fold_and_seed_are_fitted_in_processes(settings, tmp_path, one_thread, caplog):
    config = settings(inputs="2d", split="random-kfold", folds=2, seeds=2, train=fitting(epochs=1), models_at_once=1)
    alone = finetune(config)
    caplog.set_level(logging.INFO, "unimol_scale")
    several = dataclasses.replace(config, output=tmp_path / "several", models_at_once=2)
    assert finetune(several).seeds == alone.seeds
    assert weights(several.folder) == weights(config.folder)
    done = {record.getMessage().split("]")[0] for record in caplog.records if "done after" in record.getMessage()}
    assert len(done) == 4  # each has a name of its own


def test_a_killed_process_is_reported_and_the_same_command_goes_on(settings, tmp_path, one_thread, fatal):
    config = settings(inputs="2d", seeds=2, metric=fatal, models_at_once=2)
    with pytest.raises(LostProcessError, match=r"set, seed \d: its process ended with status -9 .*--models-at-once 1"):
        finetune(config)
    assert len(weights(config.folder)) == 1  # the other model is finished first
    done = finetune(config)
    undisturbed = dataclasses.replace(config, output=tmp_path / "undisturbed", models_at_once=1)
    assert finetune(undisturbed).seeds == done.seeds


def test_models_are_the_same_after_an_interruption_whatever_the_number_of_threads(settings, tmp_path):
    """A model that is left over is trained with as many threads as if it were one of all."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        config = settings(inputs="2d", seeds=2, train=fitting(epochs=3, dropout=0.2), models_at_once=2)
        done = finetune(config)
        for path in (config.folder / "seed-1.json", config.folder / "results.json"):
            path.unlink()
        assert finetune(config).seeds == done.seeds
    finally:
        torch.set_num_threads(before)


def test_data_that_changes_meanwhile_is_not_trained_on(settings, tmp_path, monkeypatch):
    table = tmp_path / "changing.csv"
    table.write_bytes(settings().data.read_bytes())
    config = settings(data=table, inputs="2d", seeds=2, models_at_once=2)

    def changed(*arguments):
        table.write_text(table.read_text() + "CCCO,3,0\n")
        return fit_in_processes.fit_in_processes(*arguments)

    monkeypatch.setattr(finetuning, "fit_in_processes", changed)
    with pytest.raises(RunError, match="has changed since this command began"):
        finetune(config)


def test_what_goes_wrong_in_a_process_is_said_as_here(settings, one_thread):
    config = settings(inputs="2d", seeds=2, train=fitting(epochs=3, learning_rate=1e30), models_at_once=2)
    with pytest.raises(RunError, match=r"lower train\.learning_rate"):
        finetune(config)


def test_processes_end_with_the_command_that_is_killed(place, tmp_path):
    command = [
        sys.executable, "-m", "unimol_scale.cli", "finetune", "--data", place / "set.csv", "--target", "size", "--from",
        place / "pretrained", "--inputs", "2d", "--split", "random", "--seeds", "2", "--models-at-once", "2",
        "--output", tmp_path / "ft", "--cache", place / "cache", "--no-baselines",
        "train.epochs=1000000", "train.patience=1000000",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(list(map(str, command)), env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "best valid" in line:  # a model is in training
            break
    children = children_of(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert len(children) == 2
    ends = time.monotonic() + 60
    while any(map(lives, children)) and time.monotonic() < ends:
        time.sleep(0.1)
    assert not any(map(lives, children))


def children_of(parent):
    """Return the processes that a process has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == parent:
            found.append(int(path.parent.name))
    return found


def lives(process):
    """Return whether a process computes still; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
