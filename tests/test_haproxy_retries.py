"""A real HAProxy with our part of its configuration: what it does when an Ingress dies, and when
Serve replaces its worker because there are more or fewer of them.
"""

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import psutil
import pytest
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

from deployments.api.queue import DELIVERY
from deployments.local.config import local_profile, read_yaml, serve_config
from deployments.local.haproxy import haproxy_binary, private_haproxy
from deployments.local.ports import free_ports
from deployments.local.state import StateFolder
from deployments.settings import parse
from tests.chaos.clients import POLICIES

VARIABLE = "RAY_SERVE_HAPROXY_"
# The lines of Serve's own template that matter here, and those about errors that come before ours.
CONFIG = """\
global
    tune.bufsize {TUNE_BUFSIZE}
    hard-stop-after {HARD_STOP_AFTER_S}s
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
            self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        connection.sendall(ANSWER)


class Streaming(Ingress):
    """Answers with a stream of five events, one each second."""

    def __init__(self) -> None:
        super().__init__(num_deaths=0)
        self.began = threading.Event()

    def _answer(self, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with suppress(OSError):
            for _ in range(5):
                connection.sendall(b"6\r\nevent\n\r\n")
                self.began.set()
                time.sleep(1)
            connection.sendall(b"0\r\n\r\n")


def is_whole(heard: bytes) -> bool:
    """Whether a request is here with all of its body."""
    head, end, body = heard.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return bool(end) and len(body) >= int(length or 0)


def delivery(heard: bytes) -> bytes:
    """The name that HAProxy has given the request."""
    return heard.lower().partition(DELIVERY.encode() + b": ")[2].partition(b"\r\n")[0]


def ours() -> dict[str, str]:
    """Our variables, by what is in the template."""
    variables = read_yaml(serve_config())["controller_options"]["runtime_env"]["env_vars"]
    return {
        name.removeprefix(VARIABLE): value
        for name, value in variables.items()
        if name.startswith(VARIABLE)
    }


@contextmanager
def haproxy(folder: Path, behind: int, **more: str) -> Iterator[str]:
    """HAProxy as Serve would start it, before one Ingress; yields its address.

    `more` goes before our variables.
    """
    [port] = free_ports(1)
    error_file = folder / "500.http"
    error_file.write_text(ERROR)
    config = folder / "haproxy.cfg"
    variables = ours() | more
    config.write_text(CONFIG.format(port=port, behind=behind, error_file=error_file, **variables))
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
            "hard-stop-after {{ config.hard_stop_after_s }}s",
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


@pytest.mark.slow
@pytest.mark.parametrize(("more", "events"), [({}, 5), ({"HARD_STOP_AFTER_S": "2"}, 3)], ids=str)
def test_a_stream_outlives_the_worker_s_replacement(
    tmp_path: Path, more: dict[str, str], events: int
) -> None:
    """Serve replaces it whenever an Ingress comes or goes; Serve's own time would cut long ones."""
    ingress = Streaming()
    heard = b""
    with haproxy(tmp_path, ingress.port, **more) as url:
        stream = httpx2.stream("GET", url, timeout=60, trust_env=False)
        with suppress(httpx2.RemoteProtocolError), stream as response:
            pieces = response.iter_bytes()
            heard += next(pieces)
            config = str(tmp_path / "haproxy.cfg")
            old = psutil.Process().children()[-1].pid
            with subprocess.Popen(
                [haproxy_binary(), "-db", "-f", config, "-sf", str(old)]
            ) as successor:
                try:
                    for piece in pieces:
                        heard += piece
                finally:
                    successor.kill()
    count = heard.count(b"event")
    assert count == events if events == 5 else count <= events


def test_haproxy_waits_longer_than_any_run(tmp_path: Path) -> None:
    """On a cluster and on a laptop: the deadline of runs, and Serve's own of all requests."""
    config = read_yaml(serve_config())
    stop = float(ours()["HARD_STOP_AFTER_S"])
    deadline = parse(config["applications"][0]["args"]).ingress.deadline_s
    assert stop > 2 * max(deadline, config["http_options"]["request_timeout_s"])
    with private_haproxy() as laptop:
        assert f"{VARIABLE}HARD_STOP_AFTER_S" not in laptop
    profile = local_profile(StateFolder(tmp_path), "127.0.0.1", 0, {}, haproxy=True)
    assert profile.environment[f"{VARIABLE}HARD_STOP_AFTER_S"] == f"{stop:.0f}"
