"""Compares nested mappings that hold arrays. Imports only NumPy."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def same_content(mine: Mapping[str, Any], its: Mapping[str, Any]) -> bool:
    """Return whether two mappings hold equal arrays and values at all levels; NaN equals NaN."""
    try:
        np.testing.assert_equal(mine, its)
    except AssertionError:
        return False
    return True
