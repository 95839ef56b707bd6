"""Pretrain: ``deepspeed launch/pretrain.py --size 1.1B``. Also runs under ``torchrun`` and plain ``python``.

The same as ``unimol-scale pretrain``.
"""

import sys

from unimol_scale.cli.verbs.pretrain import main

if __name__ == "__main__":
    sys.exit(main())
