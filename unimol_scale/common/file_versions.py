"""What is said of a file whose format has another version than the one that is read. Imports nothing.

A version rises when readers of before would misread the file, not when a key is added that they can do without.
"""


def version_problem(found: object, reads: int, name: str = "format_version") -> str:
    """Return what is wrong with the version that a file states and what to do; "" if nothing is.

    Args:
        found: what the file states.
        reads: the version that this program reads.
        name: of the key in the file.
    """
    if found == reads:
        return ""
    if isinstance(found, int) and found > reads:
        return (
            f"{name} {found} is newer than {reads}, which this version of unimol-scale reads; update unimol-scale to "
            "read the file"
        )
    return (
        f"{name} {found!r} is not {reads}, which this version of unimol-scale reads; use the version that wrote the "
        "file, or write it anew with this one"
    )
