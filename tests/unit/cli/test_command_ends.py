"""How commands end: in one line, with a status that says why, whatever stops them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unimol_scale.cli.main import main

REPOSITORY = Path(__file__).resolve().parents[3]
COMMAND = """
import sys, time
from pathlib import Path
from unimol_scale.cli.entry import run_command
def work():
{body}
    return 0
sys.exit(run_command(work, lambda: "Stopped. Run the same command again to continue where it stopped."))
"""


def start(body: str, **options: object) -> "subprocess.Popen[str]":
    """Start a command whose work is ``body``; it hears Ctrl-C, whoever started the tests."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND.format(body=lines)],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stderr=subprocess.PIPE,
            text=True,
            **{"stdout": subprocess.PIPE, **options},
        )
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_mistake_of_the_user_is_one_line() -> None:
    process = start("from unimol_scale.errors import ConfigError\nraise ConfigError('no such key')")
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (2, "", "error: no such key\n")


def test_ctrl_c_is_one_line() -> None:
    process = start("print('ready', flush=True)\ntime.sleep(60)")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, "Stopped. Run the same command again to continue where it stopped.\n")


def test_a_second_ctrl_c_waits_for_nothing() -> None:
    process = start(
        "try:\n    print('ready', flush=True)\n    time.sleep(60)\nfinally:\n    print('cleaning', flush=True)\n"
        "    time.sleep(60)"
    )
    assert process.stdout is not None
    for line in ("ready\n", "cleaning\n"):
        assert process.stdout.readline() == line
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, "")


def test_ctrl_c_reaches_the_command_while_rdkit_works() -> None:
    # RDKit has a handler of its own while it works: it broke off, returned half a result, and the command went on.
    process = start(
        "from rdkit import Chem\n"
        "molecule = Chem.MolFromSmiles('CC(C)(C)c1ccc(cc1)S(=O)(=O)NCCCNCCCCNCC(=O)OCC' * 4)\n"
        "pattern = Chem.MolFromSmarts('*~*~*~*~*~*~*~*~*~*~*~[Fe]')\nprint('ready', flush=True)\n"
        "end = time.monotonic() + 15\nwhile time.monotonic() < end:\n    molecule.HasSubstructMatch(pattern)"
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, errors) == (130, "Stopped. Run the same command again to continue where it stopped.\n")


def test_a_script_in_the_background_is_not_meant_by_ctrl_c() -> None:
    process = subprocess.Popen(
        ["sh", "-c", f"trap '' INT; exec {sys.executable} -c \"$0\"", COMMAND.format(body="    time.sleep(1)")],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 0


def test_a_reader_that_has_gone_is_no_error() -> None:
    process = start("for _ in range(100000):\n    print('a line that nobody reads')")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(timeout=20) == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
def test_a_full_disk_under_the_output_is_one_line() -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        process = start("print('result')", stdout=full)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert errors.startswith("error: the disk is full: make room")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("open('/dev/null/x')", "/dev/null/x: a part of the path is a file, not a folder: choose another place"),
        ("open('/', 'w')", "/: it is a folder, not a file: choose another name"),
        (
            "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))\n"
            "keep = [open('/dev/null') for _ in range(30)]",
            "there are too many open files; this process may open 20. Raise the limit",
        ),
        (
            "import socket\none, two = socket.socket(), socket.socket()\none.bind(('127.0.0.1', 0))\n"
            "two.bind(one.getsockname())",
            "another program uses the network port",
        ),
    ],
)
def test_what_the_system_refuses_is_one_line_that_says_what_to_do(body: str, message: str) -> None:
    process = start(body)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert message in errors
    assert errors.count("\n") == 1


def test_a_mistake_in_the_program_keeps_its_traceback() -> None:
    process = start("{}['no such key']")
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "KeyError" in errors


def test_as_many_files_may_be_open_as_the_system_permits() -> None:
    process = start("import resource\nprint(*resource.getrlimit(resource.RLIMIT_NOFILE))")
    output, _ = process.communicate(timeout=20)
    soft, hard = map(int, output.split())
    assert soft == hard or soft >= 65_536 or hard == -1


def test_a_command_whose_surroundings_name_a_rank_says_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")  # as in a task of Slurm's or of torchrun's
    assert main(["store", "info", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("error: no store at nowhere")


@pytest.mark.parametrize(
    ("rank", "said"), [("0", "error: --size is required: a preset, such as 0.1M or 84M\n"), ("1", "")]
)
def test_what_all_ranks_of_a_run_raise_is_said_once(
    rank: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", rank)
    assert main(["pretrain"]) == 2
    assert capsys.readouterr().err == said
