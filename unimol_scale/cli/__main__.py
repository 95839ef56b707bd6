"""``python -m unimol_scale.cli``: the ``unimol-scale`` command where no script of that name is installed."""

import sys

from unimol_scale.cli.main import main

sys.exit(main())
