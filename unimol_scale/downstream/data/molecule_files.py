"""What a user may give molecules in: a table, lines of SMILES, SDF, or a conformer store. Reads nothing but names."""

from pathlib import Path

from unimol_scale.errors import SourceError
from unimol_scale.common.run_files import CHECKPOINTS, FINETUNED_NAME, MODEL_FOLDER
from unimol_scale.store.manifest import MANIFEST_NAME

KINDS = "a table (CSV, TSV, Parquet), lines of SMILES, SDF, or a conformer store"


def is_store(path: Path) -> bool:
    """Return whether a finished conformer store is there."""
    return (path / MANIFEST_NAME).is_file()


def check_there(path: Path) -> None:
    """Find out whether a file or a finished store is there.

    Raises:
        SourceError: it is not; says what is there instead, and what to do.
    """
    if path.is_file() or is_store(path):
        return
    if not path.is_dir():
        raise SourceError(f"{path} does not exist; give {KINDS}")
    if (path / FINETUNED_NAME).is_file():
        remedy = f"it is a fine-tuned model, which `unimol-scale predict FILE --from {path}` takes"
    elif (path / CHECKPOINTS).is_dir() or (path / MODEL_FOLDER).is_dir():
        remedy = f"it is a training run, which finetune and embed take with --from {path}"
    elif (path / ".build").is_dir():
        remedy = "its build is unfinished: run the command that began it again, it resumes"
    else:
        remedy = "name one file in it, or build a store of them: unimol-scale build"
    raise SourceError(f"{path} is a folder without {MANIFEST_NAME}, so it is no finished conformer store; {remedy}")
