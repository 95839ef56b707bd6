"""Where the rows of a table go that cannot be used, and whether a table would be written over what is read."""

from pathlib import Path

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
