"""Downloads from a server that stalls, hangs up, answers wrongly or changes its files, and from an object store."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from conformer_gen.sources.inputs.remote import fetch_all, is_url, local_path
from tests.helpers.file_server import Handler, Server, serve
from unimol_scale.common.fetching.download import Download, FetchOptions
from unimol_scale.common.fetching.object_transport import ObjectTransport
from unimol_scale.errors import ConfigError, SourceError

REPOSITORY = Path(__file__).resolve().parents[4]
FAST = FetchOptions(stall_s=0.3, backoff_s=0.01, tries=3)
DATA = bytes(range(1, 256)) * 2000
HALF = len(DATA) // 2


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as state:
        yield state


def fetched(server: Server, directory: Path, *paths: str, options: FetchOptions = FAST) -> list[bytes]:
    return [path.read_bytes() for path in fetch_all([server.url + path for path in paths], directory, options)]


def leftovers(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*.part*"))


def test_files_come_in_the_order_of_their_urls(server: Server, tmp_path: Path) -> None:
    def slow_first(handler: Handler, number: int) -> None:
        time.sleep(0.2)
        handler.send(b"first")

    server.answers = {"/a.smi": slow_first, "/b.smi": lambda h, _: h.send(b"second"), "/c": lambda h, _: h.send(b"")}
    assert fetched(server, tmp_path, "/a.smi", "/b.smi", "/c") == [b"first", b"second", b""]
    names = [path.name for path in fetch_all([f"{server.url}/{name}" for name in ("a.smi", "b.smi")], tmp_path)]
    assert names == ["a.smi", "b.smi"]
    assert len(server.requests) == 3  # complete files are not asked for again
    assert leftovers(tmp_path) == []


def test_at_most_eight_connections_and_eight_files_ahead(server: Server, tmp_path: Path) -> None:
    def slow(handler: Handler, number: int) -> None:
        time.sleep(0.05)
        handler.send(handler.path.encode())

    paths = [f"/{number}.smi" for number in range(40)]
    server.answers = dict.fromkeys(paths, slow)
    files = fetch_all([server.url + path for path in paths], tmp_path, FAST)
    assert next(files).read_bytes() == b"/0.smi"
    time.sleep(0.5)
    assert len(server.requests) <= 1 + 8
    assert [path.read_bytes().decode() for path in files] == paths[1:]
    assert 2 <= server.most_open <= 8


def test_a_file_that_is_cut_off_is_continued(server: Server, tmp_path: Path) -> None:
    server.answers["/a"] = lambda handler, number: handler.send(DATA, cut_at=len(DATA) // 10)
    assert fetched(server, tmp_path, "/a") == [DATA]  # more cuts than tries, each with further bytes
    ranges = server.ranges("/a")
    assert ranges[0] == ""
    starts = [int(header.removeprefix("bytes=").rstrip("-")) for header in ranges[1:]]
    assert starts == sorted(set(starts))
    assert starts[0] == len(DATA) // 10


def test_a_stalled_connection_is_dropped_and_continued(server: Server, tmp_path: Path) -> None:
    server.answers["/a"] = lambda h, number: h.send(DATA, cut_at=HALF if number == 0 else None, stall=number == 0)
    assert fetched(server, tmp_path, "/a") == [DATA]
    assert server.ranges("/a") == ["", f"bytes={HALF}-"]


def test_a_server_without_ranges_is_asked_for_the_whole_again(server: Server, tmp_path: Path) -> None:
    server.answers["/a"] = lambda h, number: h.send(DATA, ranges=False, cut_at=HALF if number == 0 else None)
    assert fetched(server, tmp_path, "/a") == [DATA]
    assert len(server.requests) == 2


def test_a_server_without_ranges_that_always_hangs_up_is_given_up(server: Server, tmp_path: Path) -> None:
    server.answers["/a"] = lambda h, number: h.send(DATA, ranges=False, cut_at=HALF)
    with pytest.raises(SourceError, match=r"/a cannot be downloaded: .*3 tries without new data"):
        fetched(server, tmp_path, "/a")


@pytest.mark.parametrize("etags", [('"1"', '"2"'), ('W/"1"', 'W/"2"')], ids=["strong", "weak"])
def test_a_file_that_changes_between_tries_is_started_anew(
    server: Server, tmp_path: Path, etags: tuple[str, str]
) -> None:
    new = DATA[::-1]

    def changing(handler: Handler, number: int) -> None:
        handler.send(new if number else DATA, etag=etags[min(number, 1)], cut_at=None if number else HALF)

    server.answers["/a"] = changing
    assert fetched(server, tmp_path, "/a") == [new]


def part_of(handler: Handler, content: bytes, etag: str, end: int | None = None) -> None:
    """Answer a Range request without a look at its If-Range condition."""
    start = int(handler.headers["Range"].removeprefix("bytes=").rstrip("-"))
    body = content[start:end]
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(content)}")
    handler.send_header("Content-Length", str(len(body)))
    handler.send_header("ETag", etag)
    handler.end_headers()
    handler.wfile.write(body)


def test_a_changed_file_is_not_put_together_from_two_versions(server: Server, tmp_path: Path) -> None:
    new = DATA[::-1]

    def careless(handler: Handler, number: int) -> None:
        if number == 0:
            handler.send(DATA, etag='"1"', cut_at=HALF)
        elif "Range" in handler.headers:
            part_of(handler, new, '"2"')
        else:
            handler.send(new, etag='"2"')

    server.answers["/a"] = careless
    assert fetched(server, tmp_path, "/a") == [new]


def test_a_part_that_ends_early_is_not_taken_for_the_rest(server: Server, tmp_path: Path) -> None:
    def short_parts(handler: Handler, number: int) -> None:
        if number == 0:
            handler.send(DATA, etag='"1"', cut_at=HALF)
        else:
            part_of(handler, DATA, '"1"', end=HALF + 1000 if number == 1 else None)

    server.answers["/a"] = short_parts
    assert fetched(server, tmp_path, "/a") == [DATA]
    assert server.ranges("/a") == ["", f"bytes={HALF}-", f"bytes={HALF + 1000}-"]


def test_a_file_that_becomes_shorter_is_started_anew(server: Server, tmp_path: Path) -> None:
    short = DATA[: HALF // 2]

    def shrinking(handler: Handler, number: int) -> None:
        handler.send(short if number else DATA, cut_at=None if number else HALF)

    server.answers["/a"] = shrinking
    assert fetched(server, tmp_path, "/a") == [short]


@pytest.mark.parametrize("code", [500, 503, 429, 408])
def test_a_server_in_trouble_is_tried_again(server: Server, tmp_path: Path, code: int) -> None:
    server.answers["/a"] = lambda handler, number: handler.status(code) if number < 2 else handler.send(DATA)
    assert fetched(server, tmp_path, "/a") == [DATA]


def test_a_server_that_stays_in_trouble_is_given_up_by_name(server: Server, tmp_path: Path) -> None:
    server.answers["/a"] = lambda handler, number: handler.status(500)
    with pytest.raises(SourceError, match=rf"{server.url}/a cannot be downloaded: the server answered 500"):
        fetched(server, tmp_path, "/a")
    assert len(server.requests) == 3


def test_the_wait_that_a_server_asks_for_is_kept(server: Server, tmp_path: Path) -> None:
    times: list[float] = []

    def busy(handler: Handler, number: int) -> None:
        times.append(time.monotonic())
        if number:
            handler.send(DATA)
        else:
            handler.status(429, Retry_After="1")

    server.answers["/a"] = busy
    assert fetched(server, tmp_path, "/a") == [DATA]
    assert times[1] - times[0] >= 1.0
    server.answers["/b"] = lambda handler, number: handler.status(503, Retry_After="999999")
    with pytest.raises(SourceError, match=r"/b .*asks to wait 999,999 s"):
        fetched(server, tmp_path, "/b")


@pytest.mark.parametrize("code", [404, 403, 410, 400, 401])
def test_a_file_that_is_refused_is_an_error_at_once(server: Server, tmp_path: Path, code: int) -> None:
    server.answers["/a"] = lambda handler, number: handler.status(code)
    with pytest.raises(SourceError, match=rf"{server.url}/a: the server answered {code}"):
        fetched(server, tmp_path, "/a")
    assert len(server.requests) == 1


def test_missing_files_can_be_passed_over_and_are_listed(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.answers["/b"] = lambda handler, _: handler.send(b"b")
    server.answers["/d"] = lambda handler, _: handler.send(b"d")
    options = FetchOptions(missing_ok=True)
    assert fetched(server, tmp_path, "/a", "/b", "/c", "/d", options=options) == [b"b", b"d"]
    assert (tmp_path / "missing.txt").read_text() == f"{server.url}/a\n{server.url}/c\n"
    heard = [record.getMessage() for record in caplog.records]  # without a listener, warnings only
    assert [text.split(":")[1] for text in heard] == [" skipped", " skipped"]


@pytest.mark.parametrize(
    "page",
    [b"<!DOCTYPE html><html>soon</html>", b"\n  <HTML><body>", b"\xef\xbb\xbf<!doctype html>", b"<?xml version='1'?>"],
)
def test_a_web_page_in_place_of_data_is_an_error(server: Server, tmp_path: Path, page: bytes) -> None:
    server.answers["/a.smi"] = lambda handler, _: handler.send(page)
    with pytest.raises(SourceError, match=r"/a\.smi is a web page"):
        fetched(server, tmp_path, "/a.smi")
    assert leftovers(tmp_path) == []
    server.answers["/a.smi"] = lambda handler, _: handler.send(b"CCO 1\n")
    assert fetched(server, tmp_path, "/a.smi") == [b"CCO 1\n"]


def test_nobody_listening_is_an_error_with_the_url(tmp_path: Path) -> None:
    with serve() as gone:
        url = f"{gone.url}/a"
    with pytest.raises(SourceError, match=url):
        list(fetch_all([url], tmp_path, FAST))


CHILD = """
import sys
from pathlib import Path
from conformer_gen.sources.inputs.remote import fetch_all
list(fetch_all([sys.argv[1]], Path(sys.argv[2])))
"""


def test_a_killed_process_is_continued_without_its_first_bytes(server: Server, tmp_path: Path) -> None:
    half_sent = threading.Event()

    def hold(handler: Handler, number: int) -> None:
        half_sent.set()
        handler.send(DATA, etag='"x"', cut_at=HALF if number == 0 else None, stall=number == 0)

    server.answers["/a"] = hold
    child = subprocess.Popen([sys.executable, "-c", CHILD, f"{server.url}/a", str(tmp_path)], cwd=REPOSITORY)
    try:
        assert half_sent.wait(30)
        part = local_path(f"{server.url}/a", tmp_path).with_name("a.part")
        deadline = time.monotonic() + 30
        while not (part.exists() and part.stat().st_size == HALF) and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert fetched(server, tmp_path, "/a") == [DATA]
    assert server.ranges("/a") == ["", f"bytes={HALF}-"]


def test_a_reader_that_stops_early_leaves_no_thread_behind(server: Server, tmp_path: Path) -> None:
    server.answers["/a"] = lambda handler, _: handler.send(b"a")
    server.answers["/b"] = lambda handler, _: handler.send(DATA, cut_at=HALF, stall=True)
    files = fetch_all([f"{server.url}/a", f"{server.url}/b"], tmp_path, FetchOptions(stall_s=600))
    next(files)
    files.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("download")]


def test_a_disk_that_refuses_is_an_error_that_says_where(server: Server, tmp_path: Path) -> None:
    server.answers["/a"] = lambda handler, _: handler.send(DATA)
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(SourceError, match=r"cannot be written: .*it continues the download"):
        fetched(server, tmp_path / "file", "/a")


def test_an_object_store_is_read_from_where_it_stopped(tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    files.pipe("/bucket/a.smi", DATA)
    reads: list[int] = []
    target = tmp_path / "a.smi"
    transport = ObjectTransport(files)

    def run(stop: threading.Event) -> None:
        Download("memory://bucket/a.smi", target, FAST, stop, reads.append).run(transport)

    body = transport.open("memory://bucket/a.smi", 0, None)
    (tmp_path / "a.smi.part").write_bytes(DATA[:HALF])
    (tmp_path / "a.smi.part.json").write_text(json.dumps(dataclasses.asdict(body.version)))
    run(threading.Event())
    assert target.read_bytes() == DATA
    assert sum(reads) == len(DATA) - HALF
    target.unlink()
    (tmp_path / "a.smi.part").write_bytes(b"other" * 10)
    (tmp_path / "a.smi.part.json").write_text('{"etag": "another version", "size": 5000}')
    run(threading.Event())
    assert target.read_bytes() == DATA
    files.rm("/bucket/a.smi")
    target.unlink()
    with pytest.raises(SourceError, match=r"memory://bucket/a\.smi"):
        run(threading.Event())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://files.docking.org/2D/AA/AAAA.smi", True),
        ("HTTPS://host/a", True),
        ("s3://bucket/key", True),
        ("gs://bucket/key", True),
        ("CDAA", False),
        ("data/zinc20", False),
        ("file:///etc/passwd", False),
        ("ftp://host/a", False),
        ("http://", False),
    ],
)
def test_what_counts_as_a_url(text: str, expected: bool) -> None:
    assert is_url(text) is expected


@pytest.mark.parametrize("url", ["http://h/../..", "http://h/", "http://h/a/..%2f..%2fetc%2fpasswd", "http://h/.part"])
def test_no_url_can_name_a_file_outside_its_directory(tmp_path: Path, url: str) -> None:
    path = local_path(url, tmp_path)
    assert path.resolve().parent.parent == tmp_path.resolve()
    assert not path.name.startswith(".")


def test_a_scheme_whose_package_is_absent_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(SourceError, match="pip install s3fs"):
        list(fetch_all(["s3://bucket/a.smi"], tmp_path))
    with pytest.raises(SourceError, match="valid: http://"):
        list(fetch_all(["ftp://host/a.smi"], tmp_path))


@pytest.mark.parametrize(
    "change", [{"connections": 9}, {"ahead": 0}, {"tries": 0}, {"stall_s": 0}, {"longest_wait_s": -1}]
)
def test_options_out_of_range_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        FetchOptions(**change)
