"""What a file name tells: its suffix without that of a compression, its stem, and whether it is an archive."""

from pathlib import PurePosixPath

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
ARCHIVES = (".tar", ".tgz", ".tbz2", ".txz")


def bare_suffix(name: str) -> str:
    """Return the suffix of a file name in lower case, ignoring the suffix of a compression."""
    return _uncompressed(name).suffix.lower()


def stem(name: str) -> str:
    """Return a file name without folders and suffixes, for naming rows."""
    return _uncompressed(name).stem


def is_archive(name: str) -> bool:
    """Return whether a file name is that of a tar archive, compressed or not."""
    return bare_suffix(name) in ARCHIVES


def _uncompressed(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    return path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
