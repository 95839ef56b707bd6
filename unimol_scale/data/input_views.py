"""How molecules are shown to a model, as a 2D graph, a 3D conformer or both, and which of these pretraining has shown.

Pretraining objectives hide things in different ways: Uni-Mol2 gives what is hidden a code of its own, MoleBlend leaves
it out of the pair track, and Uni-Mol2's 2D is the flat depiction as geometry. An embedding that an objective never
reads is never trained. So an objective says which views it shows, the model's file keeps them, and whatever uses the
model later shows molecules in the same way. Imports no torch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from unimol_scale.errors import ConfigError, nearest

Inputs = Literal["2d", "3d", "2d+3d"]
Relation = Literal["path", "edge", "distance"]
# From the one that says most of a molecule to the one that says least.
RICHEST_FIRST: tuple[Inputs, ...] = ("2d+3d", "3d", "2d")


@dataclass(frozen=True, kw_only=True)
class InputView:
    """One way to show molecules; elements are always shown.

    Attributes:
        atom_features: ``all``; ``own``: charge and radicals, while those that describe an atom's bonds have the code of
            what is hidden; ``hidden``: all of them, and degrees, bonds and paths, have that code.
        degree: whether an atom's number of bonds is shown; else it has the code of what is hidden.
        pairs: relations that enter the pair track; the others are zeros there.
        geometry: whose distances are shown: of the ``conformer``, of the ``planar`` depiction, or ``none``.
    """

    atom_features: Literal["all", "own", "hidden"] = "all"
    degree: bool = True
    pairs: tuple[Relation, ...] = ("path", "edge", "distance")
    geometry: Literal["conformer", "planar", "none"] = "conformer"

    def __post_init__(self) -> None:
        if ("distance" in self.pairs) == (self.geometry == "none"):
            raise ConfigError(f"pairs {list(self.pairs)} and geometry {self.geometry} contradict each other")


# What each input means to a model of which nothing else is known, and has always meant to it.
STANDARD_VIEWS: Mapping[Inputs, InputView] = MappingProxyType(
    {
        "2d": InputView(pairs=("path", "edge"), geometry="none"),
        "3d": InputView(atom_features="hidden", degree=False),
        "2d+3d": InputView(),
    }
)


@dataclass(frozen=True, kw_only=True)
class InputsSeen:
    """What pretraining has shown to a model.

    Attributes:
        views: ``2d``, ``3d`` or ``2d+3d`` → how it was shown; one that was never shown is left out.
    """

    views: Mapping[str, InputView]

    def __post_init__(self) -> None:
        for inputs in self.views:
            if inputs not in get_args(Inputs):
                raise ConfigError(f"views: unknown inputs {inputs!r}; {nearest(inputs, get_args(Inputs))}")

    @property
    def inputs(self) -> tuple[Inputs, ...]:
        """The inputs that were shown, the richest first."""
        return tuple(inputs for inputs in RICHEST_FIRST if inputs in self.views)


def joined(seen: Iterable[InputsSeen]) -> InputsSeen:
    """Return what a model has seen that learnt several objectives; of two views of one input, the one that shows more.

    Args:
        seen: what each of them shows; of two that show as much, the first counts.
    """
    views: dict[str, InputView] = {}
    for one in seen:
        for inputs, view in one.views.items():
            if inputs not in views or _content(view) > _content(views[inputs]):
                views[inputs] = view
    return InputsSeen(views=views)


def _content(view: InputView) -> tuple[int, ...]:
    features = ("hidden", "own", "all").index(view.atom_features)
    return features, int(view.degree), len(view.pairs)
