"""Whether a table can be written where a user wants it, found out before hours are spent on it."""

from pathlib import Path

from unimol_scale.common.output_checks import require_file
from unimol_scale.errors import ConfigError


def skipped_file(output: Path) -> Path:
    """Return where the rows go that have no usable molecule: beside the output."""
    return output.with_suffix(".skipped.csv")


def check_apart(output: Path, source: Path) -> None:
    """Refuse an output that would write over what is read.

    Raises:
        ConfigError: it, or its table of skipped rows, is the source.
    """
    if source.resolve() in (output.resolve(), skipped_file(output).resolve()):
        raise ConfigError(
            f"--output {output}: the file that is read, {source}, would be overwritten by it or by its table of "
            "skipped rows; choose another name"
        )


def check_writable(output: Path) -> None:
    """Find out whether a file can be written there; its folder is made.

    Raises:
        ConfigError: it cannot.
    """
    require_file(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output {output}: its folder cannot be made: {error}; choose another place") from error
