"""Turns the inputs of a source into an ordered list of files and URLs, and URLs into local files.

In a directory, files with the source's suffixes are read: plain, compressed or in tar archives. Links to folders are
followed, and a file that several links lead to is read once. Lists and scripts of URLs count only if they are named
themselves, not if they lie in a directory, beside the files that they have downloaded.
"""

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.inputs.file_names import ARCHIVES, bare_suffix, is_archive
from conformer_gen.sources.inputs.remote import fetch_all, is_url
from conformer_gen.sources.source import Source
from unimol_scale.common.fetching.download import FetchOptions
from unimol_scale.errors import SourceError

LISTS, SCRIPTS = (".uri",), (".wget", ".curl")
URL = re.compile(r"\b[a-z0-9]+://[^\s'\"<>|;]+", re.IGNORECASE)


def locate(config: SourceConfig) -> list[str]:
    """Return the local paths and URLs to read, in reading order.

    Raises:
        SourceError: a path does not exist, a directory has no file of the source's kind, or a tranche is not valid.
    """
    kind = config.kind
    if kind.bundled is not None:
        return [str(kind.bundled())]
    found = [place for text in config.input for place in _expand(os.fspath(text), config)]
    for place in found:
        if kind.refuse is not None and (why := kind.refuse(place.rsplit("/", 1)[-1])):
            raise SourceError(f"{place} {why}")
    return found


def describe(config: SourceConfig) -> list[str]:
    """Describe the inputs for the store's manifest: names and sizes of local files, without their paths, and URLs.

    Raises:
        SourceError: as ``locate``.
    """
    return [
        place if is_url(place) else f"{Path(place).name} ({Path(place).stat().st_size} bytes)"
        for place in locate(config)
    ]


def fetch(places: Sequence[str], config: SourceConfig, downloads: Path | None) -> Iterator[Path]:
    """Yield the local file of each place, in order; URLs are downloaded into ``downloads``, some ahead of the reader.

    Raises:
        SourceError: a URL cannot be downloaded, or there is no directory to download it into.
    """
    for remote, group in itertools.groupby(places, is_url):
        if not remote:
            yield from map(Path, group)
        elif downloads is None:
            raise SourceError(f"{next(group)} has not been downloaded yet; local files are needed here")
        else:
            yield from fetch_all(list(group), downloads, FetchOptions(missing_ok=config.missing_ok))


def _expand(text: str, config: SourceConfig) -> list[str]:
    if is_url(text):
        return [text]
    path = Path(text)
    if path.is_dir():
        return _in_directory(path, config.kind)
    if path.is_file():
        if path.suffix.lower() in LISTS + SCRIPTS:
            return _in_list(path)
        if not config.kind.in_archives and is_archive(path.name):
            raise SourceError(f"{path}: {config.name} cannot be read from archives; unpack it")
        return [text]
    if config.kind.expand is not None and (urls := config.kind.expand(text, config)) is not None:
        return urls
    also = f" and is not a {config.kind.word}" if config.kind.word else ""
    raise SourceError(f"--input {text} does not exist{also}")


def _in_directory(path: Path, kind: Source) -> list[str]:
    wanted = kind.suffixes + ARCHIVES if kind.in_archives else kind.suffixes
    found: dict[Path, Path] = {}  # by resolved path
    # Files come before links to them, because a row's name may come from the name of its file.
    for file in sorted(_walk(path, wanted), key=lambda file: (file.is_symlink(), file)):
        found.setdefault(file.resolve(), file)
    if not found:
        suffixes = ", ".join(kind.suffixes)
        raise SourceError(f"--input {path} holds no {suffixes} file (plain, compressed or in a tar archive)")
    return [str(file) for file in sorted(found.values())]


def _walk(top: Path, wanted: Sequence[str]) -> Iterator[Path]:
    """Yield the files below a folder that have a wanted suffix; each folder once, however many links lead to it."""

    def refuse(error: OSError) -> None:
        raise SourceError(f"--input {top}: the folder {error.filename} cannot be read: {error.strerror}") from error

    seen: set[Path] = set()
    for place, folders, names in os.walk(top, followlinks=True, onerror=refuse):
        folder = Path(place)
        if folder.resolve() in seen:
            folders.clear()
            continue
        seen.add(folder.resolve())
        # Real folders first: the targets of links have places of their own.
        folders.sort(key=lambda name: ((folder / name).is_symlink(), name))
        for file in (folder / name for name in names if not name.startswith("._")):
            if file.is_symlink() and not file.exists():
                # Its target may have been a folder or such a file.
                if not file.suffix or bare_suffix(file.name) in wanted:
                    raise SourceError(
                        f"--input {top}: {file} is a link to {file.readlink()}, which does not exist; repair or "
                        "remove the link"
                    )
            elif bare_suffix(file.name) in wanted and file.is_file():
                yield file


def _in_list(path: Path) -> list[str]:
    """Return the URLs and files in a list (one per line) or in a download script."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if path.suffix.lower() in SCRIPTS:
        places = [match.group() for line in lines if not line.lstrip().startswith("#") for match in URL.finditer(line)]
    else:
        places = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not places:
        raise SourceError(f"{path} lists no URL")
    return [place if is_url(place) else _listed_file(path, place) for place in places]


def _listed_file(path: Path, place: str) -> str:
    file = path.parent / place  # an absolute path stays as it is
    if "://" in place or not file.is_file():
        raise SourceError(f"{path} lists {place[:200]!r}, which is neither a supported URL nor a file")
    return str(file)
