"""One remote file on disk: its unfinished part, what is known about it, and how often to try. Imports no network."""

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

MOST_CONNECTIONS = 8  # what files.docking.org asks for
PART_SUFFIX, VERSION_SUFFIX = ".part", ".part.json"
LONGEST_BACKOFF_S = 60.0
QUIET_WAIT_S = 2.0  # a longer one is told
HEAD_BYTES = 1024
_log = logging.getLogger(__name__)
Result = TypeVar("Result")
WEB_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|title|meta|script|\?xml|!--)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """How remote files are fetched.

    Attributes:
        connections: at a time, over all files; at most 8.
        ahead: files fetched ahead of the one that is being read; at most 8.
        stall_s: seconds without a byte after which a connection is cut and tried again.
        tries: in a row that bring no further byte, before a file is given up.
        backoff_s: seconds before the second try; doubled for each further one, up to 60.
        longest_wait_s: seconds that a server may ask to wait; one that asks for more is left alone.
        missing_ok: pass over files that the server does not have; they are listed in ``missing.txt``.
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
    """The reader has gone; nothing is wrong."""


class GivenUpError(RefusedError):
    """A file has not come, however often it was tried.

    Attributes:
        reason: what happened the last time.
        tries: how often that was in a row.
    """

    def __init__(self, text: str, reason: str = "", tries: int = 0) -> None:
        super().__init__(text)
        self.reason, self.tries = reason, tries


class UnwritableError(SourceError):
    """The disk does not take a file; ``cause`` is what it said."""

    def __init__(self, text: str, cause: OSError | None = None) -> None:
        super().__init__(text)
        self.cause = cause


@dataclasses.dataclass(frozen=True, kw_only=True)
class Content:
    """What a file must hold, where that is known beforehand: its bytes and their SHA-256, hexadecimal."""

    bytes: int
    sha256: str


def read_patiently(url: str, transport: Transport, options: FetchOptions) -> bytes:
    """Return a small file, tried as often as ``options`` say.

    Args:
        url: as the transport knows it.
        transport: the way to it.
        options: how often to try.

    Raises:
        MissingError: there is no such file.
        RefusedError: it cannot be had.
    """

    def attempt() -> bytes:
        with contextlib.closing(transport.open(url, 0, None)) as body:
            content = b"".join(iter(body.read, b""))
        if body.version.size not in (None, len(content)):
            raise NetworkError(f"{len(content):,} bytes came instead of {body.version.size:,}")
        return content

    return _patiently(url, options, threading.Event(), attempt, lambda: 0)


def _patiently(
    url: str, options: FetchOptions, stop: threading.Event, attempt: Callable[[], Result], reached: Callable[[], int]
) -> Result:
    """Return what ``attempt`` returns in the end.

    Args:
        url: for messages.
        options: how often to try.
        stop: set by the reader when it wants no more.
        attempt: tries once.
        reached: counts the bytes so far; further ones give more tries.

    Raises:
        GivenUpError: it failed too often, or the server wants to be left alone.
        StoppedError: the reader has gone.
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
                asked = f", asked to wait {wait_s:,.0f} s" if error.wait_s else ""
                raise GivenUpError(
                    f"{url} does not come: {error} ({failures} tries without a further byte, {now:,} bytes so far"
                    f"{asked}); run the same command again later, it goes on from there",
                    f"{error}{asked}",
                    failures,
                ) from error
            if wait_s > QUIET_WAIT_S:
                _log.warning(f"{url} does not come for now: {error}; asked again in {wait_s:,.0f} s")
            stop.wait(wait_s)


def _backoff(url: str, options: FetchOptions, failures: int) -> float:
    """Return the pause after some failures: doubled each time, spread by a hash so that files do not march."""
    digest = hashlib.sha256(f"{url} {failures}".encode()).digest()
    spread = 0.5 + 0.5 * digest[0] / 255
    return min(LONGEST_BACKOFF_S, options.backoff_s * 2.0 ** min(failures - 1, 30)) * spread


class Download:
    """One file on its way from a URL to ``target``.

    Beside the unfinished file, its version is kept, so that a later process can ask for the rest of the same file;
    where the content is known beforehand, that is not needed.

    Args:
        url: of the file, as the transport knows it.
        target: where it is when it is complete; its directory is made.
        options: how often to try.
        stop: set by the reader when it wants no more.
        count: called with the number of bytes whenever some came.
        content: what the file must hold; None: not known, and anything but a web page will do.
        part: the unfinished file, in the directory of ``target``; None: beside it, under its name with a suffix.
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
        """Fetch what is missing of the file and return its path; at once where it is complete.

        Raises:
            MissingError: there is no such file.
            RefusedError: it is a web page, cannot be had, or does not come after all tries.
            UnwritableError: the disk does not take it.
            StoppedError: the reader has gone.
        """
        if self._target.exists():
            return self._target
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            _patiently(self._url, self._options, self._stop, lambda: self._attempt(transport), self._length)
        except OSError as error:  # those of the network have become NetworkError
            raise UnwritableError(
                f"{self._target} cannot be written: {error.strerror or error}; "
                "make room or give another --output, and run the same command again: it goes on from there",
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
                body = transport.open(self._url, 0, None)  # another file by now, or one that cannot be told from it
            with contextlib.closing(body):
                if body.start == 0:
                    self._begin(body.version)
                self._append(body.read)
                size = body.version.size
            if size is None and self._content is not None:
                size = self._content.bytes
            if size is not None and size != self._length():
                raise NetworkError(f"{self._length():,} bytes came instead of {size:,}")
        self._check()
        flush(self._part)
        self._part.replace(self._target)
        self._version_file.unlink(missing_ok=True)
        flush(self._target.parent)

    def _begin(self, version: Version) -> None:
        """Start anew; the old bytes go first, so that they are never beside another version's name."""
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
        """Refuse a file that cannot be the right one; its bytes go."""
        if self._content is not None:
            found = self._length()
            if found != self._content.bytes or hash_file(self._part) != self._content.sha256:
                self._empty()
                raise NetworkError(
                    f"it has other content ({found:,} bytes) than it must have ({self._content.bytes:,} bytes)"
                )
            return
        with self._part.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if WEB_PAGE.match(head):
            self._part.unlink()
            self._version_file.unlink(missing_ok=True)
            raise RefusedError(f"{self._url} is a web page, not data; check the address, or whether the site is down")

    def _empty(self) -> None:
        """Remove the bytes and leave the file, whose name may claim room for them."""
        self._part.open("wb").close()

    def _length(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _version(self) -> Version | None:
        """Return the version of the unfinished file, None where there is none or it cannot be known."""
        if self._content is not None:
            return Version(size=self._content.bytes) if self._length() <= self._content.bytes else None
        try:
            return Version(**json.loads(self._version_file.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None
