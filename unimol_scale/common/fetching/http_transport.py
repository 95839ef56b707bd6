"""Reads files over HTTP and HTTPS, starting at any byte. Imports fsspec and aiohttp."""

import asyncio
import concurrent.futures
import datetime
import email.utils
import re
from collections.abc import Coroutine
from http import HTTPStatus
from typing import Any, TypeVar

import aiohttp
from fsspec.implementations.http import HTTPFileSystem

from unimol_scale.common.fetching.transport import (
    BLOCK_BYTES,
    TRY_AGAIN,
    Body,
    MissingError,
    NetworkError,
    RefusedError,
    Version,
)

BLOCKS_WAITING = 4  # of each connection, between the network and the disk
MISSING = (HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN, HTTPStatus.GONE)
CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")

Result = TypeVar("Result")


class HttpTransport:
    """HTTP and HTTPS with ``Range`` requests. Proxy settings come from the environment.

    Args:
        connections: largest number of simultaneous connections, idle ones included.
        stall_s: seconds without data after which a connection counts as dead.
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

        self._files = HTTPFileSystem(get_client=client, skip_instance_cache=True)  # lives as long as the session
        self._loop = self._files.loop
        # The futures that threads wait for. A thread waiting for a silent server can be woken only by cancelling them.
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
        if self._closed:  # another thread closed this between the check and the registration of this future
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
    """A response whose blocks are read from the connection into a queue as they arrive.

    aiohttp drops its buffer when a connection breaks, so a reader in another thread would lose the last blocks, or a
    whole small file. Made and used inside the event loop.
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
        """Return the next block, empty at the end; raise the error that broke the connection."""
        block = await self._blocks.get()
        if isinstance(block, BaseException):
            raise block
        return block

    def close(self) -> None:
        """End the connection."""
        self._reader.cancel()
        self.answer.close()


def _extent(url: str, response: aiohttp.ClientResponse) -> tuple[int, int | None]:
    """Return the offset of a response's first byte and the size of the whole file, or raise the error of its status."""
    status, headers = response.status, response.headers
    if status == HTTPStatus.OK:
        return 0, int(headers["Content-Length"]) if "Content-Length" in headers else None
    if status == HTTPStatus.PARTIAL_CONTENT:
        found = CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if found is None:
            raise RefusedError(f"{url}: the server sent part of the file without saying which part")
        return int(found[1]), None if found[2] == "*" else int(found[2])
    said = f"the server answered {status} {response.reason or ''}".rstrip()
    if status in MISSING:
        raise MissingError(f"{url}: {said}")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in TRY_AGAIN:
        raise NetworkError(said, _retry_after(headers.get("Retry-After", "")))
    raise RefusedError(f"{url}: {said}")


def _retry_after(text: str) -> float | None:
    """Return the seconds to wait by a ``Retry-After`` header, which is a number or a date; None if it is neither."""
    if text.isdigit():
        return float(text)
    try:
        date = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.timezone.utc)
    return max(0.0, (date - datetime.datetime.now(datetime.timezone.utc)).total_seconds())
