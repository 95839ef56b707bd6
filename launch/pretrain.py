"""Pretrain a model: ``deepspeed launch/pretrain.py --size 1.1B``. Also works with ``torchrun`` and plain ``python``.

Does the same as ``unimol-scale pretrain``.
"""

import sys

from unimol_scale.cli.verbs.pretrain import main

if __name__ == "__main__":
    sys.exit(main())
