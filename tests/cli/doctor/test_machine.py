"""Processes that are called like Ray's, with and without its token, near and far."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from deployments.cli.doctor.machine import is_ours, ports, processes, ray_token
from deployments.cli.doctor.verdict import Kind
from tests.cli.doctor.conftest import subject

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
    assert ray_token(subject({}), [raylet]).kind is Kind.OK
    found = ports([raylet])
    assert (found.kind, str(port) in found.said) == (Kind.OK, True)


def test_a_ray_that_asks_for_nothing_fails(start: Start) -> None:
    """Its ports matter when others can reach them."""
    near, _ = start("raylet", "127.0.0.1", "disabled")
    assert ray_token(subject({}), [near]).kind is Kind.FAIL
    assert "RAY_AUTH_MODE=token" in ray_token(subject({}), [near]).remedy
    assert ports([near]).kind is Kind.OK

    far, port = start("gcs_server", "0.0.0.0", "")
    found = ports([near, far])
    assert (found.kind, f"without its token at {port}" in found.said) == (Kind.FAIL, True)


def test_haproxys_statistics_have_no_password(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On loopback they are nobody's business."""
    near, port = start("haproxy", "127.0.0.1")
    far, other = start("haproxy", "0.0.0.0")
    for each in (port, other):
        monkeypatch.setitem(
            sys.modules["deployments.cli.doctor.machine"].UNGUARDED, each, "statistics"
        )
    assert ports([near]).kind is Kind.OK
    found = ports([near, far])
    assert (found.kind, f"{other} (statistics) without" in found.said) == (Kind.WARN, True)


def test_without_a_ray() -> None:
    """`florence serve` starts its own with a token; a cluster's is not here."""
    assert ray_token(subject({}), []).kind is Kind.SKIP
    assert ray_token(replace(subject({}), is_laptop=True), []).kind is Kind.OK
    assert ports([]).kind is Kind.SKIP
