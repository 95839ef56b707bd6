"""The build command with Ray even for inputs that are soon done without it."""

import sys

from conformer_gen.run import child_executor
from unimol_scale.cli.verbs import build

if __name__ == "__main__":
    child_executor.FEW_CONFORMERS = 0
    sys.exit(build.main())
