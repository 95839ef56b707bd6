"""Opening what a URL names at some byte, over HTTP or from an object store. Imports fsspec and aiohttp.

Everything that can go wrong comes out as one of three: ``MissingError`` and ``RefusedError`` are final, and after a
``NetworkError`` one may try again.
"""

import asyncio
import concurrent.futures
import dataclasses
import datetime
import email.utils
import re
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, Protocol, TypeVar

import aiohttp
import fsspec
from fsspec.implementations.http import HTTPFileSystem

from unimol_scale.errors import SourceError

HTTP_SCHEMES = ("http", "https")
# Scheme → the package through which fsspec reads it.
OBJECT_STORES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
BLOCK_BYTES = 1 << 18
BLOCKS_WAITING = 4  # of each connection, between the network and the disk
MISSING = (HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN, HTTPStatus.GONE)
TRY_AGAIN = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")

Result = TypeVar("Result")


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


class HttpTransport:
    """HTTP and HTTPS with ``Range`` requests. Proxies are taken from the environment.

    Args:
        connections: at most as many at a time, idle ones included.
        stall_s: seconds without a byte after which a connection counts as dead.
    """

    def __init__(self, connections: int, stall_s: float) -> None:
        async def client(**keys: Any) -> aiohttp.ClientSession:  # noqa: ANN401
            return aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=connections),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=stall_s, sock_read=stall_s),
                auto_decompress=False,  # lengths and offsets are those of the bytes sent
                read_bufsize=BLOCK_BYTES,
                trust_env=True,
                **keys,
            )

        self._files = HTTPFileSystem(get_client=client, skip_instance_cache=True)  # its end is the session's
        self._loop = self._files.loop
        # What threads are waiting for; cancelling it is the only thing that wakes them from a silent server.
        self._awaited: set[concurrent.futures.Future[Any]] = set()
        self._closed = False
        self._session: aiohttp.ClientSession = self._wait(self._files.set_session())

    def open(self, url: str, start: int, version: Version | None) -> Body:
        """Request a file from the byte ``start``; see ``Transport``."""
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if version is not None and version.condition:
                headers["If-Range"] = version.condition
        response = self._wait(self._request(url, headers))
        if start and response.answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # it has become shorter
            self._loop.call_soon_threadsafe(response.close)
            return self.open(url, 0, None)
        try:
            begin, size = _extent(url, response.answer)
        except BaseException:
            self._loop.call_soon_threadsafe(response.close)
            raise
        etag, date = (response.answer.headers.get(name, "") for name in ("ETag", "Last-Modified"))
        return Body(
            start=begin,
            version=Version(etag=etag, last_modified=date, size=size),
            read=lambda: self._wait(response.next()),
            close=lambda: self._loop.call_soon_threadsafe(response.close),
        )

    async def _request(self, url: str, headers: dict[str, str]) -> "_Response":
        return _Response(await self._session.get(url, headers=headers))

    def _wait(self, action: Coroutine[Any, Any, Result]) -> Result:
        future = asyncio.run_coroutine_threadsafe(action, self._loop)
        self._awaited.add(future)
        if self._closed:  # by another thread, which has not seen this one
            future.cancel()
        try:
            return future.result()
        except aiohttp.InvalidURL as error:
            raise RefusedError(f"{error} is not a URL that can be requested") from error
        except concurrent.futures.CancelledError as error:
            raise NetworkError("the connection has been closed") from error
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            raise NetworkError(str(error) or type(error).__name__) from error
        finally:
            self._awaited.discard(future)

    def close(self) -> None:
        """Cut every connection."""
        self._closed = True
        for future in tuple(self._awaited):
            future.cancel()
        asyncio.run_coroutine_threadsafe(self._session.close(), self._loop).result()


class _Response:
    """An answer whose blocks are taken from the connection as they come.

    aiohttp forgets what it holds when a connection breaks, so a reader in another thread would lose the last blocks,
    or all of a small file; here they wait in a queue. Made and used inside the event loop.
    """

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self._blocks: asyncio.Queue[bytes | BaseException] = asyncio.Queue(BLOCKS_WAITING)
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while block := await self.answer.content.readany():
                await self._blocks.put(block)
            await self._blocks.put(b"")
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            await self._blocks.put(error)

    async def next(self) -> bytes:
        """Return the next block, none at the end; raise what broke the connection."""
        block = await self._blocks.get()
        if isinstance(block, BaseException):
            raise block
        return block

    def close(self) -> None:
        """End the connection."""
        self._reader.cancel()
        self.answer.close()


def _extent(url: str, response: aiohttp.ClientResponse) -> tuple[int, int | None]:
    """Return the first byte of an answer and the whole file's size, or raise what the status means."""
    status, headers = response.status, response.headers
    if status == HTTPStatus.OK:
        return 0, int(headers["Content-Length"]) if "Content-Length" in headers else None
    if status == HTTPStatus.PARTIAL_CONTENT:
        found = CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if found is None:
            raise RefusedError(f"{url}: the server sends a part of the file and does not say which")
        return int(found[1]), None if found[2] == "*" else int(found[2])
    said = f"the server answers {status} {response.reason or ''}".rstrip()
    if status in MISSING:
        raise MissingError(f"{url}: {said}")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in TRY_AGAIN:
        raise NetworkError(said, _retry_after(headers.get("Retry-After", "")))
    raise RefusedError(f"{url}: {said}")


def _retry_after(text: str) -> float | None:
    """Return the seconds of a ``Retry-After`` header: a number or a date."""
    if text.isdigit():
        return float(text)
    try:
        date = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.timezone.utc)
    return max(0.0, (date - datetime.datetime.now(datetime.timezone.utc)).total_seconds())


class ObjectTransport:
    """A file system of fsspec, such as S3 or Google Cloud Storage. Timeouts and credentials are that package's own."""

    def __init__(self, files: fsspec.AbstractFileSystem) -> None:
        self._files = files

    def open(self, url: str, start: int, version: Version | None) -> Body:
        """Open an object at the byte ``start``; see ``Transport``."""
        size = _attempted(url, lambda: self._files.info(url)["size"])
        now = Version(etag=_attempted(url, lambda: self._files.ukey(url)), size=size)
        begin = start if version is not None and version.is_surely(now) else 0
        file = _attempted(url, lambda: self._files.open(url, "rb"))
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
    except (OSError, TimeoutError) as error:
        raise NetworkError(str(error) or type(error).__name__) from error
    except Exception as error:  # each store has its own classes, for credentials above all
        raise RefusedError(f"{url}: {type(error).__name__}: {error}") from error


def transport_for(url: str, connections: int, stall_s: float) -> Transport:
    """Return the way to a URL's file.

    Raises:
        SourceError: the scheme is unknown, or its package is not installed.
    """
    scheme = url.split("://", 1)[0].lower()
    if scheme in HTTP_SCHEMES:
        return HttpTransport(connections, stall_s)
    if scheme not in OBJECT_STORES:
        known = ", ".join(f"{name}://" for name in (*HTTP_SCHEMES, *OBJECT_STORES))
        raise SourceError(f"{url} is not a URL that can be fetched; valid: {known}")
    try:
        return ObjectTransport(fsspec.filesystem(scheme))
    except ImportError as error:
        package = OBJECT_STORES[scheme]
        raise SourceError(f"{url} needs the package {package}: pip install {package}") from error
    except Exception as error:
        raise SourceError(f"{url}: {type(error).__name__}: {error}") from error
