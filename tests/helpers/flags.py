"""Flags of the command line in a message of a Python call, where nobody can give them."""

import re


def flags_in(text: object) -> list[str]:
    """Return the flags that a message names, but for those of a command that it recommends as a whole."""
    return re.findall(r"--[a-z][\w-]*", re.sub(r"unimol-scale [^,;()`\n]*", "", str(text)))
