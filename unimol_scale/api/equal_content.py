"""Whether what holds arrays has equal content. Imports NumPy only."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def same_content(mine: Mapping[str, Any], its: Mapping[str, Any]) -> bool:
    """Return whether two mappings hold equal arrays and values at every level; NaN equals NaN."""
    try:
        np.testing.assert_equal(mine, its)
    except AssertionError:
        return False
    return True
