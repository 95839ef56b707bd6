"""Stores behind a URL: shards go on where they broke off, whatever the scheme, and what fails is said."""

import dataclasses
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from tests.helpers.file_server import Handler, Server, serve
from tests.helpers.full_disk import files_no_larger_than
from tests.helpers.store_samples import random_record, write_store
from unimol_scale.common.fetching import download
from unimol_scale.common.fetching.object_transport import ObjectTransport
from unimol_scale.errors import StoreError
from unimol_scale.store import remote
from unimol_scale.store.remote import open_remote_store
from unimol_scale.store.shards import Store, StoreSplit

ROWS = 12


@pytest.fixture
def store(tmp_path: Path) -> Store:
    records = [random_record(number) for number in range(3 * ROWS)]
    return write_store(tmp_path / "store", records, records[:5], shard_rows=ROWS)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FETCHING", dataclasses.replace(remote.FETCHING, backoff_s=0.01, stall_s=5.0, tries=3))


def answers(store: Store) -> dict[str, Callable[[Handler, int], None]]:
    def file(path: Path) -> Callable[[Handler, int], None]:
        return lambda handler, _: handler.send(path.read_bytes())

    return {f"/{path.relative_to(store.path)}": file(path) for path in store.path.rglob("*") if path.is_file()}


@pytest.fixture
def server(store: Store) -> Iterator[Server]:
    with serve() as state:
        state.answers = answers(store)
        yield state


def train(server: Server, cache: Path) -> StoreSplit:
    return open_remote_store(server.url, cache, 10**9).split("train")


def ids(split: StoreSplit, shard: int) -> list[str]:
    return split.ids(np.arange(shard * ROWS, (shard + 1) * ROWS))


def test_a_shard_goes_on_where_the_connection_broke(store: Store, server: Server, tmp_path: Path) -> None:
    data = (store.path / "train/shard-00001.arrow").read_bytes()
    tenth = len(data) // 10 + 1
    server.answers["/train/shard-00001.arrow"] = lambda handler, _: handler.send(data, cut_at=tenth)
    assert ids(train(server, tmp_path / "cache"), 1) == ids(store.split("train"), 1)
    ranges = server.ranges("/train/shard-00001.arrow")
    assert ranges[:3] == ["", f"bytes={tenth}-", f"bytes={2 * tenth}-"]
    assert len(ranges) == 10  # more failures than tries, each with further bytes


def test_a_server_that_hangs_up_without_having_told_the_size_is_noticed(
    store: Store, server: Server, tmp_path: Path
) -> None:
    data = (store.path / "train/shard-00001.arrow").read_bytes()

    def hang_up(handler: Handler, number: int) -> None:
        if number:
            handler.send(data)
            return
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(data[:100])
        handler.close_connection = True

    server.answers["/train/shard-00001.arrow"] = hang_up
    assert ids(train(server, tmp_path / "cache"), 1) == ids(store.split("train"), 1)
    assert server.ranges("/train/shard-00001.arrow") == ["", "bytes=100-"]


def test_a_shard_goes_on_where_a_process_died(store: Store, server: Server, tmp_path: Path) -> None:
    data = (store.path / "train/shard-00001.arrow").read_bytes()
    split = train(server, tmp_path / "cache")
    ids(split, 0)
    (folder,) = (tmp_path / "cache").glob("*/train")
    sizes = [shard.bytes for shard in store.manifest.splits["train"].shards]
    (folder / f"shard-00001.arrow.{sizes[1]}.part").write_bytes(data[:100])
    (folder / f"shard-00002.arrow.{sizes[2]}.part").write_bytes(b"of something else")
    assert ids(split, 1) == ids(store.split("train"), 1)
    assert server.ranges("/train/shard-00001.arrow") == ["bytes=100-"]
    assert ids(split, 2) == ids(store.split("train"), 2), "what does not fit together is fetched anew"
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".lock") == [
        "shard-00000.arrow", "shard-00001.arrow", "shard-00002.arrow",
    ]  # fmt: skip


def test_a_server_that_asks_for_patience_gets_it(store: Store, server: Server, tmp_path: Path) -> None:
    manifest, shard = server.answers["/manifest.json"], server.answers["/train/shard-00000.arrow"]

    def busy(then: Callable[[Handler, int], None]) -> Callable[[Handler, int], None]:
        return lambda handler, number: then(handler, number) if number == 2 else handler.status(503, Retry_After="0")

    server.answers |= {"/manifest.json": busy(manifest), "/train/shard-00000.arrow": busy(shard)}
    assert ids(train(server, tmp_path / "cache"), 0) == ids(store.split("train"), 0)


def test_no_rank_waits_longer_than_a_minute_and_none_in_silence(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(download, "QUIET_WAIT_S", 0.5)
    name = "/train/shard-00001.arrow"
    server.answers[name] = lambda handler, number: handler.status(503, Retry_After="1" if number == 0 else "61")
    with pytest.raises(
        StoreError, match=r"shard-00001\.arrow .*the server answered 503 .*, the server asks to wait 61 s"
    ):
        ids(train(server, tmp_path / "cache"), 1)
    assert len(server.ranges(name)) == 2
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith(f"{server.url}{name} is not available now: the server answered 503")
    assert told.endswith("trying again in 1 s")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (404, r"cannot read train/shard-00001\.arrow from .*the server answered 404"),
        (401, r"train/shard-00001\.arrow of .* cannot be downloaded: .*the server answered 401"),
        (500, r"train/shard-00001\.arrow of .* could not be downloaded in 3 tries: the server answered 500"),
    ],
)
def test_why_a_shard_cannot_be_had_is_said_and_its_room_is_free_again(
    server: Server, tmp_path: Path, code: int, message: str
) -> None:
    server.answers["/train/shard-00001.arrow"] = lambda handler, _: handler.status(code)
    split = train(server, tmp_path / "cache")
    with pytest.raises(StoreError, match=message):
        ids(split, 1)
    assert len(server.ranges("/train/shard-00001.arrow")) == (3 if code == 500 else 1)
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_a_shard_that_is_replaced_on_the_server_is_noticed(store: Store, server: Server, tmp_path: Path) -> None:
    server.answers["/train/shard-00001.arrow"] = lambda handler, _: handler.send(b"<html>Sign in</html>")
    with pytest.raises(StoreError, match=r"in 3 tries: its content \(20 bytes\) differs from the expected"):
        ids(train(server, tmp_path / "cache"), 1)


def test_a_full_disk_is_said(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = train(server, tmp_path / "cache")
    with files_no_larger_than(1000), pytest.raises(StoreError, match="cannot be cached because writing to the disk"):
        ids(split, 1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("unimol_scale.common.fetching.download.flush", full)
    with pytest.raises(StoreError, match="cannot be cached because the disk is full"):
        ids(split, 1)


def test_any_scheme_of_fsspec_will_do(store: Store, tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    for path in store.path.rglob("*"):
        if path.is_file():
            files.pipe(f"/bucket/store/{path.relative_to(store.path)}", path.read_bytes())
    url = "memory://bucket/store"
    assert ids(open_remote_store(url, tmp_path / "cache", 10**9).split("train"), 2) == ids(store.split("train"), 2)
    files.rm("/bucket/store/train/shard-00001.arrow")
    with pytest.raises(StoreError, match=rf"cannot read train/shard-00001\.arrow from {url}"):
        ids(open_remote_store(url, tmp_path / "cache", 10**9).split("train"), 1)
    with pytest.raises(StoreError, match="no-such-scheme"):
        open_remote_store("no-such-scheme://bucket/store", tmp_path, 10**9)


class NoCredentialsError(Exception):
    """What an object store's package raises; like all of them, it is no OSError."""


class ThrottledError(Exception):
    """Another one, which may pass."""


@pytest.mark.parametrize(("error", "asked"), [(NoCredentialsError, 1), (ThrottledError, 3)])
def test_errors_of_an_object_store_are_tried_again_unless_they_are_final(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception], asked: int
) -> None:
    calls = []

    class Refusing:
        def info(self, path: str) -> dict[str, int]:
            calls.append(path)
            raise error("not now")

    monkeypatch.setattr(ObjectTransport, "of", classmethod(lambda cls, url: (cls(Refusing()), "bucket")))
    with pytest.raises(StoreError, match=f"{error.__name__}: not now"):
        open_remote_store("s3://bucket", tmp_path, 10**9)
    assert calls == ["bucket/manifest.json"] * asked
