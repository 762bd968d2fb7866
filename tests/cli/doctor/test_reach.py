"""Ports that answer, and those that do not."""

import socket

import pytest

from deployments.cli.doctor.reach import judged, opened, ports
from deployments.cli.doctor.verdict import Kind


def test_a_port_that_takes_connections_is_open() -> None:
    """And one that nobody listens on is not."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert opened("127.0.0.1", [1, port]) == [port]
    assert opened("127.0.0.1", [1, port]) == []


def test_open_ports_of_others_fail() -> None:
    """Each with what it is."""
    found = judged("florence.example.com", [8265, 9101])
    assert found.kind is Kind.FAIL
    assert "8265 (Ray's dashboard), 9101 (HAProxy's metrics)" in found.said
    assert judged("florence.example.com", []).kind is Kind.OK


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "a.localhost"])
def test_this_machine_sees_its_own(host: str) -> None:
    """That says nothing of what others see."""
    assert ports(f"http://{host}:8000").kind is Kind.SKIP


def test_a_name_that_nobody_has_has_no_open_port() -> None:
    """It is the service's check that fails then."""
    assert ports("http://nobody.invalid").kind is Kind.OK
