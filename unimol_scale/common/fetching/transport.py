"""Opening what a URL names at some byte, over HTTP or from an object store; the libraries are imported when needed.

Everything that can go wrong comes out as one of three: ``MissingError`` and ``RefusedError`` are final, and after a
``NetworkError`` one may try again.
"""

import dataclasses
from collections.abc import Callable
from http import HTTPStatus
from typing import Protocol

from unimol_scale.errors import SourceError

HTTP_SCHEMES = ("http", "https")
# Scheme → the package through which fsspec reads it.
OBJECT_STORES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
BLOCK_BYTES = 1 << 18
TRY_AGAIN = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


class MissingError(SourceError):
    """The server has no such file, or does not give it to us."""


class RefusedError(SourceError):
    """The file cannot be had in this way."""


class NetworkError(Exception):
    """The network or the server failed for now.

    Args:
        reason: what happened.
        wait_s: seconds that the server asks to wait; None where it does not say.
    """

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@dataclasses.dataclass(frozen=True, kw_only=True)
class Version:
    """What tells one version of a remote file from another; empty or None where the server does not say."""

    etag: str = ""
    last_modified: str = ""
    size: int | None = None

    def is_surely(self, other: "Version") -> bool:
        """Return whether the two have something in common to compare, and nothing that differs."""
        pairs = [(getattr(self, field.name), getattr(other, field.name)) for field in dataclasses.fields(self)]
        known = [(mine, theirs) for mine, theirs in pairs if mine not in ("", None) and theirs not in ("", None)]
        return bool(known) and all(mine == theirs for mine, theirs in known)

    @property
    def condition(self) -> str:
        """The value of an ``If-Range`` header (RFC 9110, 13.1.5): a strong ETag, else the date."""
        return self.last_modified if not self.etag or self.etag.startswith("W/") else self.etag


@dataclasses.dataclass(frozen=True, kw_only=True)
class Body:
    """An open remote file.

    Attributes:
        start: the byte at which it begins, which may be 0 although another was asked for.
        version: of the file, with its whole size.
        read: returns the next bytes, none at the end; raises ``NetworkError``.
        close: ends the connection.
    """

    start: int
    version: Version
    read: Callable[[], bytes]
    close: Callable[[], object]


class Transport(Protocol):
    """A way to remote files."""

    def open(self, url: str, start: int, version: Version | None) -> Body:
        """Open a file at the byte ``start`` if it still is ``version``, else at its beginning.

        Raises:
            MissingError: there is no such file.
            RefusedError: it cannot be had.
            NetworkError: try again.
        """

    def close(self) -> None:
        """Cut every connection; readers get ``NetworkError``."""


def transport_for(url: str, connections: int, stall_s: float) -> Transport:
    """Return the way to a URL's file.

    Args:
        url: http(s), s3 or gs.
        connections: at a time, at most.
        stall_s: seconds without a byte after which a connection counts as dead.

    Raises:
        SourceError: the scheme is unknown, or its package is not installed.
    """
    scheme = _scheme(url)
    if scheme not in HTTP_SCHEMES and scheme not in OBJECT_STORES:
        known = ", ".join(f"{name}://" for name in (*HTTP_SCHEMES, *OBJECT_STORES))
        raise SourceError(f"{url} is not a URL that can be fetched; valid: {known}")
    return transport_of_any(url, connections, stall_s)[0]


def transport_of_any(url: str, connections: int, stall_s: float) -> tuple[Transport, str]:
    """Return the way to the files under a URL of any scheme that fsspec knows, and what it calls the URL itself.

    Raises:
        SourceError: the scheme is unknown, or its package is not installed.
    """
    scheme = _scheme(url)
    if scheme in HTTP_SCHEMES:
        from unimol_scale.common.fetching.http_transport import HttpTransport

        return HttpTransport(connections, stall_s), url
    from unimol_scale.common.fetching.object_transport import ObjectTransport

    try:
        return ObjectTransport.of(url)
    except ImportError as error:
        package = OBJECT_STORES.get(scheme)
        remedy = f"{url} needs the package {package}: pip install {package}" if package else f"{url}: {error}"
        raise SourceError(remedy) from error
    except Exception as error:  # of the packages of the schemes
        raise SourceError(f"{url} cannot be read: {type(error).__name__}: {error}") from error


def _scheme(url: str) -> str:
    return url.split("://", 1)[0].lower()
