"""A web server on this machine that behaves well or badly, as told, and remembers what it was asked."""

import contextlib
import dataclasses
import email.utils
import http.server
import re
import threading
from collections.abc import Callable, Iterator

DATE = email.utils.formatdate(1_600_000_000, usegmt=True)


@dataclasses.dataclass
class Server:
    """Files and what is known of the requests so far.

    ``answers`` holds a function for each path: (handler, number of the request for this path, from 0).
    """

    url: str = ""
    answers: dict[str, Callable[["Handler", int], None]] = dataclasses.field(default_factory=dict)
    requests: list[tuple[str, str]] = dataclasses.field(default_factory=list)  # path, Range header
    open_now: int = 0
    most_open: int = 0
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)

    def ranges(self, path: str) -> list[str]:
        """The Range headers of the requests for a path, "" where there was none."""
        return [header for name, header in self.requests if name == path]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server

    def setup(self) -> None:
        super().setup()
        with self.state.lock:
            self.state.open_now += 1
            self.state.most_open = max(self.state.most_open, self.state.open_now)

    def finish(self) -> None:
        with self.state.lock:
            self.state.open_now -= 1
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        with self.state.lock:
            number = sum(path == self.path for path, _ in self.state.requests)
            self.state.requests.append((self.path, self.headers.get("Range", "")))
        with contextlib.suppress(ConnectionError):
            self.state.answers.get(self.path, lambda handler, _: handler.status(404))(self, number)

    def status(self, code: int, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(
        self, content: bytes, *, etag: str = "", ranges: bool = True, cut_at: int | None = None, stall: bool = False
    ) -> None:
        """Send a file, or the part asked for; ``cut_at``: only so many of its bytes, then hang up or ``stall``."""
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if ranges and asked and self.headers.get("If-Range", etag or DATE) == (etag or DATE):
            start = int(asked[1])
            if start >= len(content):
                return self.status(416, Content_Range=f"bytes */{len(content)}")
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Last-Modified", DATE)
        if etag:
            self.send_header("ETag", etag)
        self.end_headers()
        end = len(content) if cut_at is None else min(len(content), start + cut_at)
        self.wfile.write(content[start:end])
        self.wfile.flush()
        if stall:
            self.state.stop.wait(60)
        if end < len(content):
            self.close_connection = True


@contextlib.contextmanager
def serve() -> Iterator[Server]:
    """Run a server for as long as the context lasts."""
    state = Server()
    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"state": state}))
    listener.daemon_threads = True
    state.url = f"http://127.0.0.1:{listener.server_address[1]}"
    thread = threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.stop.set()
        listener.shutdown()
        listener.server_close()
        thread.join()
