"""Pretrain: ``deepspeed launch/pretrain.py --size 1.1B``. Also runs under ``torchrun`` and plain ``python``."""

import sys

from unimol_scale.cli.entry import run_command
from unimol_scale.engine.run.stopping import StopRequest


def pretrain() -> int:
    """Pretrain with the arguments of this process; return its exit status."""
    with StopRequest() as stop:
        from unimol_scale.cli.verbs.pretrain import main  # brings torch, which takes seconds

        return main(stop=stop)


if __name__ == "__main__":
    sys.exit(run_command(pretrain))
