"""Ranks notice that the program that started them is gone, whichever it was; a shell that ends is no such program."""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from unimol_scale.engine.run import launcher
from unimol_scale.engine.run.launcher import LauncherWatch, program_of

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells who started whom")
REPOSITORY = Path(__file__).resolve().parents[4]
RANK = """
import sys, time
from pathlib import Path
from unimol_scale.engine.run import launcher
from unimol_scale.engine.run.launcher import LauncherWatch
note = Path(sys.argv[1])
watch = LauncherWatch()
note.write_text("gone" if watch.is_gone() else "there", encoding="ascii")
end = time.monotonic() + 20
while time.monotonic() < end and not watch.is_gone() and not note.with_name("end").exists():
    time.sleep(0.02)
note.with_name("last").write_text("gone" if watch.is_gone() else "there", encoding="ascii")
"""
# Stand-ins that start what they are given and wait for it, as launchers do.
LAUNCHER = "import subprocess, sys\nsys.exit(subprocess.Popen([sys.executable, *sys.argv[1:]]).wait())\n"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder with launchers of the usual names, and a rank that tells what it sees."""
    for name in ("torchrun", "bin/deepspeed", "bin/unimol-scale", "bin/wrapper", "deepspeed/launcher/launch.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(LAUNCHER, encoding="ascii")
    for folder in ("deepspeed", "deepspeed/launcher"):
        (tmp_path / folder / "__init__.py").touch()  # which makes it win over the installed one
    (tmp_path / "rank.py").write_text(RANK, encoding="ascii")
    yield tmp_path
    (tmp_path / "end").touch()


def start(place: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": f"{place}{os.pathsep}{REPOSITORY}"}
    return subprocess.Popen([*arguments, "rank.py", "note"], cwd=place, env=environment)


def read(path: Path) -> str:
    deadline = time.monotonic() + 20
    while not (path.exists() and path.read_text(encoding="ascii")):
        assert time.monotonic() < deadline, f"{path.name} was not written"
        time.sleep(0.02)
    return path.read_text(encoding="ascii")


NODE = ("-u", "-m", "deepspeed.launcher.launch")


@pytest.mark.parametrize(
    "launchers",
    [
        ("torchrun",),
        ("torchrun", "bin/wrapper"),
        ("bin/deepspeed", *NODE),
        ("bin/unimol-scale",),
        ("bin/unimol-scale", "bin/deepspeed", *NODE),
    ],
)
def test_a_launcher_that_was_killed_is_missed(place: Path, launchers: tuple[str, ...]) -> None:
    process = start(place, sys.executable, *launchers)
    assert read(place / "note") == "there"
    process.kill()  # the topmost one; those between it and the rank live on
    process.wait()
    assert read(place / "last") == "gone"


def test_a_launcher_that_was_killed_before_the_rank_began_is_missed(place: Path) -> None:
    process = start(place, sys.executable, *NODE)
    assert read(place / "note") == "gone"
    process.wait()


def test_on_another_node_deepspeed_starts_ranks_through_ssh_and_is_not_expected_there(place: Path) -> None:
    launch = place / "deepspeed" / "launcher" / "launch.py"
    launch.write_text(LAUNCHER.replace("argv[1:]", "argv[2:]"), encoding="ascii")
    process = start(place, "sh", "-c", f'{sys.executable} -u -m deepspeed.launcher.launch --node_rank=1 "$@"', "sh")
    assert read(place / "note") == "there"
    (place / "end").touch()
    assert read(place / "last") == "there"
    process.wait()


@pytest.mark.parametrize("command", ['"$@" &', 'nohup "$@" >/dev/null 2>&1 &', '"$@" & wait'])
def test_a_run_outlives_the_shell_that_started_it(place: Path, command: str) -> None:
    process = start(place, "sh", "-c", command, "sh", sys.executable)
    assert read(place / "note") == "there"
    process.kill()
    process.wait()
    time.sleep(0.2)
    (place / "end").touch()
    assert read(place / "last") == "there"


def test_these_tests_have_no_launcher() -> None:
    assert not LauncherWatch().is_gone()


@pytest.mark.parametrize(
    ("line", "program"),
    [
        ("/usr/bin/python3.11 /opt/bin/torchrun --nproc_per_node 2 launch/pretrain.py", "torchrun"),
        ("python -u -m deepspeed.launcher.launch --world_info=x launch/pretrain.py", "deepspeed.launcher.launch"),
        ("/opt/bin/deepspeed launch/pretrain.py", "deepspeed"),
        ("/usr/bin/python3.11 /opt/bin/torchrun -m unimol_scale.cli pretrain", "torchrun"),
        ("/opt/bin/deepspeed --module unimol_scale.cli pretrain", "deepspeed"),
        ("python -u -m unimol_scale.cli ladder ladder.yaml", "unimol_scale.cli"),
        ("/usr/bin/python3.11 /opt/bin/unimol-scale ladder ladder.yaml", "unimol-scale"),
        ("bash run.sh deepspeed", "bash"),
        ("python -c pass", "pass"),
        ("", ""),
    ],
)
def test_programs_are_known_by_their_command_lines(line: str, program: str) -> None:
    assert program_of(line.split()) == program


def test_a_launcher_is_not_gone_because_too_many_files_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = LauncherWatch()
    watch._links = [(os.getppid(), launcher._parent(os.getppid()) or 0)]
    assert not watch.is_gone()

    def refuse(*arguments: object, **settings: object) -> str:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "read_text", refuse)
    assert not watch.is_gone()
