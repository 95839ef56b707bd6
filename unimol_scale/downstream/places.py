"""Whether a file can be written where a user wants it, found out before hours are spent on it."""

import os
from pathlib import Path

from unimol_scale.errors import ConfigError


def check_writable(output: Path) -> None:
    """Find out whether a file can be written there; its folder is made.

    Raises:
        ConfigError: it can not.
    """
    if output.is_dir():
        raise ConfigError(f"--output {output} is a folder; give the name of a file")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output {output}: its folder can not be made: {error}") from error
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"--output {output}: the folder {output.parent} can not be written")
