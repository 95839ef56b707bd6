"""Folders with the files of fitted estimators: given by the user, or private and removed with the estimator.

A pickle holds the content of the files that prediction needs (JSON and safetensors), never pickled tensors. Unpickling
writes them to a private folder of the new process.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from unimol_scale.common.run_files import FINETUNED_NAME
from unimol_scale.downstream.finetuning.model.saved_model import read_config

ESTIMATOR_NAME = "estimator.json"  # what an estimator records about the labels, in addition to the fine-tuning


class FileFolder:
    """The folder of an estimator.

    Args:
        path: a folder of the user, which is kept; None makes a private one, which is removed with this object.

    Attributes:
        path: path of the folder, which need not exist yet.
    """

    def __init__(self, path: Path | None = None) -> None:
        if path is None:
            self._private = _private_folder()
            path = Path(self._private.name) / "model"
        self.path = path

    def content(self) -> dict[str, bytes]:
        """Return name → content of all files in the folder, which a copy needs."""
        return {file.name: file.read_bytes() for file in sorted(self.path.iterdir()) if file.is_file()}

    def __getstate__(self) -> dict[str, Mapping[str, bytes]]:
        return {"files": self.content()}

    def __setstate__(self, state: dict[str, Mapping[str, bytes]]) -> None:
        self._private = _private_folder()
        self.path = Path(self._private.name) / "model"
        self.path.mkdir()
        for name, content in state["files"].items():
            (self.path / Path(name).name).write_bytes(content)


class FinetunedFolder(FileFolder):
    """A folder that ``finetune`` wrote."""

    def content(self) -> dict[str, bytes]:
        """Return name → content of the files that prediction needs: settings and weights, not reports and rows."""
        names = [FINETUNED_NAME, *(member.file for member in read_config(self.path).members)]
        names += [ESTIMATOR_NAME] if (self.path / ESTIMATOR_NAME).is_file() else []
        return {name: (self.path / name).read_bytes() for name in names}


def _private_folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="unimol-scale-", ignore_cleanup_errors=True)
