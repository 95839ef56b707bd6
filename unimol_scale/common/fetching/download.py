"""Downloads one remote file: its unfinished part on disk, its version, and when to try again. Imports no network."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from unimol_scale.common.fetching.transport import NetworkError, RefusedError, Transport, Version
from unimol_scale.common.files import commit_text, flush, hash_file
from unimol_scale.errors import ConfigError, SourceError

MOST_CONNECTIONS = 8  # the limit that files.docking.org asks its users to respect
PART_SUFFIX, VERSION_SUFFIX = ".part", ".part.json"
LONGEST_BACKOFF_S = 60.0
QUIET_WAIT_S = 2.0  # longer waits are logged
HEAD_BYTES = 1024
_log = logging.getLogger(__name__)
Result = TypeVar("Result")
WEB_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|title|meta|script|\?xml|!--)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """How remote files are fetched.

    Attributes:
        connections: largest number of simultaneous connections over all files; at most 8.
        ahead: how many files are fetched ahead of the one that is being read; at most 8.
        stall_s: seconds without data after which a connection is closed and tried again.
        tries: consecutive attempts without any new data before a file is given up.
        backoff_s: seconds before the second attempt; doubled for each further one, up to 60.
        longest_wait_s: longest wait, in seconds, that a server may ask for; a file is given up if it asks for more.
        missing_ok: skip files that the server does not have and list them in ``missing.txt``.
    """

    connections: int = MOST_CONNECTIONS
    ahead: int = 8
    stall_s: float = 30.0
    tries: int = 6
    backoff_s: float = 1.0
    longest_wait_s: float = 3600.0
    missing_ok: bool = False

    def __post_init__(self) -> None:
        for name in ("connections", "ahead"):
            if not 1 <= getattr(self, name) <= MOST_CONNECTIONS:
                raise ConfigError(f"{name} must be 1 to {MOST_CONNECTIONS}, got {getattr(self, name)}")
        if self.tries < 1:
            raise ConfigError(f"tries must be at least 1, got {self.tries}")
        if self.stall_s <= 0:
            raise ConfigError(f"stall_s must be above 0, got {self.stall_s}")
        for name in ("backoff_s", "longest_wait_s"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, got {getattr(self, name)}")


class StoppedError(Exception):
    """The reader needs no more data and ended the download; nothing is wrong."""


class GivenUpError(RefusedError):
    """A file could not be downloaded in the allowed number of attempts.

    Attributes:
        reason: why the last attempt failed.
        tries: number of consecutive failures.
    """

    def __init__(self, text: str, reason: str = "", tries: int = 0) -> None:
        super().__init__(text)
        self.reason, self.tries = reason, tries


class UnwritableError(SourceError):
    """A downloaded file cannot be written to disk; ``cause`` is the system's error."""

    def __init__(self, text: str, cause: OSError | None = None) -> None:
        super().__init__(text)
        self.cause = cause


@dataclasses.dataclass(frozen=True, kw_only=True)
class Content:
    """The expected content of a file, if it is known beforehand: its size in bytes and its hexadecimal SHA-256."""

    bytes: int
    sha256: str


def read_patiently(url: str, transport: Transport, options: FetchOptions) -> bytes:
    """Return the bytes of a small file, trying as often as ``options`` say.

    Args:
        url: the URL as the transport expects it.
        transport: fetches the file.
        options: how often to try.

    Raises:
        MissingError: there is no such file.
        RefusedError: the file cannot be fetched.
    """

    def attempt() -> bytes:
        with contextlib.closing(transport.open(url, 0, None)) as body:
            content = b"".join(iter(body.read, b""))
        if body.version.size not in (None, len(content)):
            raise NetworkError(f"received {len(content):,} of {body.version.size:,} bytes")
        return content

    return _patiently(url, options, threading.Event(), attempt, lambda: 0)


def _patiently(
    url: str, options: FetchOptions, stop: threading.Event, attempt: Callable[[], Result], reached: Callable[[], int]
) -> Result:
    """Call ``attempt`` until it succeeds and return its result.

    Args:
        url: for messages.
        options: how often to try.
        stop: set by the reader when it needs no more data.
        attempt: tries once.
        reached: returns the bytes received so far; progress resets the count of failures.

    Raises:
        GivenUpError: it failed too often, or the server asks for too long a wait.
        StoppedError: the reader needs no more data.
    """
    furthest, failures = reached(), 0
    while True:
        if stop.is_set():
            raise StoppedError
        try:
            return attempt()
        except NetworkError as error:
            now = reached()
            failures = 1 if now > furthest else failures + 1
            furthest = max(furthest, now)
            wait_s = _backoff(url, options, failures) if error.wait_s is None else error.wait_s
            if failures >= options.tries or wait_s > options.longest_wait_s:
                asked = f", the server asks to wait {wait_s:,.0f} s" if error.wait_s else ""
                raise GivenUpError(
                    f"{url} cannot be downloaded: {error} ({failures} tries without new data, {now:,} bytes so far"
                    f"{asked}); run the same command again later: it continues the download",
                    f"{error}{asked}",
                    failures,
                ) from error
            if wait_s > QUIET_WAIT_S:
                _log.warning(f"{url} is not available now: {error}; trying again in {wait_s:,.0f} s")
            stop.wait(wait_s)


def _backoff(url: str, options: FetchOptions, failures: int) -> float:
    """Return the pause in seconds: doubled with each failure; a hash spreads it so that retries do not coincide."""
    digest = hashlib.sha256(f"{url} {failures}".encode()).digest()
    spread = 0.5 + 0.5 * digest[0] / 255
    return min(LONGEST_BACKOFF_S, options.backoff_s * 2.0 ** min(failures - 1, 30)) * spread


class Download:
    """The download of one file from a URL to ``target``.

    The version of the remote file is kept beside the unfinished file, so that a later process can request the rest of
    the same version. No version is kept if the content is known beforehand.

    Args:
        url: the URL as the transport expects it.
        target: path of the complete file; its directory is made.
        options: how often to try.
        stop: set by the reader when it needs no more data.
        count: called with the number of bytes in each block received.
        content: the expected content; None if it is not known, in which case only web pages are refused.
        part: the unfinished file, in the directory of ``target``; None: the target's name with the suffix ``.part``.
    """

    def __init__(
        self,
        url: str,
        target: Path,
        options: FetchOptions,
        stop: threading.Event,
        count: Callable[[int], object],
        content: Content | None = None,
        part: Path | None = None,
    ) -> None:
        self._url, self._target, self._options, self._stop, self._count = url, target, options, stop, count
        self._content = content
        self._part = part or target.with_name(target.name + PART_SUFFIX)
        self._version_file = target.with_name(target.name + VERSION_SUFFIX)

    def run(self, transport: Transport) -> Path:
        """Download the missing rest of the file and return its path; return at once if the file is complete.

        Raises:
            MissingError: there is no such file.
            RefusedError: the file is a web page, cannot be fetched, or was given up after all tries.
            UnwritableError: the file cannot be written to disk.
            StoppedError: the reader needs no more data.
        """
        if self._target.exists():
            return self._target
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            _patiently(self._url, self._options, self._stop, lambda: self._attempt(transport), self._length)
        except OSError as error:  # of the disk: network errors are NetworkError by now
            raise UnwritableError(
                f"{self._target} cannot be written: {error.strerror or error}; "
                "make room or give another --output, and run the same command again: it continues the download",
                error,
            ) from error
        return self._target

    def _attempt(self, transport: Transport) -> None:
        version = self._version()
        start = self._length() if version is not None else 0
        complete = version is not None and version.size == start and self._part.exists()
        if not complete:
            body = transport.open(self._url, start, version)
            if body.start not in (0, start) or (body.start and not (version and version.is_surely(body.version))):
                body.close()
                body = transport.open(self._url, 0, None)  # the remote file has changed, or may have changed
            with contextlib.closing(body):
                if body.start == 0:
                    self._begin(body.version)
                self._append(body.read)
                size = body.version.size
            if size is None and self._content is not None:
                size = self._content.bytes
            if size is not None and size != self._length():
                raise NetworkError(f"received {self._length():,} of {size:,} bytes")
        self._check()
        flush(self._part)
        self._part.replace(self._target)
        self._version_file.unlink(missing_ok=True)
        flush(self._target.parent)

    def _begin(self, version: Version) -> None:
        """Start anew; remove the old bytes first, so that they never lie beside the record of another version."""
        if self._content is not None:
            self._empty()
            return
        self._part.unlink(missing_ok=True)
        commit_text(self._version_file, json.dumps(dataclasses.asdict(version)))

    def _append(self, read: Callable[[], bytes]) -> None:
        with self._part.open("ab") as file:
            while block := read():
                file.write(block)
                self._count(len(block))
                if self._stop.is_set():
                    raise StoppedError

    def _check(self) -> None:
        """Refuse a file that cannot be the right one, and remove its bytes."""
        if self._content is not None:
            found = self._length()
            if found != self._content.bytes or hash_file(self._part) != self._content.sha256:
                self._empty()
                raise NetworkError(
                    f"its content ({found:,} bytes) differs from the expected file ({self._content.bytes:,} bytes)"
                )
            return
        with self._part.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if WEB_PAGE.match(head):
            self._part.unlink()
            self._version_file.unlink(missing_ok=True)
            raise RefusedError(f"{self._url} is a web page, not data; check the address, or whether the site is down")

    def _empty(self) -> None:
        """Empty the unfinished file without deleting it, since its existence may reserve its name."""
        self._part.open("wb").close()

    def _length(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _version(self) -> Version | None:
        """Return the version of the unfinished file; None if there is no such file or its version is unknown."""
        if self._content is not None:
            return Version(size=self._content.bytes) if self._length() <= self._content.bytes else None
        try:
            return Version(**json.loads(self._version_file.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None
