"""Packs a finished run as a model for others: safetensors, config.json and model card. Uploads it to the hub."""

import tempfile
from pathlib import Path
from typing import Literal

import torch

from unimol_scale.checkpoints import hub
from unimol_scale.checkpoints.shipped import shipped_folder
from unimol_scale.checkpoints.weights import load_pretrained, save_pretrained
from unimol_scale.common.files import commit_text
from unimol_scale.common.run_files import MODEL_CARD_NAME
from unimol_scale.downstream.publishing.model_card import model_card
from unimol_scale.downstream.publishing.pretraining_records import read_records
from unimol_scale.errors import CheckpointError

Stored = Literal["fp32", "bf16"]


def pack_model(run: Path, output: Path, *, name: str | None = None, stored: Stored = "fp32", scores: str = "") -> None:
    """Write a finished run as a folder that ``from_pretrained`` can load, with a model card.

    Args:
        run: folder of a finished run, whose store is on this machine.
        output: folder to write, which must be empty or absent.
        name: name under which users load the model; None: the name of the output folder.
        stored: dtype of the weights in the file. bf16 halves its size; weights are converted to fp32 when loaded.
        scores: a section of the card, in Markdown.

    Raises:
        CheckpointError: the run is not finished, its store is not on this machine, or the folder is not empty.
    """
    records = read_records(run)
    model = load_pretrained(run)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    text = model_card(
        name or output.name,
        records,
        model.seen,
        parameters=parameters,
        width=model.backbone.config.atom_width,
        geometry=model.backbone.config.geometry,
        scores=scores,
    )
    if stored == "bf16":
        model = model.to(torch.bfloat16)
    save_pretrained(model, output, loads_as="fp32" if stored == "bf16" else None)
    commit_text(output / MODEL_CARD_NAME, text)


def push_to_hub(
    model: Path | str, repository: str, *, private: bool = False, token: str | None = None, stored: Stored = "fp32"
) -> str:
    """Upload a model to the Hugging Face hub, with its card, and return its address there.

    Args:
        model: a finished run, a folder that ``pack_model`` or ``save_pretrained`` wrote, or the name of a model of this
            package.
        repository: ``owner/name``; created if it does not exist.
        private: whether a new repository is visible only to its owner.
        token: access token of the hub; None: the token of the login that the library has stored.
        stored: for a run, dtype of the uploaded weights.

    Raises:
        CheckpointError: the model cannot be read, the library is not installed, or the hub refuses.
    """
    if not hub.is_name(repository):
        raise CheckpointError(f"{repository!r} is not the name of a repository on the hub; write owner/name")
    if (ready := packed_folder(model)) is not None:
        return hub.upload(ready, repository, private=private, token=token)
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "model"
        pack_model(Path(model), packed, name=repository, stored=stored)
        return hub.upload(packed, repository, private=private, token=token)


def packed_folder(model: Path | str) -> Path | None:
    """Return the folder of a model that can be uploaded unchanged; None for a run, which must be packed first."""
    folder = shipped_folder(str(model)) or Path(model)
    return folder if (folder / MODEL_CARD_NAME).is_file() else None
