"""The build command with Ray even for inputs that are soon done without it, in units of UNIT_BYTES if that is set."""

import os
import sys

from conformer_gen.run import child_executor, workspace
from unimol_scale.cli.verbs import build

if __name__ == "__main__":
    child_executor.FEW_CONFORMERS = 0
    workspace.UNIT_BYTES = int(os.environ.get("UNIT_BYTES", workspace.UNIT_BYTES))
    sys.exit(build.main())
