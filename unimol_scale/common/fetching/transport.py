"""The interface of the transports for remote files, and their errors. Imports the standard library only.

A transport raises three errors: ``MissingError`` and ``RefusedError`` are final; after a ``NetworkError`` the caller
may try again.
"""

import dataclasses
from collections.abc import Callable
from http import HTTPStatus
from typing import Protocol

from unimol_scale.errors import SourceError

BLOCK_BYTES = 1 << 18
TRY_AGAIN = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


class MissingError(SourceError):
    """The server does not have the file, or denies access to it."""


class RefusedError(SourceError):
    """The file cannot be fetched, and trying again would not help."""


class NetworkError(Exception):
    """The network or the server failed, perhaps only for a moment.

    Args:
        reason: what happened.
        wait_s: seconds that the server asks clients to wait; None if it does not say.
    """

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@dataclasses.dataclass(frozen=True, kw_only=True)
class Version:
    """Identifies one version of a remote file. Fields are empty or None if the server does not state them."""

    etag: str = ""
    last_modified: str = ""
    size: int | None = None

    def is_surely(self, other: "Version") -> bool:
        """Return whether at least one field is known on both sides, and all such fields are equal."""
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
        start: offset of its first byte; may be 0 although another offset was requested.
        version: the version of the file; its size is that of the whole file.
        read: returns the next bytes, empty at the end; raises ``NetworkError``.
        close: closes the connection.
    """

    start: int
    version: Version
    read: Callable[[], bytes]
    close: Callable[[], object]


class Transport(Protocol):
    """Fetches remote files."""

    def open(self, url: str, start: int, version: Version | None) -> Body:
        """Open a file at the byte ``start`` if its version is still ``version``, else at its beginning.

        Raises:
            MissingError: there is no such file.
            RefusedError: the file cannot be fetched.
            NetworkError: the request failed, but may succeed later.
        """

    def close(self) -> None:
        """Close every connection; waiting readers raise ``NetworkError``."""
