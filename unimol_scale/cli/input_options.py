"""The options that say in which form a model gets a molecule, for every verb that has them."""

import argparse
from collections.abc import Callable


def add_input_options(add: Callable[..., object]) -> None:
    """Declare the views and the hydrogens; ``add`` is ``add_argument`` of a parser or group."""
    add(
        "--inputs",
        choices=("2d", "3d", "2d+3d"),
        help="use the graph, the 3D structure or both (default: everything that the model was pretrained on)",
    )
    add(
        "--hydrogens",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="treat hydrogens as atoms (default: as in pretraining)",
    )
