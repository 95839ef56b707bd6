"""Stores behind a URL: shards are fetched into a cache of bounded size, which all processes of a machine share.

A file in the cache is complete or absent. Each shard has a lock file: who fetches or removes it holds it alone, who
opens it holds it with others; a process that dies lets go. A shard that is removed while mapped stays readable to whom
has it open. Locks need a cache on a local disk. Imports fsspec.
"""

import contextlib
import errno
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from unimol_scale.common.files import flush, hash_file
from unimol_scale.common.locks import hold_lock
from unimol_scale.errors import StoreError
from unimol_scale.store.manifest import MANIFEST_NAME, Manifest, ShardEntry
from unimol_scale.store.shards import Store
from unimol_scale.store.source import MAX_OPEN

TRIES = 6
BACKOFF_S = 0.5  # before the second try; doubled each time, times a random factor
STALL_S = 60.0  # without a byte, after which an HTTP connection counts as dead
ROOM_S = 600.0  # to wait for others' downloads to end
TRY_AGAIN = (408, 429)
PART = ".part"
DEFAULT_CACHE, DEFAULT_CACHE_BYTES = Path("~/.cache/unimol-scale"), 20 * 2**30

Result = TypeVar("Result")


def is_url(location: object) -> bool:
    """Return whether a store's location is a URL."""
    return "://" in str(location)


def open_remote_store(url: str, cache: Path, cache_bytes: int) -> Store:
    """Open a finished store behind a URL of any scheme that fsspec knows.

    Args:
        url: of its directory.
        cache: local directory for its shards; each store has a folder of its own in it.
        cache_bytes: most bytes of shards kept.

    Raises:
        StoreError: there is no such store, it cannot be had, or a shard is larger than the cache.
    """
    files = _Files(url)
    text = files.attempt(MANIFEST_NAME, lambda system, path: bytes(system.cat_file(path))).decode()
    manifest = Manifest.from_json(text, Path(MANIFEST_NAME))
    for entry in (shard for split in manifest.splits.values() for shard in split.shards):
        if entry.file.startswith("/") or ".." in entry.file.split("/"):
            raise StoreError(f"the manifest of {url} names a file outside the store: {entry.file!r}")
        if entry.bytes > cache_bytes:
            raise StoreError(
                f"shard {entry.file} of {url} has {entry.bytes:,} bytes, more than data.cache_bytes {cache_bytes:,}"
            )
    folder = cache.expanduser() / hashlib.sha256(text.encode()).hexdigest()[:16]
    return Store(folder, manifest, text, CachedShards(url, folder, cache_bytes))


class _Files:
    """The files under a URL, tried again while a failure may pass."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._system: fsspec.AbstractFileSystem | None = None
        self._root = ""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_system": None}  # each process has its own connections

    def _connect(self) -> fsspec.AbstractFileSystem:
        if self._system is None:
            options: dict[str, Any] = {}
            if self.url.startswith(("http://", "https://")):
                import aiohttp

                stall = aiohttp.ClientTimeout(total=None, sock_connect=STALL_S, sock_read=STALL_S)
                options = {"client_kwargs": {"timeout": stall, "trust_env": True}}
            try:
                self._system, self._root = fsspec.url_to_fs(self.url, **options)
            except (ImportError, ValueError) as error:
                raise StoreError(f"{self.url} cannot be read: {error}") from error
        return self._system

    def attempt(self, file: str, action: Callable[[fsspec.AbstractFileSystem, str], Result]) -> Result:
        """Return what ``action`` makes of the file system and the file's path in it.

        Raises:
            StoreError: it failed for good, or too often; names the file and the URL.
        """
        for count in range(1, TRIES + 1):
            try:
                system = self._connect()
                return action(system, f"{self._root.rstrip('/')}/{file}")
            except StoreError:
                raise
            except FileNotFoundError as error:
                raise StoreError(f"{self.url} has no {file}: is it the URL of a finished store?") from error
            except Exception as error:  # each store has its own classes
                status = getattr(error, "status", None)
                final = isinstance(error, PermissionError) or (
                    isinstance(status, int) and 400 <= status < 500 and status not in TRY_AGAIN
                )
                if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                    raise StoreError(f"no space on disk for {file} of {self.url} in the cache: {error}") from error
                if final or count == TRIES:
                    tried = "" if final else f" after {TRIES} tries"
                    reason = f"{type(error).__name__}: {error}"
                    raise StoreError(f"{file} of {self.url} cannot be fetched{tried}: {reason}") from error
            time.sleep(BACKOFF_S * 2 ** (count - 1) * random.uniform(0.5, 1.5))
        raise AssertionError("the last try returns or raises")


class CachedShards:
    """A ``ShardSource`` that keeps some shards of a remote store on disk.

    Args:
        url: of the store.
        folder: of its cache.
        cache_bytes: most bytes of complete and coming shards.
    """

    def __init__(self, url: str, folder: Path, cache_bytes: int) -> None:
        self.location = url
        self.max_open = MAX_OPEN
        self._files = _Files(url)
        self._folder = folder
        self._limit = cache_bytes
        self._background: _Background | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_background": None}

    @contextlib.contextmanager
    def holding(self, entry: ShardEntry) -> Iterator[Path]:
        """Hold the file of a shard, fetched if it is not there; see ``ShardSource``."""
        path = self._folder / entry.file
        with _locked(path, shared=True):
            if path.is_file():
                os.utime(path)  # used last
                yield path
                return
        with _locked(path):
            if not path.is_file():
                self._fetch(entry, path, frozenset(), ROOM_S)
            yield path

    def prefetch(self, entries: Sequence[ShardEntry]) -> None:
        """Fetch in the background those of the shards, in this order, that fit in the cache together."""
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
        """Fetch one shard if it is absent and there is room without giving up any that is wanted."""
        path = self._folder / entry.file
        if path.is_file():
            return
        keep = frozenset(self._folder / other.file for other in wanted)
        # What cannot be had is told by whoever needs it.
        with contextlib.suppress(StoreError, OSError), _locked(path):
            if not path.is_file():
                self._fetch(entry, path, keep, 0.0)

    def _fetch(self, entry: ShardEntry, path: Path, keep: frozenset[Path], patience_s: float) -> None:
        """Make room, fetch, verify, publish; the caller holds the shard's lock alone."""
        part = path.with_name(f"{path.name}.{entry.bytes}{PART}")
        part.unlink(missing_ok=True)  # of a process that died here
        self._reserve(part, entry.bytes, keep, patience_s)

        def fetch(system: fsspec.AbstractFileSystem, remote: str) -> None:
            system.get_file(remote, str(part))
            size = part.stat().st_size
            if size != entry.bytes or hash_file(part) != entry.sha256:
                raise OSError(f"it has other content ({size:,} bytes) than the manifest says ({entry.bytes:,} bytes)")

        try:
            self._files.attempt(entry.file, fetch)
            flush(part)
            part.replace(path)
            os.utime(path)
        finally:
            part.unlink(missing_ok=True)

    def _reserve(self, part: Path, size: int, keep: frozenset[Path], patience_s: float) -> None:
        """Remove shards, those used longest ago first, until ``size`` bytes fit, and claim them with an empty file."""
        deadline = time.monotonic() + patience_s
        while True:
            with _locked(self._folder / "cache"):
                files = sorted(_cached(self._folder), key=lambda file: file.used)
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
        """Remove a shard, or what a dead process left of one, unless somebody is at it."""
        with _locked(file.shard, wait=False) as ours:
            if ours:
                file.path.unlink(missing_ok=True)
        return ours


def _locked(path: Path, *, shared: bool = False, wait: bool = True) -> contextlib.AbstractContextManager[bool]:
    """Return a context in which a file of the cache is locked, if it can be; see ``hold_lock``."""
    lock = path.with_name(f"{path.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    return hold_lock(lock, shared=shared, wait=wait)


class _CachedFile:
    """A complete or coming shard in the cache: its file, the shard's own path, bytes now or in the end, last use."""

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
        with contextlib.suppress(FileNotFoundError):  # published in the meantime: counted under its new name
            if path.is_file() and path.suffix != ".lock":
                yield _CachedFile(path)


class _Background:
    """A thread that fetches shards ahead, in the order in which they are wanted."""

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
