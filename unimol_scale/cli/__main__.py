"""``python -m unimol_scale.cli``: the ``unimol-scale`` command for environments without the installed script."""

import sys

from unimol_scale.cli.main import main

sys.exit(main())
