import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.helpers.pretend_training import calls, hanging, make_place
from unimol_scale.cli.main import main
from unimol_scale.errors import ConfigError, RunError
from unimol_scale.model.accounting import training_flops
from unimol_scale.model.presets import preset
from unimol_scale.scaling.ladder import ladder, launch, run_command


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a store, a fake pretraining command, and a ladder of two sizes and two seeds."""
    monkeypatch.chdir(tmp_path)
    make_place(tmp_path)
    return tmp_path


def change(place: Path, **changes: object) -> Path:
    """Change the ladder's file; return its path."""
    path = place / "ladder.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))
    return path


def launch_ladder(place: Path, **changes: object) -> list[launch.LaunchResult]:
    config = ladder.read_ladder(change(place, **changes))
    return launch.launch_ladder(config, ladder.plan(config))


def test_every_size_budget_and_seed_is_trained_once(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = launch_ladder(place)
    names = ["try-0.1M-20steps-seed0", "try-0.1M-20steps-seed1", "try-1M-20steps-seed0", "try-1M-20steps-seed1"]
    assert calls(place) == names
    assert [result.action for result in results] == ["trained"] * 4
    output = capsys.readouterr().out
    assert "run 2 of 4, try-0.1M-20steps-seed1" in output
    assert "training 1M" in output  # the child's own lines are passed through
    assert "training 1M" in (place / "runs" / "logs" / "try-1M-20steps-seed0.log").read_text()


def test_a_second_climb_skips_what_is_finished_and_resumes_the_rest(place: Path) -> None:
    launch_ladder(place)
    (place / "runs" / "try-1M-20steps-seed0" / "summary.json").unlink()
    results = launch_ladder(place)
    assert [result.action for result in results] == ["skipped", "skipped", "resumed", "skipped"]
    assert calls(place)[4:] == ["try-1M-20steps-seed0"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"overrides": {"train": {"learning_rate": 0.002}}},
            r"other settings \(its → this ladder's\):\n  train\.learning_rate: 0\.001 → 0\.002\nGive the ladder",
        ),
        ({"objective": "blend"}, r"\n  objective: denoise → blend\n"),
        ({"data": "launch"}, r"\n  data\.path: store → launch\n"),
    ],
)
def test_a_finished_run_with_other_settings_is_not_passed_off_as_this_one(
    place: Path, change: dict[str, object], message: str
) -> None:
    launch_ladder(place)
    with pytest.raises(RunError, match=message):
        launch_ladder(place, **change)
    assert len(calls(place)) == 4


def test_a_setting_that_the_ladder_no_longer_gives_is_left_to_the_pretraining_command_to_judge(place: Path) -> None:
    launch_ladder(place)
    launch_ladder(place)
    assert len(calls(place)) == 4
    (place / "store" / "fail").touch()  # as it does with a folder of other settings
    for _ in range(2):
        with pytest.raises(RunError, match="failed"):
            launch_ladder(place, overrides={})
    (place / "store" / "fail").unlink()
    launch_ladder(place, overrides={})
    assert len(calls(place)) == 4 + 2 + 4
    assert {result.action for result in launch_ladder(place, overrides={})} == {"skipped"}


def test_a_setting_that_a_finished_run_had_not_is_left_to_the_pretraining_command_to_judge_once(place: Path) -> None:
    launch_ladder(place)
    later = {"train": {"learning_rate": 0.001}, "model": {"gate": "none"}}  # the runs' config.yaml have no such key
    (place / "store" / "fail").touch()  # as it does where that is not the default
    with pytest.raises(RunError, match="failed"):
        launch_ladder(place, overrides=later)
    (place / "store" / "fail").unlink()
    launch_ladder(place, overrides=later)
    assert len(calls(place)) == 4 + 1 + 4
    assert {result.action for result in launch_ladder(place, overrides=later)} == {"skipped"}


def test_a_finished_run_on_another_content_of_the_store_is_not_passed_off_as_this_one(place: Path) -> None:
    launch_ladder(place)
    (place / "store" / "manifest.json").write_text("{}")
    with pytest.raises(RunError, match=r"\n  content of the store: SHA-256 \w+… → SHA-256 "):
        launch_ladder(place)


def test_equal_settings_written_differently_are_equal(place: Path) -> None:
    launch_ladder(place)
    results = launch_ladder(place, overrides={"train.learning_rate": "1e-3"})
    assert {result.action for result in results} == {"skipped"}


def test_a_failing_run_stops_the_ladder_and_names_its_log(place: Path) -> None:
    (place / "store" / "fail").touch()
    with pytest.raises(
        RunError, match=r"try-0\.1M-20steps-seed0 failed \(exit status 1\).*logs/try-0\.1M-20steps-seed0\.log"
    ):
        launch_ladder(place)
    assert len(calls(place)) == 1
    assert "rank 1 died" in (place / "runs" / "logs" / "try-0.1M-20steps-seed0.log").read_text()


def test_several_runs_at_a_time_are_all_trained_and_told_in_their_order(place: Path) -> None:
    (place / "store" / "together").touch()  # every run waits for another one
    results = launch_ladder(place, runs_at_once=3)
    assert [result.rung.name for result in results] == [rung.name for rung in rungs_of(place)]
    assert [result.action for result in results] == ["trained"] * 4
    assert sorted(calls(place)) == sorted(rung.name for rung in rungs_of(place))
    assert set(calls(place)[:3]) == {rung.name for rung in rungs_of(place)[1:]}  # the largest begin
    assert {result.action for result in launch_ladder(place)} == {"skipped"}


def test_a_failing_run_lets_the_one_beside_it_save(place: Path) -> None:
    *_, second, first = (rung.name for rung in rungs_of(place))  # the last ones begin
    (place / "store" / f"hang-{first}").touch()
    (place / "store" / f"fail-{second}").touch()
    with pytest.raises(RunError, match=rf"{second} failed \(exit status 1\)"):
        launch_ladder(place, runs_at_once=2)
    assert (place / "store" / f"saved-{first}").exists()
    assert all(map(_gone, hanging(place)))
    assert len(calls(place)) == 2


def test_runs_at_a_time_share_the_cores(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(run_command, "usable_cores", lambda: 8)
    config = ladder.read_ladder(place / "ladder.yaml")
    assert "OMP_NUM_THREADS" not in run_command.environment(config)
    threads = {at_once: run_command.environment(config, at_once)["OMP_NUM_THREADS"] for at_once in (2, 3, 8, 16)}
    assert threads == {2: "4", 3: "2", 8: "1", 16: "1"}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")  # the user's choice
    assert run_command.environment(config, 2)["OMP_NUM_THREADS"] == "5"


def test_there_is_a_run_for_each_core_as_far_as_memory_allows_and_one_on_a_gpu(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ladder.read_ladder(change(place, runs_at_once=0))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(run_command, "_GPU_DEVICES", ())
    monkeypatch.setattr(run_command, "usable_cores", lambda: 8)
    monkeypatch.setattr(run_command, "available_bytes", lambda: 2**40)
    assert run_command.runs_at_once(config) == 8
    monkeypatch.setattr(run_command, "available_bytes", lambda: 5 * 2**30)
    assert run_command.runs_at_once(config) == 3
    monkeypatch.setattr(run_command, "available_bytes", lambda: 0)
    assert run_command.runs_at_once(config) == 1
    monkeypatch.setattr(run_command, "available_bytes", lambda: None)
    assert run_command.runs_at_once(config) == 8
    monkeypatch.setattr(run_command, "_GPU_DEVICES", (place,))
    assert run_command.runs_at_once(config) == 1
    assert run_command.runs_at_once(replace(config, runs_at_once=2)) == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # hidden
    assert run_command.runs_at_once(config) == 8


def test_a_run_by_itself_has_all_cores(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    environment = launch.environment
    monkeypatch.setattr(launch, "environment", lambda config, at_once: given.append(at_once) or environment(config))
    config = ladder.read_ladder(change(place, runs_at_once=0))
    launch.launch_ladder(config, rungs_of(place)[:1])
    assert given == [1]


def rungs_of(place: Path) -> list[ladder.Rung]:
    return ladder.plan(ladder.read_ladder(place / "ladder.yaml"))


def test_a_run_that_ends_without_finishing_is_an_error(place: Path) -> None:
    (place / "store" / "early").touch()
    with pytest.raises(RunError, match="ended without finishing"):
        launch_ladder(place)


def test_a_run_that_diverged_is_done_and_said_to_be_so(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launch_ladder(place)
    path = place / "runs" / "try-1M-20steps-seed1" / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "diverged": True}))
    assert main(["ladder", "ladder.yaml"]) == 0
    assert "diverged" in capsys.readouterr().out
    assert len(calls(place)) == 4


def test_missing_store_or_script_is_told_before_anything_starts(place: Path) -> None:
    with pytest.raises(ConfigError, match=r"no conformer store at data/zinc20.*unimol-scale build --source zinc20"):
        launch_ladder(place, data="data/zinc20")
    with pytest.raises(ConfigError, match=r"launch/train\.py does not exist.*leave out the key"):
        launch_ladder(place, data="store", script="launch/train.py")


def test_a_run_that_a_signal_stopped_is_unfinished_and_goes_on_next_time(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "store" / "stop").touch()
    assert main(["ladder", str(place / "ladder.yaml")]) == 75
    output = capsys.readouterr().out
    assert "saved checkpoints are kept. 4 runs are left: `unimol-scale ladder" in output
    assert calls(place) == ["try-0.1M-20steps-seed0"]  # whoever stopped it did not want the next one started
    assert main(["ladder", str(place / "ladder.yaml")]) == 0
    assert "try-0.1M-20steps-seed0: resumed" in capsys.readouterr().out
    assert len(calls(place)) == 5


@pytest.fixture
def interruptible() -> Iterator[None]:
    """What a shell starts with "&" ignores Ctrl-C, and so does all that it starts; not here."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("number", "at_once"), [(signal.SIGTERM, 1), (signal.SIGUSR1, 1), (signal.SIGINT, 1), (signal.SIGTERM, 2)]
)
def test_a_signal_to_the_ladder_lets_every_rank_save_and_leaves_none_behind(
    place: Path, number: signal.Signals, at_once: int
) -> None:
    change(place, runs_at_once=at_once)
    (place / "store" / "hang").touch()
    command = [sys.executable, "-m", "unimol_scale.cli", "ladder", "ladder.yaml"]
    process = subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(pids := hanging(place)) < 2 * at_once:
        assert time.monotonic() < deadline, "the runs did not start"
        time.sleep(0.05)
    process.send_signal(number)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 75
    assert "4 runs are left" in output
    assert "Traceback" not in errors
    for pid in pids:
        assert _gone(pid), f"process {pid} survived"
    # The ranks, not the launchers alone, were told and were given the time.
    assert len(list((place / "store").glob("saved-*"))) == at_once


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
    command = run_command.command(config, rung, 12345)
    assert command[0] == str(Path(sys.executable).parent / "deepspeed")
    text = " ".join(command[1:])
    assert "--num_gpus 2 --master_port 12345 launch/pretrain.py --size 0.1M" in text
    ours = " ".join(run_command.command(replace(config, script=None), rung, 12345))
    assert "--num_gpus 2 --master_port 12345 --module unimol_scale.cli pretrain --size 0.1M" in ours
    alone = run_command.command(replace(config, script=None, launcher="python", ranks=1), rung, 12345)
    assert alone[:4] == [sys.executable, "-m", "unimol_scale.cli", "pretrain"]
    assert text.endswith("train.learning_rate=0.001 train.steps=20 seed=0")
    environment = run_command.environment(config)
    assert environment["LOCAL_SIZE"] == "2"
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    # The run itself knows its size, and how many cores its ranks share.
    assert environment.get("OMP_NUM_THREADS") == os.environ.get("OMP_NUM_THREADS")


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


def test_flops_budgets_give_the_larger_size_fewer_steps(place: Path) -> None:
    histogram = {"splits": {"train": {"size_histogram": {"10": 3, "20": 1}}}}
    (place / "store" / "manifest.json").write_text(json.dumps(histogram))
    overrides = {"train": {"global_batch_size": 64}}
    tree = {"name": "f", "data": "store", "sizes": ["0.1M", "1M"], "flops": ["1e13"], "overrides": overrides}
    (place / "f.yaml").write_text(yaml.safe_dump(tree))
    rungs = ladder.plan(ladder.read_ladder(place / "f.yaml"))
    for rung in rungs:
        flops = sum(count * training_flops(preset(rung.size), atoms) for atoms, count in ((10, 3), (20, 1))) / 4
        assert (rung.steps - 1) * 64 * flops < 1e13 <= rung.steps * 64 * flops
    assert rungs[0].steps > 2 * rungs[1].steps
    # A model made deeper by an override costs more.
    (place / "f.yaml").write_text(yaml.safe_dump({**tree, "size_overrides": {"1M": {"model": {"layers": 10}}}}))
    deeper = ladder.plan(ladder.read_ladder(place / "f.yaml"))
    assert deeper[1].steps < 0.6 * rungs[1].steps


def test_warm_up_follows_the_budget(place: Path) -> None:
    text = "name: w\ndata: store\nsizes: [1M]\nsteps: [100, 400]\nwarmup: 0.1\n"
    (place / "w.yaml").write_text(text)
    rungs = ladder.plan(ladder.read_ladder(place / "w.yaml"))
    assert [rung.overrides["train.warmup_steps"] for rung in rungs] == [10, 40]


def test_one_run_of_the_ladder_can_be_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ladder", "ladder.yaml", "--only", "try-1M-20steps-seed1"]) == 0
    assert calls(place) == ["try-1M-20steps-seed1"]
    assert main(["ladder", "ladder.yaml", "--only", "try-1M-20steps-seed2"]) == 2
    assert "no run 'try-1M-20steps-seed2'; did you mean 'try-1M-20steps-seed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": ["0.4M"]}, "unknown size '0.4M'"),
        ({"sizes": []}, "sizes must be a list without repeats"),
        ({"seeds": [1, 1]}, "seeds must be a list without repeats"),
        ({"molecules": [10]}, "in one of steps, molecules, flops; got steps and molecules"),
        ({"steps": []}, "in one of steps, molecules, flops; got none"),
        (
            {"steps": [], "molecules": [120, 140], "overrides": {"train.global_batch_size": 50}},
            "same number of steps of 0.1M: 3",
        ),
        (
            {"steps": [], "flops": [1e12], "overrides": {"train.global_batch_size": 50}},
            r"store/manifest\.json cannot be read",
        ),
        (
            {"steps": [], "flops": [1e12], "overrides": {"train.global_batch_size": 50}, "objective": "blend"},
            "flops: only the heads of denoise can be counted here",
        ),
        ({"steps": [], "flops": [float("inf")]}, "budgets must be positive"),
        ({"warmup": 1.0}, "warmup must be a fraction"),
        ({"warmup": 0.1, "overrides": {"train.warmup_steps": 5}}, r"train\.warmup_steps is set by the ladder itself"),
        ({"slurm": {"array": "0-3"}}, "slurm: array is set by the ladder itself"),
        ({"steps": [0]}, "budgets must be positive"),
        ({"ranks": 2}, "1 with the launcher python"),
        ({"runs_at_once": -1}, "runs_at_once must be at least 0"),
        ({"launcher": "mpi"}, "unknown value 'mpi'"),
        ({"overrides": {"train": {"steps": 5}}}, r"train\.steps is set by the ladder itself"),
        ({"size_overrides": {"2M": {}}}, "'2M' is not a size of this ladder"),
        ({"steps": [], "molecules": [100]}, r"needs a train\.global_batch_size"),
        ({"rank": 1}, "unknown key 'rank'; did you mean 'ranks'"),
    ],
)
def test_a_ladder_that_makes_no_sense_is_refused(place: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        launch_ladder(place, **change)
    assert calls(place) == []


def test_the_ladder_of_the_repository_is_valid() -> None:
    root = Path(__file__).parents[4]
    for path in sorted((root / "configs" / "ladder").glob("*.yaml")):
        config = ladder.read_ladder(path)
        assert len(ladder.plan(config)) >= 4, path
