"""``shipped_models`` and ``push_to_hub``: models that come with the package, and publishing your own."""

from os import PathLike
from pathlib import Path

from unimol_scale.checkpoints.shipped import ShippedModel, shipped_models
from unimol_scale.downstream.embedding.model_source import source_of
from unimol_scale.downstream.embedding.molecular_model import MolecularModel
from unimol_scale.downstream.publishing import packed_model
from unimol_scale.downstream.publishing.packed_model import Stored
from unimol_scale.errors import ConfigError

__all__ = ["ShippedModel", "push_to_hub", "shipped_models"]


def push_to_hub(
    model: "str | PathLike[str] | MolecularModel",
    repository: str,
    *,
    private: bool = False,
    token: str | None = None,
    precision: Stored = "fp32",
) -> str:
    """Upload a pretrained model and its card to the Hugging Face hub; ``from_pretrained(repository)`` loads it.

    Args:
        model: a finished run whose store is on this machine, the return value of ``from_pretrained`` or ``pretrain``
            for such a run, a folder that ``unimol-scale model pack`` wrote, or the name of a model that comes with the
            package.
        repository: ``owner/name``; created if it does not exist.
        private: create a repository that only its owner can see.
        token: access token of the hub; None: the token of the saved login.
        precision: for runs: dtype of the uploaded weights. ``bf16`` halves the file, which is loaded as fp32.

    Returns:
        The address of the repository.

    Raises:
        CheckpointError: the run is not finished, its store is not on this machine, ``huggingface_hub`` is not
            installed, or the hub refuses the upload.
        ConfigError: the model was not loaded from a folder, or its weights have changed since.

    Source:
        The sections of the card follow Mitchell et al. 2019 (arXiv 1810.03993), as far as a run records them.

    Example:
        >>> import unimol_scale as us
        >>> us.push_to_hub("runs/hello", "hello")
        Traceback (most recent call last):
        unimol_scale.errors.CheckpointError: 'hello' is not the name of a repository on the hub; write owner/name
    """
    source = source_of(model)
    if source is None:
        raise ConfigError("model: name a run, a packed folder, or a model that comes with the package")
    return packed_model.push_to_hub(Path(source), repository, private=private, token=token, stored=precision)
