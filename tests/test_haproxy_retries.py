"""A real HAProxy with our part of its configuration: what it does when an Ingress dies."""

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

from deployments.api.queue import DELIVERY
from deployments.local.config import read_yaml, serve_config
from deployments.local.haproxy import haproxy_binary
from deployments.local.ports import free_ports
from tests.chaos.clients import POLICIES

VARIABLE = "RAY_SERVE_HAPROXY_"
# The lines of Serve's own template that matter here, and those about errors that come before ours.
CONFIG = """\
global
    tune.bufsize {TUNE_BUFSIZE}
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    option splice-request
    option redispatch 1
    retry-on {RETRY_ON}
    retries {RETRIES}
    errorfile 502 {error_file}
    errorfile 503 {error_file}
    balance {BALANCE_ALGORITHM}
frontend http_frontend
    bind 127.0.0.1:{port}
    default_backend deployments
backend deployments
    http-reuse always
    server one 127.0.0.1:{behind}
"""
ERROR = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SMALL, LARGE = b"x" * 30_000, b"x" * 300_000


class Ingress:
    """Closes the connection on the first `num_deaths` requests, and answers the others."""

    def __init__(self, num_deaths: int) -> None:
        self.heard: list[bytes] = []
        self._num_deaths = num_deaths
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Refuse connections."""
        self._server.shutdown(socket.SHUT_RDWR)  # the thread that accepts holds it open
        self._server.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                with connection:
                    self._hear(connection)

    def _hear(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        heard = b""
        while not is_whole(heard):
            heard += connection.recv(65536)
        self.heard.append(heard)
        if len(self.heard) > self._num_deaths:
            connection.sendall(ANSWER)


def is_whole(heard: bytes) -> bool:
    """Whether a request is here with all of its body."""
    head, end, body = heard.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return bool(end) and len(body) >= int(length or 0)


def delivery(heard: bytes) -> bytes:
    """The name that HAProxy has given the request."""
    return heard.lower().partition(DELIVERY.encode() + b": ")[2].partition(b"\r\n")[0]


@contextmanager
def haproxy(folder: Path, behind: int) -> Iterator[str]:
    """HAProxy as Serve would start it, before one Ingress; yields its address."""
    variables = read_yaml(serve_config())["controller_options"]["runtime_env"]["env_vars"]
    ours = {
        name.removeprefix(VARIABLE): value
        for name, value in variables.items()
        if name.startswith(VARIABLE)
    }
    [port] = free_ports(1)
    error_file = folder / "500.http"
    error_file.write_text(ERROR)
    config = folder / "haproxy.cfg"
    config.write_text(CONFIG.format(port=port, behind=behind, error_file=error_file, **ours))
    with subprocess.Popen([haproxy_binary(), "-db", "-f", str(config)]) as process:
        try:
            wait_for(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def wait_for(port: int) -> None:
    """Wait until somebody listens."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise AssertionError("HAProxy does not listen")


def post(url: str, body: bytes) -> httpx2.Response:
    """The answer to a POST."""
    return httpx2.post(url, content=body, timeout=60, trust_env=False)


def test_serve_still_writes_these_lines() -> None:
    """In this order: what stands later in a section counts."""
    lines = [line.strip() for line in HAPROXY_CONFIG_TEMPLATE.splitlines()]
    places = [
        lines.index(line)
        for line in (
            "tune.bufsize {{ config.bufsize }}",
            "retry-on {{ config.retry_on }}",
            "retries {{ config.retries }}",
            "errorfile 503 {{ config.error_file_path }}",
            "balance {{ config.balance_algorithm }}",
        )
    ]
    assert places == sorted(places)


def test_what_was_not_answered_is_delivered_again_by_the_same_name(tmp_path: Path) -> None:
    """The caller notices nothing, and the store can know a submit by that name."""
    ingress = Ingress(num_deaths=1)
    with haproxy(tmp_path, ingress.port) as url:
        assert post(url, SMALL).status_code == 200
        assert post(url, SMALL).status_code == 200
    first, again, other = map(delivery, ingress.heard)

    assert first
    assert first == again
    assert other not in (first, b"")


def test_what_kills_one_after_the_other_is_given_up(tmp_path: Path) -> None:
    """After two more attempts."""
    ingress = Ingress(num_deaths=99)
    with haproxy(tmp_path, ingress.port) as url:
        assert post(url, SMALL).status_code == 502
    assert len(ingress.heard) == 3


@pytest.mark.slow
def test_fals_clients_call_again_after_what_cannot_be_repeated(tmp_path: Path) -> None:
    """A body larger than the buffer, and no Ingress at all."""
    ingress = Ingress(num_deaths=99)
    with haproxy(tmp_path, ingress.port) as url:
        broken = post(url, LARGE)
        ingress.close()
        unreachable = post(url, SMALL)

    assert len(ingress.heard) == 1
    assert [broken.status_code, unreachable.status_code] == [502, 503]
    assert all(each.retries(answer) for each in POLICIES for answer in (broken, unreachable))
    assert broken.json()["error_type"] == "runner_connection_error"
