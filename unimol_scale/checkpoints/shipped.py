"""Finds the models that come with the package by their names, such as ``unimol-scale-2m``. No torch."""

from dataclasses import dataclass
from pathlib import Path

from unimol_scale.common.run_files import MODEL_CARD_NAME

DEFAULT_MODEL = "unimol-scale-2m"  # of commands that are not told which
MODEL_HELP = "a run, a checkpoint, a name of `model list`, or owner/name on the Hugging Face hub"  # values of --from
SHIPPED_FOLDER = Path(__file__).parents[1] / "shipped"


@dataclass(frozen=True, kw_only=True)
class ShippedModel:
    """A model that comes with the package.

    Attributes:
        name: that ``from_pretrained`` and ``--from`` take.
        folder: of its weights, ``config.json`` and card.
        about: one line, the first paragraph of its card.
    """

    name: str
    folder: Path
    about: str

    @property
    def card(self) -> Path:
        """File that says what it was trained on, how good it is and where its limits are."""
        return self.folder / MODEL_CARD_NAME


def shipped_models() -> list[ShippedModel]:
    """Return the models that come with the package, in the order of their names.

    Returns:
        Name, folder and one line about each; ``from_pretrained(name)`` loads it.

    Raises:
        OSError: a card that was installed cannot be read.

    Source:
        Each model's card, ``unimol-scale model card NAME``.

    Example:
        >>> import unimol_scale as us
        >>> [model.name for model in us.shipped_models()]
        ['unimol-scale-2m']
    """
    folders = sorted(path.parent for path in SHIPPED_FOLDER.glob(f"*/{MODEL_CARD_NAME}"))
    return [ShippedModel(name=folder.name, folder=folder, about=_first_paragraph(folder)) for folder in folders]


def shipped_folder(name: str) -> Path | None:
    """Return the folder of a model that comes with the package; None if there is none of that name."""
    return next((model.folder for model in shipped_models() if model.name == name), None)


def _first_paragraph(folder: Path) -> str:
    """Return the first paragraph below the title of a card, in one line."""
    _, _, text = (folder / MODEL_CARD_NAME).read_text(encoding="utf-8").partition("\n# ")
    _, _, text = text.partition("\n\n")
    return " ".join(text.partition("\n\n")[0].split())
