import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import yaml

from unimol_scale.errors import ConfigError, RunError
from unimol_scale.scaling import ladder

# Stands in for launch/pretrain.py: reads the command line as that does and leaves the same files. Marker files in
# the folder of the store make it fail, stop early or hang.
PRETRAIN = '''
import argparse, json, os, subprocess, sys, time
from pathlib import Path
sys.path.insert(0, {helpers!r})
from simulated_runs import write_run
import yaml

# A rank that takes its time to save when it is told to stop.
RANK = """
import signal, sys, time
from pathlib import Path
data = Path(sys.argv[1])
def save(*_):
    time.sleep(0.5)
    (data / "saved").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
(data / "ready").touch()
time.sleep(600)
"""
parser = argparse.ArgumentParser()
for name in ("size", "objective", "data", "output"):
    parser.add_argument("--" + name, required=True)
parser.add_argument("overrides", nargs="*")
arguments = parser.parse_args()
settings = dict(item.split("=", 1) for item in arguments.overrides)
data, output = Path(arguments.data), Path(arguments.output)
with (data / "calls.txt").open("a") as calls:
    calls.write(output.name + "\\n")
print("training", arguments.size, "threads", os.environ["OMP_NUM_THREADS"])
if (data / "fail").exists():
    sys.exit("rank 1 died: out of molecules")
if (data / "hang").exists():
    child = subprocess.Popen([sys.executable, "-c", RANK, str(data)])
    while not (data / "ready").exists():
        time.sleep(0.05)
    (data / "pids.txt").write_text(f"{{os.getpid()}} {{child.pid}}")
    time.sleep(600)
if (data / "early").exists():
    sys.exit(0)
import shutil
shutil.rmtree(output, ignore_errors=True)
write_run(output, arguments.size, int(settings["train.steps"]), seed=int(settings["seed"]))
nested = {{"seed": int(settings["seed"]), "data": {{"path": str(data)}}, "train": {{}}}}
for key, value in settings.items():
    if key.startswith("train."):
        nested["train"][key[6:]] = yaml.safe_load(value)
(output / "config.yaml").write_text(yaml.safe_dump(nested))
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a store, a fake pretraining command, and a ladder of two sizes and two seeds."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").mkdir()
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "pretrain.py").write_text(PRETRAIN.format(helpers=str(Path(__file__).parent)))
    tree = {
        "name": "try",
        "data": "store",
        "launcher": "python",
        "sizes": ["0.1M", "1M"],
        "steps": [20],
        "seeds": [0, 1],
        "overrides": {"train": {"learning_rate": 0.001}},
    }
    (tmp_path / "ladder.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path


def climb(place: Path, **changes: object) -> list[ladder.Result]:
    path = place / "ladder.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))
    config = ladder.read_ladder(path)
    return ladder.climb(config, ladder.plan(config))


def calls(place: Path) -> list[str]:
    path = place / "store" / "calls.txt"
    return path.read_text().split() if path.exists() else []


def test_every_size_budget_and_seed_is_trained_once(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = climb(place)
    names = ["try-0.1M-20steps-seed0", "try-0.1M-20steps-seed1", "try-1M-20steps-seed0", "try-1M-20steps-seed1"]
    assert calls(place) == names
    assert [result.action for result in results] == ["trained"] * 4
    output = capsys.readouterr().out
    assert "run 2 of 4, try-0.1M-20steps-seed1" in output
    assert "training 1M" in output  # the child's own lines are passed through
    assert "training 1M" in (place / "runs" / "logs" / "try-1M-20steps-seed0.log").read_text()


def test_a_second_climb_skips_what_is_finished_and_resumes_the_rest(place: Path) -> None:
    climb(place)
    (place / "runs" / "try-1M-20steps-seed0" / "summary.json").unlink()
    results = climb(place)
    assert [result.action for result in results] == ["skipped", "skipped", "resumed", "skipped"]
    assert calls(place)[4:] == ["try-1M-20steps-seed0"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"overrides": {"train": {"learning_rate": 0.002}}},
            r"another train\.learning_rate: 0\.001, this ladder wants 0\.002",
        ),
        ({"objective": "blend"}, "another objective: denoise, this ladder wants blend"),
        ({"data": "launch"}, "another data"),
    ],
)
def test_a_finished_run_with_other_settings_is_not_passed_off_as_this_one(
    place: Path, change: dict[str, object], message: str
) -> None:
    climb(place)
    with pytest.raises(RunError, match=message):
        climb(place, **change)
    assert len(calls(place)) == 4


def test_equal_settings_written_differently_are_equal(place: Path) -> None:
    climb(place)
    results = climb(place, overrides={"train.learning_rate": "1e-3"})
    assert {result.action for result in results} == {"skipped"}


def test_a_failing_run_stops_the_ladder_and_names_its_log(place: Path) -> None:
    (place / "store" / "fail").touch()
    with pytest.raises(
        RunError, match=r"try-0\.1M-20steps-seed0 failed \(exit status 1\).*logs/try-0\.1M-20steps-seed0\.log"
    ):
        climb(place)
    assert len(calls(place)) == 1
    assert "rank 1 died" in (place / "runs" / "logs" / "try-0.1M-20steps-seed0.log").read_text()


def test_a_run_that_ends_without_finishing_is_an_error(place: Path) -> None:
    (place / "store" / "early").touch()
    with pytest.raises(RunError, match="ended without finishing"):
        climb(place)


def test_missing_store_or_script_is_told_before_anything_starts(place: Path) -> None:
    with pytest.raises(ConfigError, match=r"no conformer store at data/zinc20.*build\.py --source zinc20"):
        climb(place, data="data/zinc20")
    with pytest.raises(ConfigError, match="root of the repository"):
        climb(place, data="store", script="launch/train.py")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_ladder_lets_every_rank_save_and_leaves_none_behind(
    place: Path, number: signal.Signals
) -> None:
    (place / "store" / "hang").touch()
    command = [sys.executable, "-m", "unimol_scale.cli", "ladder", "ladder.yaml"]
    process = subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    note = place / "store" / "pids.txt"
    deadline = time.monotonic() + 60
    while not (note.exists() and len(note.read_text().split()) == 2):
        assert time.monotonic() < deadline, "the run did not start"
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 130
    assert "interrupted" in errors
    for pid in map(int, note.read_text().split()):
        assert _gone(pid), f"process {pid} survived"
    assert (place / "store" / "saved").exists()  # the rank, not the launcher alone, was told and was given the time


def _gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"  # a grandchild whose reaper has not come by yet


def test_the_command_starts_this_environments_deepspeed_in_a_place_of_its_own(place: Path) -> None:
    path = place / "ladder.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "launcher": "deepspeed", "ranks": 2}))
    config = ladder.read_ladder(path)
    rung = ladder.plan(config)[0]
    command = ladder.command(config, rung, 12345)
    assert command[0] == str(Path(sys.executable).parent / "deepspeed")
    text = " ".join(command[1:])
    assert "--num_gpus 2 --master_port 12345 launch/pretrain.py --size 0.1M" in text
    assert text.endswith("train.learning_rate=0.001 train.steps=20 seed=0")
    environment = ladder.environment(config)
    assert environment["LOCAL_SIZE"] == "2"
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert int(environment["OMP_NUM_THREADS"]) >= 1


def test_molecule_budgets_become_whole_steps_of_each_sizes_batch(place: Path) -> None:
    text = """
        name: m
        data: store
        sizes: [0.1M, 1M]
        molecules: [1000]
        overrides: {train.global_batch_size: 64}
        size_overrides: {1M: {train: {global_batch_size: 100}}}
    """
    (place / "m.yaml").write_text(textwrap.dedent(text))
    rungs = ladder.plan(ladder.read_ladder(place / "m.yaml"))
    assert [(rung.size, rung.steps) for rung in rungs] == [("0.1M", 16), ("1M", 10)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": ["0.3M"]}, "unknown size '0.3M'"),
        ({"sizes": []}, "sizes must be a list without repeats"),
        ({"seeds": [1, 1]}, "seeds must be a list without repeats"),
        ({"molecules": [10]}, "either as steps or as molecules"),
        ({"steps": [0]}, "budgets must be positive"),
        ({"ranks": 2}, "1 with the launcher python"),
        ({"launcher": "mpi"}, "unknown value 'mpi'"),
        ({"overrides": {"train": {"steps": 5}}}, r"train\.steps is set by the ladder itself"),
        ({"size_overrides": {"2M": {}}}, "'2M' is not a size of this ladder"),
        ({"steps": [], "molecules": [100]}, r"needs a train\.global_batch_size"),
        ({"rank": 1}, "unknown key 'rank'; did you mean 'ranks'"),
    ],
)
def test_a_ladder_that_makes_no_sense_is_refused(place: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        climb(place, **change)
    assert calls(place) == []


def test_the_ladder_of_the_repository_is_valid() -> None:
    root = Path(__file__).parents[3]
    for path in sorted((root / "configs" / "ladder").glob("*.yaml")):
        config = ladder.read_ladder(path)
        assert len(ladder.plan(config)) >= 4, path
