"""How a model sees molecules (2D graph, 3D conformer or both), and which of these views its pretraining has used.

Pretraining objectives hide things in different ways: Uni-Mol2 gives hidden features a code of their own, MoleBlend
leaves them out of the pair track, and Uni-Mol2's 2D view is the flat depiction used as geometry. An embedding that an
objective never reads is never trained. So an objective states which views it uses, the model's file records them, and
whatever uses the model later shows molecules in the same way. Imports no torch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from unimol_scale.errors import ConfigError, nearest

Inputs = Literal["2d", "3d", "2d+3d"]
Relation = Literal["path", "edge", "distance"]
# From the most informative view of a molecule to the least.
RICHEST_FIRST: tuple[Inputs, ...] = ("2d+3d", "3d", "2d")


@dataclass(frozen=True, kw_only=True)
class InputView:
    """One way to show molecules to a model. Elements are always shown.

    Attributes:
        atom_features: ``all``; ``own``: charge and radicals only, with the code for "hidden" for features that depend
            on an atom's bonds; ``hidden``: that code for all features, degrees, bonds and paths.
        degree: whether an atom's number of bonds is shown; otherwise it has the code for "hidden".
        pairs: relations that enter the pair track; the others are zero there.
        geometry: source of the distances: the ``conformer``, the ``planar`` depiction, or ``none``.
    """

    atom_features: Literal["all", "own", "hidden"] = "all"
    degree: bool = True
    pairs: tuple[Relation, ...] = ("path", "edge", "distance")
    geometry: Literal["conformer", "planar", "none"] = "conformer"

    def __post_init__(self) -> None:
        if ("distance" in self.pairs) == (self.geometry == "none"):
            raise ConfigError(f"pairs {list(self.pairs)} and geometry {self.geometry} contradict each other")


# The view for each input of a model about which nothing else is known, as it has always been.
STANDARD_VIEWS: Mapping[Inputs, InputView] = MappingProxyType(
    {
        "2d": InputView(pairs=("path", "edge"), geometry="none"),
        "3d": InputView(atom_features="hidden", degree=False),
        "2d+3d": InputView(),
    }
)


@dataclass(frozen=True, kw_only=True)
class InputsSeen:
    """The views that pretraining has used for a model.

    Attributes:
        views: ``2d``, ``3d`` or ``2d+3d`` → how it was shown; inputs that were never shown are absent.
    """

    views: Mapping[str, InputView]

    def __post_init__(self) -> None:
        for inputs in self.views:
            if inputs not in get_args(Inputs):
                raise ConfigError(f"views: unknown inputs {inputs!r}; {nearest(inputs, get_args(Inputs))}")

    @property
    def inputs(self) -> tuple[Inputs, ...]:
        """The inputs that were shown, the most informative first."""
        return tuple(inputs for inputs in RICHEST_FIRST if inputs in self.views)


def joined(seen: Iterable[InputsSeen]) -> InputsSeen:
    """Combine what several objectives have shown to a model; of two views of one input, keep the more informative one.

    Args:
        seen: views used by each objective; of equally informative views, the first is kept.
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
