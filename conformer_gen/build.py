"""Build a conformer store: ``python conformer_gen/build.py --source sample``. The same as ``unimol-scale build``."""

import sys

from unimol_scale.cli.verbs.build import main

if __name__ == "__main__":
    sys.exit(main())
