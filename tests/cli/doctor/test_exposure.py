"""Ports of Ray and HAProxy that other machines reach, and those that they do not."""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from deployments.cli.doctor.check import Level
from deployments.cli.doctor.exposure import (
    HAPROXY_PORTS,
    check_local_ports,
    check_ray_token,
    check_remote_ports,
    is_ours,
    open_ports,
    processes,
    remote_finding,
)
from tests.cli.doctor.conftest import setup_of

LISTEN = """
import socket, sys
taken = socket.create_server((sys.argv[1], int(sys.argv[2])))
print(taken.getsockname()[1], flush=True)
sys.stdin.read()
"""
Start = Callable[..., tuple[psutil.Process, int]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a process of some name that listens; gives it, and its port."""
    with ExitStack() as running:

        def begin(
            name: str, host: str, mode: str = "token", port: int = 0
        ) -> tuple[psutil.Process, int]:
            return running.enter_context(listening(tmp_path / name, host, mode, port))

        yield begin


@contextmanager
def listening(
    program: Path, host: str, mode: str, port: int
) -> Iterator[tuple[psutil.Process, int]]:
    """A process of that program inside the block."""
    if not program.exists():
        program.symlink_to(sys.executable)
    with subprocess.Popen(
        [program, "-c", LISTEN, host, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"RAY_AUTH_MODE": mode},
    ) as process:
        assert process.stdout
        yield psutil.Process(process.pid), int(process.stdout.readline())
        assert process.stdin
        process.stdin.close()


def test_rays_processes_are_found(start: Start) -> None:
    """By their names."""
    raylet, _ = start("raylet", "127.0.0.1")
    other, _ = start("photos", "127.0.0.1")
    assert raylet in processes()
    assert not is_ours(other)


def test_a_ray_that_asks_for_its_token(start: Start) -> None:
    """Also where others can reach it."""
    raylet, port = start("raylet", "0.0.0.0")
    assert check_ray_token(setup_of({}), [raylet]).level is Level.OK
    found = check_local_ports([raylet])
    assert (found.level, str(port) in found.said) == (Level.OK, True)


def test_a_ray_that_asks_for_nothing_fails(start: Start) -> None:
    """Its ports matter when others can reach them."""
    near, _ = start("raylet", "127.0.0.1", "disabled")
    assert check_ray_token(setup_of({}), [near]).level is Level.FAIL
    assert "RAY_AUTH_MODE=token" in check_ray_token(setup_of({}), [near]).remedy
    assert check_local_ports([near]).level is Level.OK

    far, port = start("gcs_server", "0.0.0.0", "")
    found = check_local_ports([near, far])
    assert (found.level, f"without its token at {port}" in found.said) == (Level.FAIL, True)


def test_haproxys_statistics_have_no_password(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On loopback they are not exposed."""
    near, port = start("haproxy", "127.0.0.1")
    far, other = start("haproxy", "0.0.0.0")
    for each in (port, other):
        monkeypatch.setitem(HAPROXY_PORTS, each, "statistics")
    assert check_local_ports([near]).level is Level.OK
    found = check_local_ports([near, far])
    assert (found.level, f"{other} (statistics) without" in found.said) == (Level.WARN, True)


def test_without_a_ray() -> None:
    """`florence serve` starts its own with a token; a cluster's is not here."""
    assert check_ray_token(setup_of({}), []).level is Level.SKIP
    assert check_ray_token(replace(setup_of({}), is_laptop=True), []).level is Level.OK
    assert check_local_ports([]).level is Level.SKIP


def test_a_port_that_takes_connections_is_open() -> None:
    """A closed one is not."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert open_ports("127.0.0.1", [1, port]) == [port]
    assert open_ports("127.0.0.1", [1, port]) == []


def test_open_ports_of_others_fail() -> None:
    """Each with what it is."""
    found = remote_finding("florence.example.com", [8265, 9101])
    assert found.level is Level.FAIL
    assert "8265 (Ray's dashboard), 9101 (HAProxy's metrics)" in found.said
    assert remote_finding("florence.example.com", []).level is Level.OK


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "a.localhost"])
def test_this_machine_sees_its_own(host: str) -> None:
    """This does not show what other machines can reach."""
    assert check_remote_ports(f"http://{host}:8000").level is Level.SKIP


def test_an_unknown_name_has_no_open_port() -> None:
    """It is the service's check that fails then."""
    assert check_remote_ports("http://unknown.invalid").level is Level.OK
