"""Models for others, by call: those that come with the package, and one's own on the hub."""

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
    """Send a pretrained model with its card to the Hugging Face hub; ``from_pretrained(repository)`` loads it.

    Args:
        model: a finished run whose store is here, what ``from_pretrained`` or ``pretrain`` returned of one, a folder
            that ``unimol-scale model pack`` wrote, or the name of a model that comes with the package.
        repository: ``owner/name``; made if it does not exist.
        private: visible to its owner only.
        token: of the hub; None: of the login that the library remembers.
        precision: of the weights there, of a run; ``bf16`` halves them, and they load as fp32.

    Returns:
        Its address.

    Raises:
        CheckpointError: the run is not finished or its store is not here, ``huggingface_hub`` is not installed, or the
            hub refuses.
        ConfigError: the model was not loaded from a folder, or changed since.

    Source:
        The card's sections are those of Mitchell et al. 2019 (arXiv 1810.03993), as far as a run records them.

    Example:
        >>> import unimol_scale as us
        >>> us.push_to_hub("runs/hello", "hello")
        Traceback (most recent call last):
        unimol_scale.errors.CheckpointError: 'hello' is not a place on the hub; write owner/name
    """
    source = source_of(model)
    if source is None:
        raise ConfigError("model: name a run, a packed folder, or a model that comes with the package")
    return packed_model.push_to_hub(Path(source), repository, private=private, token=token, stored=precision)
