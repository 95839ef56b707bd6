import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.helpers.pretend_training import calls, hanging, make_place
from unimol_scale.cli.main import main

SBATCH = """#!/bin/bash
cp "$1" {folder}/submitted.sh
env > {folder}/environment.txt
[ -e {folder}/refuse ] && {{ echo "sbatch: error: invalid partition" >&2; exit 1; }}
echo "Submitted batch job 77"
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place beside an sbatch and an scontrol that write down what they are told."""
    monkeypatch.chdir(tmp_path)
    make_place(tmp_path)
    commands = tmp_path / "cluster"
    commands.mkdir()
    scontrol = f'#!/bin/bash\necho "$@" >> {commands}/scontrol.txt\n'
    for name, text in (("sbatch", SBATCH.format(folder=commands)), ("scontrol", scontrol)):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    return commands


def start_task(place: Path, number: int) -> "subprocess.Popen[str]":
    """Run one task as Slurm would."""
    environment = {**os.environ, "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": str(number)}
    script = place / "runs" / "try.slurm.sh"
    return subprocess.Popen(
        ["bash", str(script)], cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def options(script: Path) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    return {line.partition("=")[0]: line.partition("=")[2] for line in lines}


def test_the_array_holds_the_unfinished_runs_and_is_submitted(
    cluster: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = cluster.parent
    assert main(["ladder", "ladder.yaml", "--only", "try-0.1M-20steps-seed1"]) == 0
    assert main(["ladder", "ladder.yaml", "--slurm", "--submit"]) == 0
    output = capsys.readouterr().out
    assert "3 runs, one array task each; 1 are already finished" in output
    assert "Submitted batch job 77" in output
    script = (cluster / "submitted.sh").read_text()
    assert "try-0.1M-20steps-seed1" not in script
    chosen = options(cluster / "submitted.sh")
    assert chosen["array"] == "0-2"
    assert chosen["signal"] == "B:USR1@300"
    assert chosen["chdir"] == str(place)
    assert "requeue" in chosen
    assert Path(chosen["output"]).parent.is_dir()  # Slurm does not make it, and the job would vanish without a word
    assert calls(place) == ["try-0.1M-20steps-seed1"]  # nothing is trained here


def test_a_task_trains_its_run_and_no_other(cluster: Path) -> None:
    place = cluster.parent
    assert main(["ladder", "ladder.yaml", "--slurm"]) == 0
    assert not (cluster / "submitted.sh").exists()
    task = start_task(place, 2)
    output, _ = task.communicate(timeout=120)
    assert task.returncode == 0, output
    assert calls(place) == ["try-1M-20steps-seed0"]
    assert (place / "runs" / "try-1M-20steps-seed0" / "summary.json").is_file()
    # The same task once more, as after a requeue that came too late.
    again = start_task(place, 2)
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0
    assert "already finished" in output
    assert len(calls(place)) == 1
    missing = start_task(place, 4)
    output, _ = missing.communicate(timeout=120)
    assert missing.returncode != 0
    assert "no run with this number" in output


def test_a_task_whose_time_runs_out_saves_and_goes_back_to_the_queue(cluster: Path) -> None:
    place = cluster.parent
    main(["ladder", "ladder.yaml", "--slurm"])
    (place / "store" / "hang").touch()
    task = start_task(place, 0)
    deadline = time.monotonic() + 60
    while len(hanging(place)) < 2:
        assert time.monotonic() < deadline, "the run did not start"
        time.sleep(0.05)
    task.send_signal(signal.SIGUSR1)  # to the batch shell alone, as --signal=B: says
    output, _ = task.communicate(timeout=120)
    assert task.returncode == 75, output
    assert any((place / "store").glob("saved-*"))
    assert (cluster / "scontrol.txt").read_text() == "requeue 77_0\n"
    (place / "store" / "hang").unlink()
    task = start_task(place, 0)
    task.communicate(timeout=120)
    assert task.returncode == 0


def test_a_task_that_fails_is_not_queued_again(cluster: Path) -> None:
    place = cluster.parent
    main(["ladder", "ladder.yaml", "--slurm"])
    (place / "store" / "fail").touch()
    task = start_task(place, 0)
    output, _ = task.communicate(timeout=120)
    assert task.returncode == 2
    assert "rank 1 died" in output
    assert not (cluster / "scontrol.txt").exists()


def test_options_of_the_ladder_file_win(cluster: Path) -> None:
    place = cluster.parent
    tree = yaml.safe_load((place / "ladder.yaml").read_text())
    slurm = {"partition": "gpu", "time": "12:00:00", "cpus-per-task": None, "comment": "two words", "parallel": 2}
    (place / "ladder.yaml").write_text(yaml.safe_dump({**tree, "launcher": "deepspeed", "ranks": 4, "slurm": slurm}))
    assert main(["ladder", "ladder.yaml", "--slurm"]) == 0
    chosen = options(place / "runs" / "try.slurm.sh")
    assert chosen["partition"] == "gpu"
    assert chosen["time"] == "12:00:00"
    assert chosen["array"] == "0-3%2"
    assert chosen["comment"] == '"two words"'
    assert chosen["gpus-per-node"] == "4"
    assert "cpus-per-task" not in chosen
    assert subprocess.run(["bash", "-n", str(place / "runs" / "try.slurm.sh")], check=False).returncode == 0


REPOSITORY = Path(__file__).resolve().parents[4]
# What decides whether a job saves in time and comes back.
SHARED_OPTIONS = ("signal", "requeue", "open-mode", "time", "cpus-per-task")


def shell_of(script: Path) -> dict[str, list[str]]:
    """Return what a script does before its work begins and after it is started: the order, the status, the requeue."""
    lines = [line for line in script.read_text().splitlines() if not line.startswith("#SBATCH")]
    told, started = lines.index("told="), lines.index("work=$!")
    stopped = [line for line in lines if line.startswith("STOPPED=")]
    return {"order": lines[told - 1 : told + 2], "end": lines[started:], "stopped": stopped}


def test_both_slurm_scripts_stop_and_come_back_in_the_same_way(cluster: Path) -> None:
    assert main(["ladder", "ladder.yaml", "--slurm"]) == 0
    ladder, alone = cluster.parent / "runs" / "try.slurm.sh", REPOSITORY / "launch" / "slurm.sh"
    theirs, ours = options(alone), options(ladder)
    # The one that is written by hand has comments behind its options.
    assert {key: theirs[key].split("#")[0].strip() for key in SHARED_OPTIONS} == {
        key: ours[key] for key in SHARED_OPTIONS
    }
    assert shell_of(ladder) == shell_of(alone)


SRUN = """#!/bin/bash
# Stands in for srun: hands SIGUSR1 to the ranks, of which one notes what it was started with.
echo "$@" > {folder}/srun.txt
trap 'sleep 0.3; echo saved >> {folder}/srun.txt; exit 75' USR1
touch {folder}/started
[ -e {folder}/fail ] && exit 3
while true; do sleep 0.05; done
"""


@pytest.fixture
def job(cluster: Path) -> "subprocess.Popen[str]":
    (cluster / "srun").write_text(SRUN.format(folder=cluster))
    (cluster / "srun").chmod(0o755)
    environment = {**os.environ, "SLURM_JOB_ID": "78", "SLURM_JOB_NODELIST": "node1"}
    return subprocess.Popen(
        ["bash", str(REPOSITORY / "launch" / "slurm.sh"), "--size", "84M"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_the_job_of_one_run_saves_and_goes_back_to_the_queue(cluster: Path, job: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 60
    while not (cluster / "started").exists():
        assert time.monotonic() < deadline, "the ranks did not start"
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)  # to the batch shell alone, as --signal=B: says
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 75, output
    assert "saved" in (cluster / "srun.txt").read_text()
    assert "--size 84M" in (cluster / "srun.txt").read_text()
    assert "requeue 78\n" in (cluster / "scontrol.txt").read_text()


def test_the_job_of_one_run_that_fails_stays_away(cluster: Path) -> None:
    (cluster / "fail").touch()
    (cluster / "srun").write_text(SRUN.format(folder=cluster))
    (cluster / "srun").chmod(0o755)
    done = subprocess.run(
        ["bash", str(REPOSITORY / "launch" / "slurm.sh")],
        env={**os.environ, "SLURM_JOB_ID": "78", "SLURM_JOB_NODELIST": "node1"}, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 3
    assert "requeue" not in (cluster / "scontrol.txt").read_text()


def test_nothing_is_submitted_when_all_runs_are_finished(cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ladder", "ladder.yaml"]) == 0
    assert main(["ladder", "ladder.yaml", "--slurm", "--submit"]) == 0
    assert "all 4 runs are finished; nothing to submit" in capsys.readouterr().out
    assert not (cluster / "submitted.sh").exists()


def test_what_sbatch_says_against_it_is_passed_on(
    cluster: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (cluster / "refuse").touch()
    assert main(["ladder", "ladder.yaml", "--slurm", "--submit"]) == 2
    assert "invalid partition" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert main(["ladder", "ladder.yaml", "--slurm", "--submit"]) == 2
    assert "no sbatch on this machine" in capsys.readouterr().err
    assert main(["ladder", "ladder.yaml", "--submit"]) == 2
    assert "--submit belongs to --slurm" in capsys.readouterr().err
