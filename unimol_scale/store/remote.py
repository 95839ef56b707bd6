"""Stores behind a URL: shards are downloaded into a cache of bounded size, shared by all processes of a machine.

A file in the cache is either complete or absent. Each shard has a lock file: a process that downloads or removes the
shard locks it exclusively, one that opens it takes a shared lock, and a process that dies releases its locks. A shard
that is removed while mapped stays readable for the processes that have it open. Locks need a cache on a local disk.
"""

import contextlib
import errno
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from unimol_scale.common.fetching.choose_transport import transport_of_any
from unimol_scale.common.fetching.download import (
    Content,
    Download,
    FetchOptions,
    GivenUpError,
    UnwritableError,
    read_patiently,
)
from unimol_scale.common.fetching.transport import MissingError, Transport
from unimol_scale.common.machine.locks import hold_lock
from unimol_scale.errors import SourceError, StoreError
from unimol_scale.store.manifest import MANIFEST_NAME, Manifest, ShardEntry
from unimol_scale.store.shards import Store
from unimol_scale.store.source import MAX_OPEN

# The other ranks wait for the one that downloads; after zero.timeout_minutes all fail together.
FETCHING = FetchOptions(longest_wait_s=60.0)
ROOM_S = 600.0  # how long to wait for other processes' downloads to finish
PART = ".part"
DEFAULT_CACHE, DEFAULT_CACHE_BYTES = Path("~/.cache/unimol-scale"), 20 * 2**30


def is_url(location: object) -> bool:
    """Return whether a store's location is a URL."""
    return "://" in str(location)


def open_remote_store(url: str, cache: Path, cache_bytes: int) -> Store:
    """Open a finished store behind a URL of any scheme that fsspec knows.

    Args:
        url: URL of the store's directory.
        cache: local directory for shards; each store has its own folder in it.
        cache_bytes: upper limit on the bytes of cached shards.

    Raises:
        StoreError: there is no such store, it cannot be downloaded, or a shard is larger than the cache.
    """
    files = RemoteFiles(url)
    text = files.read(MANIFEST_NAME).decode()
    manifest = Manifest.from_json(text, Path(MANIFEST_NAME))
    for entry in (shard for split in manifest.splits.values() for shard in split.shards):
        if entry.file.startswith("/") or ".." in entry.file.split("/"):
            raise StoreError(f"the manifest of {url} names a file outside the store: {entry.file!r}")
        if entry.bytes > cache_bytes:
            raise StoreError(
                f"shard {entry.file} of {url} has {entry.bytes:,} bytes, more than data.cache_bytes {cache_bytes:,}"
            )
    folder = cache.expanduser() / hashlib.sha256(text.encode()).hexdigest()[:16]
    return Store(folder, manifest, text, CachedShards(files, folder, cache_bytes))


class RemoteFiles:
    """The files under a URL, downloaded with the retries of every download."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._way: tuple[Transport, str] | None = None
        self._owner = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_way": None}

    def read(self, file: str) -> bytes:
        """Return a small file.

        Raises:
            StoreError: the file cannot be downloaded; the message names the file and the URL.
        """
        with self._told(file):
            transport, root = self._connect()
            return read_patiently(f"{root}/{file}", transport, FETCHING)

    def fetch(self, entry: ShardEntry, target: Path, part: Path) -> None:
        """Download a shard to ``target``, resuming from the unfinished file ``part`` if there is one.

        Raises:
            StoreError: the shard cannot be downloaded, its content differs from the manifest, or the disk is full.
        """
        content = Content(bytes=entry.bytes, sha256=entry.sha256)
        with self._told(entry.file):
            transport, root = self._connect()
            never = threading.Event()
            Download(f"{root}/{entry.file}", target, FETCHING, never, lambda _: None, content, part).run(transport)

    def _connect(self) -> tuple[Transport, str]:
        if self._way is None or self._owner != os.getpid():  # connections do not cross a fork
            transport, root = transport_of_any(self.url, FETCHING.connections, FETCHING.stall_s)
            self._way, self._owner = (transport, root.rstrip("/")), os.getpid()
        return self._way

    @contextlib.contextmanager
    def _told(self, file: str) -> Iterator[None]:
        """Reraise errors of the block as ``StoreError`` with the names of the file and the URL."""
        try:
            yield
        except MissingError as error:
            raise StoreError(
                f"cannot read {file} from {self.url}: is it the URL of a finished store, and may you read it? ({error})"
            ) from error
        except GivenUpError as error:
            raise StoreError(
                f"{file} of {self.url} could not be downloaded in {error.tries} tries: {error.reason}"
            ) from error
        except UnwritableError as error:
            full = error.cause is not None and error.cause.errno in (errno.ENOSPC, errno.EDQUOT)
            what = "because the disk is full" if full else "because writing to the disk failed"
            raise StoreError(f"{file} of {self.url} cannot be cached {what}: {error.cause}") from error
        except SourceError as error:
            raise StoreError(f"{file} of {self.url} cannot be downloaded: {error}") from error


class CachedShards:
    """A ``ShardSource`` that keeps some shards of a remote store on disk.

    Args:
        files: the store's remote files.
        folder: the store's cache folder.
        cache_bytes: upper limit on the bytes of shards in the cache, unfinished downloads counted at full size.
    """

    def __init__(self, files: RemoteFiles, folder: Path, cache_bytes: int) -> None:
        self.location = files.url
        self.max_open = MAX_OPEN
        self._files = files
        self._folder = folder
        self._limit = cache_bytes
        self._background: _Background | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_background": None}

    @contextlib.contextmanager
    def holding(self, entry: ShardEntry) -> Iterator[Path]:
        """Provide the file of a shard, downloading it if it is absent; see ``ShardSource``."""
        path = self._folder / entry.file
        with _locked(path, shared=True):
            if path.is_file():
                os.utime(path)  # records the last use
                yield path
                return
        with _locked(path):
            if not path.is_file():
                self._fetch(entry, path, frozenset(), ROOM_S)
            yield path

    def prefetch(self, entries: Sequence[ShardEntry]) -> None:
        """Download in the background, in this order, as many of these shards as fit in the cache together."""
        wanted, room = [], self._limit
        for entry in entries:
            room -= entry.bytes
            if room < 0:
                break
            wanted.append(entry)
        if self._background is None:
            self._background = _Background(self._fetch_ahead)
        self._background.want(wanted)

    def _fetch_ahead(self, entry: ShardEntry, wanted: Sequence[ShardEntry]) -> None:
        """Download one shard if it is absent and fits without removing a shard in ``wanted``."""
        path = self._folder / entry.file
        if path.is_file():
            return
        keep = frozenset(self._folder / other.file for other in wanted)
        # An error is not reported here: whoever needs the shard will meet it again.
        with contextlib.suppress(StoreError, OSError), _locked(path):
            if not path.is_file():
                self._fetch(entry, path, keep, 0.0)

    def _fetch(self, entry: ShardEntry, path: Path, keep: frozenset[Path], patience_s: float) -> None:
        """Make room, then download, verify and publish a shard; the caller holds its lock exclusively."""
        part = path.with_name(f"{path.name}.{entry.bytes}{PART}")
        self._reserve(part, entry.bytes, keep, patience_s)
        try:
            self._files.fetch(entry, path, part)
            os.utime(path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                if not part.stat().st_size:  # a partial download is kept for resuming
                    part.unlink()

    def _reserve(self, part: Path, size: int, keep: frozenset[Path], patience_s: float) -> None:
        """Remove the least recently used shards until ``size`` bytes fit, then claim the room by creating ``part``."""
        deadline = time.monotonic() + patience_s
        while True:
            with _locked(self._folder / "cache"):
                others = (file for file in _cached(self._folder) if file.path != part)
                files = sorted(others, key=lambda file: file.used)
                total = sum(file.bytes for file in files) + size
                for file in files:
                    if total <= self._limit:
                        break
                    if file.shard not in keep and self._remove(file):
                        total -= file.bytes
                if total <= self._limit:
                    part.touch()
                    return
            if time.monotonic() >= deadline:
                raise StoreError(f"no room for {part.name} in the cache {self._folder} of {self._limit:,} bytes")
            time.sleep(0.05)

    def _remove(self, file: "_CachedFile") -> bool:
        """Remove a shard, or the remains of a dead process's download, unless another process holds its lock."""
        with _locked(file.shard, wait=False) as ours:
            if ours:
                file.path.unlink(missing_ok=True)
        return ours


def _locked(path: Path, *, shared: bool = False, wait: bool = True) -> contextlib.AbstractContextManager[bool]:
    """Return a context that tries to lock a file of the cache and says whether it succeeded; see ``hold_lock``."""
    lock = path.with_name(f"{path.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    return hold_lock(lock, shared=shared, wait=wait)


class _CachedFile:
    """A shard in the cache, complete or being downloaded: its file, the shard's path, its final size and last use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        status = path.stat()
        self.used = status.st_mtime
        if path.suffix == PART:
            name, size, _ = path.name.rsplit(".", 2)
            self.shard, self.bytes = path.with_name(name), int(size)
        else:
            self.shard, self.bytes = path, status.st_size


def _cached(folder: Path) -> Iterator[_CachedFile]:
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # completed meanwhile and renamed; counted under its new name
            if path.is_file() and path.suffix != ".lock":
                yield _CachedFile(path)


class _Background:
    """A thread that downloads shards ahead, in the order in which they will be needed."""

    def __init__(self, fetch: Callable[[ShardEntry, Sequence[ShardEntry]], None]) -> None:
        self._fetch = fetch
        self._wanted: Sequence[ShardEntry] = ()
        self._changed = threading.Event()
        threading.Thread(target=self._run, name="shard prefetch", daemon=True).start()

    def want(self, entries: Sequence[ShardEntry]) -> None:
        if list(entries) != list(self._wanted):
            self._wanted = tuple(entries)
            self._changed.set()

    def _run(self) -> None:
        while True:
            self._changed.wait()
            self._changed.clear()
            wanted = self._wanted
            for entry in wanted:
                self._fetch(entry, wanted)
                if self._changed.is_set():
                    break
