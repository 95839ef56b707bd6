"""The build command with Ray even for inputs that are soon done without it."""

import sys

from conformer_gen.run import local_pipeline
from unimol_scale.cli.verbs import build

local_pipeline.FEW_CONFORMERS = 0

if __name__ == "__main__":
    sys.exit(build.main())
