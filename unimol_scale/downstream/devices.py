"""Which device a verb computes on."""

import torch

from unimol_scale.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """Return the device of ``auto``, ``cpu`` or ``cuda``; auto takes a GPU if there is one.

    Raises:
        ConfigError: it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: this machine has no GPU that torch can use; take --device cpu")
    return torch.device(name)
