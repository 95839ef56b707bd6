"""A Python program in a process of its own: DeepSpeed and signals leave their marks in the one that they run in."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def run_program(folder: Path, beginning: str, program: str) -> "subprocess.CompletedProcess[str]":
    """Run what ``beginning`` and the indented ``program`` say, in a folder, with Ctrl-C as in a terminal."""
    return subprocess.run(
        [sys.executable, "-c", beginning + textwrap.dedent(program)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        timeout=300,
    )
