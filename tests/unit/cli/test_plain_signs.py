"""What is printed where symbols, readers or terminals are missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]


def run(program: str, encoding: str) -> "subprocess.CompletedProcess[bytes]":
    text = f"from unimol_scale.common.standard_streams import prepare_streams\nprepare_streams()\n{program}"
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, check=False)


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("ascii", b"-0.5 +/- 1 A -> 2x3 <= ~ ? e"),
        ("latin-1", "-0.5 ± 1 Å -> 2×3 <= ~ ? é".encode("latin-1")),
        ("utf-8", "−0.5 ± 1 Å → 2×3 ≤ ≈ 水 é".encode()),
    ],
)
def test_symbols_that_an_encoding_lacks_become_plain_signs(encoding: str, printed: bytes) -> None:
    for stream in ("stdout", "stderr"):
        done = run(f"import sys; print('−0.5 ± 1 Å → 2×3 ≤ ≈ 水 é', file=sys.{stream})", encoding)
        assert done.returncode == 0
        assert getattr(done, stream).strip() == printed


def test_file_names_that_are_no_text_can_be_printed() -> None:
    assert run("print('\\udcff.csv')", "utf-8").stdout.strip() == b"?.csv"


def test_closed_streams_take_everything() -> None:
    program = (
        "import sys; from unimol_scale.common.standard_streams import prepare_streams; prepare_streams(); print('x')"
    )
    program += "; sys.stderr.isatty(); sys.stdout.flush()"
    line = f'{sys.executable} -c "{program}" >&- 2>&-'
    assert subprocess.run(line, shell=True, cwd=REPOSITORY, check=False).returncode == 0


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "unimol_scale.cli", "--help"],
        ["-m", "unimol_scale.cli", "finetune", "--help"],
        ["conformer_gen/build.py", "--help"],
        ["launch/pretrain.py", "--help"],
    ],
)
def test_help_is_printed_where_the_encoding_is_ascii(command: list[str]) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, *command], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage:")
