"""Ports that are free now."""

import socket
from pathlib import Path

import pytest

from deployments.errors import SetupError
from deployments.local import ports as local_ports
from deployments.local.ports import free_ports


def test_a_port_is_one_that_nothing_else_comes_to_by_chance() -> None:
    """Ray and outgoing connections get theirs from the kernel, and may be quicker."""
    kernels = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert max(ports) < min(int(kernels[0]), 30_000)  # from where on Serve has its replicas'


def test_no_port_is_given_twice() -> None:
    """Who asks may listen later; with others by chance, a dozen of these would be the same."""
    assert len({port for _ in range(100) for port in free_ports(5)}) == 500


def test_ports_in_use_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """And when there are too few others, the user hears of it."""
    [taken, *_] = ports = free_ports(3)
    monkeypatch.setattr(local_ports, "PORT_RANGE", range(taken, taken + 1))
    with socket.create_server(("127.0.0.1", taken)), pytest.raises(SetupError, match="in use"):
        free_ports(1)
    assert free_ports(1) == ports[:1]
