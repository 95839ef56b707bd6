"""The build command with Ray even for inputs that are soon done without it."""

import sys

from conformer_gen import build
from conformer_gen.run import child_executor

child_executor.FEW_CONFORMERS = 0

if __name__ == "__main__":
    sys.exit(build.main())
