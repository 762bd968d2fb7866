"""A small HTTP server that speaks as the service does, with limits and a durable queue."""

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "florence-test:secret"
BOXES = [
    {"x": 10.0, "y": 20.0, "w": 30.0, "h": 40.0, "label": "cat", "score": 0.75},
    {"x": 0.0, "y": 0.0, "w": 64.0, "h": 48.0, "label": ""},
]
POINTS = [
    {"x": 1.0, "y": 2.0},
    {"x": 31.0, "y": 2.0},
    {"x": 31.0, "y": 12.0},
    {"x": 1.0, "y": 12.0},
]
ANSWERS: dict[str, dict[str, Any]] = {
    "object-detection": {"results": {"bboxes": BOXES}},
    "region-proposal": {"results": {"bboxes": []}},
    "referring-expression-segmentation": {
        "results": {"polygons": [{"label": "a cat", "points": POINTS}]}
    },
    "caption": {"results": "a cat, asleep", "score": 0.5},
}


class Florence(ThreadingHTTPServer):
    """What was asked, how much may be at the same time, and the jobs."""

    def __init__(self, limit: int, delay_s: float, fails_every: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.limit = limit
        self.delay_s = delay_s
        self.fails_every = fails_every
        self.lock = threading.Lock()
        self.running = self.most_running = self.num_refused = 0
        self.asked: Counter[str] = Counter()  # bodies with their path, that were answered
        self.jobs: dict[str, tuple[str, dict[str, Any]]] = {}
        self.is_down = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Florence
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """A run or a submit."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        task = self.path.rpartition("/")[2]
        if self.server.is_down:
            self.close_connection = True
            self.connection.close()
        elif self.path.startswith("/queue/"):
            time.sleep(self.server.delay_s)
            assert self.headers["X-Fal-Queue-Priority"] == "low"
            name = hashlib.sha256(self.headers["Idempotency-Key"].encode()).hexdigest()[:16]
            with self.server.lock:
                self.server.asked[f"{task} {body}"] += name not in self.server.jobs
                self.server.jobs[name] = task, body
            self.say(200, {"request_id": name})
        else:
            self.run(task, body)

    def run(self, task: str, body: dict[str, Any]) -> None:
        """Answer at once, unless too many are running."""
        server = self.server
        with server.lock:
            is_room = server.running < server.limit
            server.running += is_room
            server.num_refused += not is_room
            server.most_running = max(server.most_running, server.running)
        if not is_room:
            self.say(429, {"detail": "too many"}, {"Retry-After": "0"})
            return
        time.sleep(server.delay_s)
        with server.lock:
            server.running -= 1
            server.asked[f"{task} {body}"] += 1
            fails = server.fails_every and sum(server.asked.values()) % server.fails_every == 0
        self.say(422, {"detail": "bad picture"}) if fails else self.say(200, ANSWERS[task])

    def do_GET(self) -> None:
        """The status or the result of a job."""
        name = self.path.removesuffix("/status").rpartition("/")[2]
        if name not in self.server.jobs:
            self.say(404, {"detail": "no such job"})
        elif self.path.endswith("/status"):
            self.say(200, {"status": "COMPLETED"})
        else:
            self.say(200, ANSWERS[self.server.jobs[name][0]])

    def say(self, status: int, tree: Any, headers: dict[str, str] | None = None) -> None:
        """An answer of JSON."""
        body = json.dumps(tree).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Be quiet."""


@contextmanager
def florence_service(
    limit: int = 1000, delay_s: float = 0.0, fails_every: int = 0
) -> Iterator[Florence]:
    """Serves inside the block."""
    with Florence(limit, delay_s, fails_every) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
