"""The loop that every figure about a server comes from."""

import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from loadtest.bench.closed_loop import ClosedLoop
from tests.loadtest.server import serving

WAIT_S = 0.1


class Handler(BaseHTTPRequestHandler):
    """Answers as the body asks."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        wish = self.rfile.read(int(self.headers["Content-Length"]))
        if wish == b"disconnect":
            self.close_connection = True
            return
        if wish == b"slow":
            time.sleep(WAIT_S)
        self.send_response(500 if wish == b"fail" else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with serving(Handler) as url:
        yield f"{url}/"


def test_latencies_stand_in_the_order_of_the_bodies(url: str) -> None:
    load = ClosedLoop(url, {}, [b"quick", b"slow"]).run(concurrency=3, num=8)
    assert load.num_failed == 0
    assert all(latency >= WAIT_S for latency in load.seconds[1::2])
    assert min(load.seconds[::2]) < WAIT_S


def test_failures_and_broken_connections_are_counted(url: str) -> None:
    load = ClosedLoop(url, {}, [b"quick", b"fail", b"disconnect"]).run(concurrency=2, num=9)
    assert load.num_failed == 6
    assert load.rate == pytest.approx(3 / load.wall_s)


def test_all_clients_ask_at_once(url: str) -> None:
    load = ClosedLoop(url, {}, [b"slow"]).run(concurrency=4, num=8)
    assert load.wall_s < 6 * WAIT_S
