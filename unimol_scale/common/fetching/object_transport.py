"""Reads files through any file system that fsspec knows, mainly object stores. Imports fsspec."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar

import fsspec

from unimol_scale.common.fetching.transport import (
    BLOCK_BYTES,
    TRY_AGAIN,
    Body,
    MissingError,
    NetworkError,
    RefusedError,
    Version,
)

Result = TypeVar("Result")


class ObjectTransport:
    """A file system of fsspec, such as S3 or Google Cloud Storage, with the timeouts and credentials of its package."""

    def __init__(self, files: fsspec.AbstractFileSystem) -> None:
        self._files = files

    @classmethod
    def of(cls, url: str) -> "tuple[ObjectTransport, str]":
        """Return the file system of a URL, and the URL's path in it."""
        files, path = fsspec.url_to_fs(url)
        return cls(files), path

    def open(self, url: str, start: int, version: Version | None) -> Body:
        """Open an object at the byte ``start``; see ``Transport``."""
        size = _attempted(url, lambda: self._files.info(url)["size"])
        now = Version(etag=_attempted(url, lambda: self._files.ukey(url)), size=size)
        begin = start if version is not None and version.is_surely(now) else 0
        file = _attempted(url, lambda: self._files.open(url, "rb"))
        if begin:
            _attempted(url, lambda: file.seek(begin))
        return Body(
            start=begin, version=now, read=lambda: _attempted(url, lambda: file.read(BLOCK_BYTES)), close=file.close
        )

    def close(self) -> None:
        """Nothing is kept open between files."""


def _attempted(url: str, action: Callable[[], Result]) -> Result:
    try:
        return action()
    except (FileNotFoundError, PermissionError) as error:
        raise MissingError(f"{url}: {error}") from error
    except (OSError, asyncio.TimeoutError) as error:
        raise NetworkError(str(error) or type(error).__name__) from error
    except Exception as error:  # each store has its own classes
        if _is_final(error):
            raise RefusedError(f"{url}: {type(error).__name__}: {error}") from error
        raise NetworkError(f"{type(error).__name__}: {error}") from error


def _is_final(error: Exception) -> bool:
    """Return whether trying again is pointless after an error of a store's own class: refused, or no credentials."""
    status = getattr(error, "status", getattr(error, "code", None))
    if isinstance(status, int) and HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return status not in TRY_AGAIN
    # The stores' libraries have a class each for missing credentials, without a common base, and need not be installed.
    # Their file systems raise NotImplementedError for what they do not offer.
    return isinstance(error, ImportError | NotImplementedError) or "credential" in type(error).__name__.lower()
