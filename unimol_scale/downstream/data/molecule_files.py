"""Checks file names before any work starts: the molecules exist, and the output does not overwrite them."""

from pathlib import Path

from unimol_scale.common.run_files import CHECKPOINTS, FINETUNED_NAME, MODEL_FOLDER
from unimol_scale.errors import ConfigError, SourceError
from unimol_scale.store.manifest import MANIFEST_NAME

KINDS = "a table (CSV, TSV, Parquet), lines of SMILES, SDF, or a conformer store"


def is_store(path: Path) -> bool:
    """Return whether a path is a finished conformer store."""
    return (path / MANIFEST_NAME).is_file()


def check_there(path: Path) -> None:
    """Check that a path is a file or a finished store.

    Raises:
        SourceError: it is neither. The message says what it is instead, and what to do.
    """
    if path.is_file() or is_store(path):
        return
    if not path.is_dir():
        raise SourceError(f"{path} does not exist; give {KINDS}")
    if (path / FINETUNED_NAME).is_file():
        remedy = f"it is a fine-tuned model: use it with `unimol-scale predict FILE --from {path}`"
    elif (path / CHECKPOINTS).is_dir() or (path / MODEL_FOLDER).is_dir():
        remedy = f"it is a training run: use it with finetune or embed and --from {path}"
    elif (path / ".build").is_dir():
        remedy = "its build is unfinished: run the build command again to resume it"
    else:
        remedy = "name one file in it, or build a store from its files: unimol-scale build"
    raise SourceError(f"{path} is a folder without {MANIFEST_NAME}, so it is not a finished conformer store; {remedy}")


def skipped_file(output: Path) -> Path:
    """Return the path of the table of rows without a usable molecule, beside the output."""
    return output.with_suffix(".skipped.csv")


def check_apart(output: Path, source: Path) -> None:
    """Check that the output does not overwrite the file that is read.

    Raises:
        ConfigError: the output, or its table of skipped rows, is the source.
    """
    if source.resolve() in (output.resolve(), skipped_file(output).resolve()):
        raise ConfigError(
            f"--output {output}: the output or its table of skipped rows would overwrite the input {source}; choose "
            "another name"
        )
