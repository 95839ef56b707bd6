"""Downloads models from the Hugging Face hub by name, and uploads them.

The dependency ``huggingface_hub`` is optional.
"""

import re
from pathlib import Path

from unimol_scale.errors import CheckpointError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILE_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")


def is_name(text: str) -> bool:
    """Return whether a text has the form ``owner/name``."""
    return _NAME.fullmatch(text) is not None


def is_hub_name(path: Path | str) -> bool:
    """Return whether a text is a hub name ``owner/name``, and not the path of a missing file or folder."""
    text, path = str(path), Path(path)
    return bool(
        is_name(text)
        and not text.endswith(_FILE_SUFFIXES)
        and not path.exists()
        and not path.parent.exists()  # with a folder models, models/lost is a mistyped path
    )


def download(name: str, files: tuple[str, ...]) -> Path:
    """Return a local folder with the given files of a model on the hub; cached files are not downloaded again.

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


def upload(folder: Path, name: str, *, private: bool, token: str | None) -> str:
    """Upload all files of a folder to a model repository of the hub, which is created if it does not exist.

    Args:
        folder: folder to upload.
        name: ``owner/name`` of the repository.
        private: create a repository that only its owner can see.
        token: access token of the hub; None: the token of the saved login.

    Returns:
        The address of the repository.

    Raises:
        CheckpointError: the optional dependency is not installed, or the hub refuses the upload.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise CheckpointError("to upload a model to the Hugging Face hub, pip install 'unimol-scale[hub]'") from error
    try:
        hub = huggingface_hub.HfApi(token=token)
        address = hub.create_repo(name, private=private, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=str(folder), commit_message="Weights and card")
    except (OSError, ValueError) as error:  # the errors of the hub are subclasses of these
        raise CheckpointError(f"{folder} cannot be uploaded to {name} on the Hugging Face hub: {error}") from error
    return str(address)
