"""The build command with Ray even for inputs that are soon done without it."""

import sys

from conformer_gen import build, without_ray

without_ray.FEW_CONFORMERS = 0

if __name__ == "__main__":
    sys.exit(build.main())
