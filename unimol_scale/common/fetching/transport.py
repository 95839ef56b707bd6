"""What every transport of remote files offers, and the errors that it raises. Imports the standard library only.

Everything that can go wrong comes out as one of three: ``MissingError`` and ``RefusedError`` are final, and after a
``NetworkError`` one may try again.
"""

import dataclasses
from collections.abc import Callable
from http import HTTPStatus
from typing import Protocol

from unimol_scale.errors import SourceError

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
