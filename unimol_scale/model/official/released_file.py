"""Reads a released file: tensors and plain values from a torch archive, never code. Knows no tensor names.

``torch.load`` with ``weights_only`` does the reading; this file adds a check of the archive's checksums, without which
a flipped byte of a weight loads silently, and errors that say what is wrong and where.
"""

import argparse
import io
import mmap
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from unimol_scale.errors import CheckpointError

ZIP_START = b"PK\x03\x04"
ZIP_NAME_LENGTH = 26  # offset in a member's header of the two-byte length of its name
ZIP_NAME = 30
# ``args`` of the released files is one; creating it runs nothing but attribute assignments.
PLAIN_CLASSES: list[Any] = [argparse.Namespace]


def read_official_file(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Read a released file without running code from it; return its tensors and its stated dimensions.

    The dimensions are those in ``config``, or else in ``args``; {} if the file has neither.

    Raises:
        CheckpointError: the file is missing, truncated, damaged, contains code, or has no tensors under ``model``.
    """
    if not path.is_file():
        raise CheckpointError(
            f"checkpoint {path} does not exist; `unimol-scale pretrain --size 0.1M` trains a model, in runs/"
        )
    _check_archive(path)
    try:
        with torch.serialization.safe_globals(PLAIN_CLASSES), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of old pickle protocols, which it either reads or refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch passes on any error of its reader
        reason = _code_in(path) or f"it is not a torch file of tensors and plain values ({type(error).__name__})"
        raise CheckpointError(f"checkpoint {path} cannot be loaded: {reason}") from error
    tensors = content.get("model") if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(f"checkpoint {path} has no tensors under 'model'; is it a released Uni-Mol2 file?")
    config, args = content.get("config"), content.get("args")
    stated = config if isinstance(config, dict) else vars(args) if isinstance(args, argparse.Namespace) else {}
    return tensors, stated


def _check_archive(path: Path) -> None:
    """Refuse a zip archive that is truncated or whose members fail their checksum; other formats have no checksums."""
    size = path.stat().st_size
    if size == 0:
        raise CheckpointError(f"checkpoint {path} is empty (0 bytes)")
    with path.open("rb") as file:
        if file.read(len(ZIP_START)) != ZIP_START:
            return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"checkpoint {path} is truncated: it ends at byte {size}, in or after its record {_last_member(path)!r}, "
            "and the table at the end of a complete file is missing; copy or download it again"
        ) from error
    if damaged is not None:
        raise CheckpointError(f"checkpoint {path} is damaged: the checksum of its record {damaged!r} differs")


def _last_member(path: Path) -> str:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        start = view.rfind(ZIP_START)
        length = int.from_bytes(view[start + ZIP_NAME_LENGTH : start + ZIP_NAME_LENGTH + 2], "little")
        return view[start + ZIP_NAME : start + ZIP_NAME + length].decode("utf-8", "replace")


def _code_in(path: Path) -> str | None:
    """Return what code the pickle of a file asks for, and at which byte; the pickle is parsed but never run."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("data.pkl")]
            return _foreign_global(io.BytesIO(archive.read(names[0]))) if names else None
    with path.open("rb") as file:
        return _foreign_global(file)


def _foreign_global(file: BinaryIO) -> str | None:
    allowed = {f"{c.__module__}.{c.__qualname__}" for c in PLAIN_CLASSES} | {"collections.OrderedDict"}
    texts: list[str] = []
    try:
        while True:  # old torch files are several pickles, one after another
            for code, argument, position in pickletools.genops(file):
                if code.name in ("GLOBAL", "INST"):
                    name = str(argument).replace(" ", ".")
                elif code.name == "STACK_GLOBAL":
                    name = ".".join(texts[-2:])
                else:
                    texts += [argument] if isinstance(argument, str) else []
                    continue
                if name not in allowed and not name.startswith("torch."):
                    return f"it holds code: at byte {position} its pickle asks for {name!r}"
    except (ValueError, pickle.UnpicklingError, EOFError, UnicodeDecodeError):
        return None
