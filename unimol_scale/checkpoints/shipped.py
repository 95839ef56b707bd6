"""Finds the models that come with the package by their names, such as ``unimol-scale-2m``. No torch."""

from dataclasses import dataclass
from pathlib import Path

from unimol_scale.common.run_files import MODEL_CARD_NAME

DEFAULT_MODEL = "unimol-scale-2m-v2"  # of commands and calls that name no model
MODEL_HELP = "a run, a checkpoint, a name of `model list`, or owner/name on the Hugging Face hub"  # values of --from
SHIPPED_FOLDER = Path(__file__).parents[1] / "shipped"


@dataclass(frozen=True, kw_only=True)
class ShippedModel:
    """A model that comes with the package.

    Attributes:
        name: name that ``from_pretrained`` and ``--from`` accept.
        folder: folder with its weights, ``config.json`` and card.
        about: first paragraph of its card, in one line.
    """

    name: str
    folder: Path
    about: str

    @property
    def card(self) -> Path:
        """Path of the model card: training data, scores and limits."""
        return self.folder / MODEL_CARD_NAME


def shipped_models() -> list[ShippedModel]:
    """Return the models that come with the package, sorted by name.

    Returns:
        Name, folder and a one-line description of each; ``from_pretrained(name)`` loads it.

    Raises:
        OSError: the card of a model cannot be read.

    Source:
        Each model's card, ``unimol-scale model card NAME``.

    Example:
        >>> import unimol_scale as us
        >>> [model.name for model in us.shipped_models()]
        ['unimol-scale-2m', 'unimol-scale-2m-2d', 'unimol-scale-2m-v2']
    """
    folders = sorted(path.parent for path in SHIPPED_FOLDER.glob(f"*/{MODEL_CARD_NAME}"))
    return [ShippedModel(name=folder.name, folder=folder, about=_first_paragraph(folder)) for folder in folders]


def shipped_folder(name: str) -> Path | None:
    """Return the folder of a model that comes with the package; None if there is no model of that name."""
    return next((model.folder for model in shipped_models() if model.name == name), None)


def _first_paragraph(folder: Path) -> str:
    """Return the first paragraph below the title of a card, in one line."""
    _, _, text = (folder / MODEL_CARD_NAME).read_text(encoding="utf-8").partition("\n# ")
    _, _, text = text.partition("\n\n")
    return " ".join(text.partition("\n\n")[0].split())
