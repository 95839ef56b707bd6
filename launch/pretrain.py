"""Pretrain: ``deepspeed launch/pretrain.py --size 1.1B``. Also runs under ``torchrun`` and plain ``python``."""

import sys

from unimol_scale.engine.command import main

if __name__ == "__main__":
    sys.exit(main())
