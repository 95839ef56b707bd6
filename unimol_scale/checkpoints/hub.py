"""Downloads models from the Hugging Face hub by name, with the optional dependency ``huggingface_hub``."""

import re
from pathlib import Path

from unimol_scale.errors import CheckpointError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILE_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")


def is_hub_name(path: Path | str) -> bool:
    """Return whether a text is ``owner/name`` of the hub, and not the path of a missing file or folder."""
    text, path = str(path), Path(path)
    return bool(
        _NAME.fullmatch(text)
        and not text.endswith(_FILE_SUFFIXES)
        and not path.exists()
        and not path.parent.exists()  # with a folder models, models/lost is a mistyped path
    )


def download(name: str, files: tuple[str, ...]) -> Path:
    """Return a local folder with some files of a model on the hub; files in the cache are not fetched again.

    Raises:
        CheckpointError: the optional dependency is not installed, there is no such model, or it cannot be fetched.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise CheckpointError(
            f"{name} does not exist here (`unimol-scale pretrain --size 0.1M` trains a model); to fetch a model "
            "of that name from the Hugging Face hub, pip install 'unimol-scale[hub]'"
        ) from error
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(files)))
    except (OSError, ValueError) as error:  # the errors of the hub are subclasses of these
        raise CheckpointError(
            f"{name} does not exist here and cannot be fetched from the Hugging Face hub: {error}"
        ) from error
