"""Downloads remote inputs: yields complete local files in the order of the URLs. Knows nothing of their content."""

import collections
import concurrent.futures
import contextlib
import hashlib
import logging
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path

from unimol_scale.common.fetching.choose_transport import HTTP_SCHEMES, OBJECT_STORES, transport_for
from unimol_scale.common.fetching.download import Download, FetchOptions, StoppedError
from unimol_scale.common.fetching.transport import MissingError, Transport
from unimol_scale.common.files import commit_text
from unimol_scale.common.progress import ProgressDisplay
from unimol_scale.common.units import byte_size

MISSING_NAME = "missing.txt"
LABEL = "downloading"
TICK_S = 1.0
DEFAULT_OPTIONS = FetchOptions()
_log = logging.getLogger(__name__)


def is_url(text: str) -> bool:
    """Return whether a text is a URL with a supported scheme, such as http://, https://, s3:// or gs://."""
    scheme, separator, rest = text.partition("://")
    return bool(separator and rest) and scheme.lower() in (*HTTP_SCHEMES, *OBJECT_STORES)


def local_path(url: str, directory: Path) -> Path:
    """Return where the file of a URL is kept: under its own name, in a directory named after the whole URL."""
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rsplit("/", 1)[-1]
    safe = re.sub(r"[^\w.+=@-]", "_", name)[-100:].lstrip(".") or "download"
    return directory / hashlib.sha256(url.encode()).hexdigest()[:16] / safe


def fetch_all(urls: Sequence[str], directory: Path, options: FetchOptions = DEFAULT_OPTIONS) -> Iterator[Path]:
    """Yield the complete local file of each URL, in their order; a URL that occurs twice counts once.

    Files of an earlier run are reused, and unfinished ones are continued with a ``Range`` request if the server still
    has the same version. At most ``options.ahead`` files are downloaded ahead of the one being read.

    Args:
        urls: http(s), s3 or gs.
        directory: where files are kept; created if needed. Only one process at a time may use it.
        options: connections, tries, and what to do about missing files.

    Raises:
        SourceError: a file is missing (unless ``missing_ok``), is a web page, or could not be downloaded in any of the
            tries; the message has its URL. Also raised if the package for a scheme is missing, or the disk is full.
    """
    distinct = collections.deque(dict.fromkeys(urls))
    stop, missing = threading.Event(), list[str]()
    progress = _Progress(len(distinct))
    waiting: collections.deque[tuple[str, concurrent.futures.Future[Path]]] = collections.deque()
    transports: dict[str, Transport] = {}

    def submit() -> None:
        if not distinct:
            return
        url = distinct.popleft()
        scheme = url.split("://", 1)[0].lower()
        if scheme not in transports:
            transports[scheme] = transport_for(url, options.connections, options.stall_s)
        download = Download(url, local_path(url, directory), options, stop, progress.count_bytes)
        waiting.append((url, pool.submit(download.run, transports[scheme])))

    pool = concurrent.futures.ThreadPoolExecutor(options.connections, thread_name_prefix="download")
    try:
        for _ in range(options.ahead):
            submit()
        while waiting:
            url, future = waiting.popleft()
            try:
                path = _wait(future, progress)
            except MissingError as error:
                if not options.missing_ok:
                    raise
                progress.warn(f"skipped: {error}")
                missing.append(url)
                commit_text(directory / MISSING_NAME, "".join(f"{name}\n" for name in missing))
                submit()
                continue
            progress.count_file()
            submit()
            yield path
    finally:
        stop.set()
        for _, future in waiting:
            future.cancel()
        for transport in transports.values():
            transport.close()
        with contextlib.suppress(StoppedError):
            pool.shutdown(wait=True, cancel_futures=True)
        progress.end()


def _wait(future: "concurrent.futures.Future[Path]", progress: "_Progress") -> Path:
    while not future.done():
        concurrent.futures.wait([future], timeout=TICK_S)
        progress.tick()
    return future.result()


class _Progress:
    """Reports every few seconds how many files and bytes have arrived.

    It logs messages instead of a bar, since a stage of the build may show its own bar meanwhile; messages appear above.
    """

    def __init__(self, files: int) -> None:
        self._files, self._done, self._bytes = files, 0, 0
        self._start = time.monotonic()
        self._display = ProgressDisplay(LABEL, files, None, log=_log)
        self._lock = threading.Lock()

    def count_bytes(self, number: int) -> None:
        with self._lock:
            self._bytes += number

    def count_file(self) -> None:
        self._done += 1

    def tick(self) -> None:
        self._display.line(self._text())

    def end(self) -> None:
        if self._bytes:
            self._display.line(self._text(), at_once=True)

    def warn(self, text: str) -> None:
        _log.warning(f"{LABEL}: {text}")

    def _text(self) -> str:
        rate = self._bytes / max(time.monotonic() - self._start, 1e-9)
        return f"{LABEL}: {self._done:,} of {self._files:,} files, {byte_size(self._bytes)}, {byte_size(rate)}/s"
