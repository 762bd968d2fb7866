"""Servers for load: of any handler, and one that answers runs at once but for a while."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWER = b'{"results": {"bboxes": []}}'
TIMING = "fetch;dur=0.1, decode;dur=1.5, queue;dur=2.0, model;dur=3.5, postprocess;dur=0.3"


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The URL of a server that listens inside the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class StallingServer(ThreadingHTTPServer):
    """Stalls for `stall_s` seconds, `after_s` seconds after the first run."""

    request_queue_size = 1000
    daemon_threads = True

    def __init__(self, after_s: float, stall_s: float) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.begun = threading.Event()
        self._stall = (after_s, after_s + stall_s)
        self.num_runs = 0
        self._first = 0.0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.server_port}"

    def pause(self) -> None:
        """Hold a run for as long as the stall goes on."""
        with self._lock:
            self.num_runs += 1
            self._first = self._first or time.monotonic()
        self.begun.set()
        passed = time.monotonic() - self._first
        if self._stall[0] <= passed < self._stall[1]:
            time.sleep(self._stall[1] - passed)


class Handler(BaseHTTPRequestHandler):
    """Speaks as much of the protocol as runs and the preflight need."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: StallingServer

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.pause()
        self._answer(200, ANSWER)

    def do_GET(self) -> None:
        self._answer(404, b"{}")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Server-Timing", TIMING)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
