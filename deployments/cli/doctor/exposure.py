"""Checks which ports of Ray and HAProxy other machines can reach, here and at a host."""

import ipaddress
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

import psutil

from deployments.cli.doctor.check import Finding, fail, ok, skip, warn
from deployments.cli.doctor.local import Setup

T = TypeVar("T")
D = TypeVar("D")
CORE = ("raylet", "gcs_server")  # Ray itself; its other processes are their children
TOKEN_MODE = "RAY_AUTH_MODE"
NUM_SHOWN = 6
TIMEOUT_S = 1.5
HAPROXY_PORTS = {8404: "HAProxy's statistics", 9101: "HAProxy's metrics"}
PRIVATE_PORTS = HAPROXY_PORTS | {
    6379: "Ray's state",
    8080: "Ray's metrics",
    8265: "Ray's dashboard",
    10001: "Ray's clients",
    44217: "the autoscaler's metrics",
    44227: "the dashboard's metrics",
    52365: "Ray's agent",
}


def processes() -> list[psutil.Process]:
    """The processes of Ray and HAProxy that we may inspect."""
    return [each for each in psutil.process_iter() if is_ours(each)]


def is_ours(process: psutil.Process) -> bool:
    name = readable(process.name, "")
    return name in (*CORE, "haproxy") or name.startswith(("ray::", "ray-"))


def check_ray_token(setup: Setup, running: Sequence[psutil.Process]) -> Finding:
    if open_ := [each for each in running if is_open(each)]:
        said = f"{open_[0].name()} ({open_[0].pid}) asks for none: who reaches it can run code"
        return fail(said, f"start Ray with {TOKEN_MODE}=token")
    if any(map(is_core, running)):
        return ok("Ray asks for it")
    if setup.is_elsewhere or not setup.is_laptop:
        return skip("no Ray runs here")
    return ok("`florence serve` starts its Ray with one")


def check_local_ports(running: Sequence[psutil.Process]) -> Finding:
    """Whether anything but the service can be reached from other machines without a password."""
    if not running:
        return skip("nothing of the service runs here")
    public = sorted(set(public_ports(running)))
    unguarded = [port for port, name in public if name == "haproxy" and port in HAPROXY_PORTS]
    shown = ", ".join(str(port) for port, _ in public[:NUM_SHOWN])
    more = f" and {len(public) - NUM_SHOWN} more" if len(public) > NUM_SHOWN else ""
    remedy = "let only the service's port through the firewall"
    if public and any(map(is_open, running)):
        return fail(f"other machines reach Ray without its token at {shown}{more}", remedy)
    if unguarded:
        what = ", ".join(f"{port} ({HAPROXY_PORTS[port]})" for port in unguarded)
        return warn(f"other machines reach {what} without a password", remedy)
    if public:
        return ok(f"other machines reach Ray at {shown}{more}, with its token only")
    return ok("all listen on loopback alone")


def public_ports(running: Iterable[psutil.Process]) -> Iterator[tuple[int, str]]:
    """The ports that other machines reach, and the names of their processes."""
    for process in running:
        name = readable(process.name, "")
        for each in readable(process.net_connections, ()):
            if each.status == psutil.CONN_LISTEN and not is_loopback(each.laddr.ip):
                yield each.laddr.port, name


def is_open(process: psutil.Process) -> bool:
    """Whether it is Ray itself, and as far as we may see asks for no token."""
    if not is_core(process):
        return False
    environment = readable(process.environ, {TOKEN_MODE: "token"})
    return environment.get(TOKEN_MODE, "").lower() != "token"


def is_core(process: psutil.Process) -> bool:
    """Whether it is Ray itself, which reads the mode when it starts."""
    return readable(process.name, "") in CORE


def readable(read: Callable[[], T], default: D) -> T | D:
    """What `read` returns for a process; `default` when it has ended, or is not ours to inspect."""
    try:
        return read()
    except psutil.Error:
        return default


def is_loopback(host: str) -> bool:
    """Whether an address or a name is this machine's own, which others do not reach."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def check_remote_ports(url: str) -> Finding:
    """Whether Ray's and HAProxy's ports of the URL's host can be reached from here."""
    host, own = host_of(url), urlsplit(url).port
    if is_loopback(host):
        return skip(f"{host} is this machine")
    return remote_finding(host, open_ports(host, [port for port in PRIVATE_PORTS if port != own]))


def host_of(url: str) -> str:
    return urlsplit(url).hostname or ""


def remote_finding(host: str, found: Sequence[int]) -> Finding:
    if not found:
        return ok(f"none of Ray's and HAProxy's of {host} can be reached from here")
    said = ", ".join(f"{port} ({PRIVATE_PORTS[port]})" for port in found)
    remedy = "close them to others: a firewall, or networkPolicy in the chart's values"
    return fail(f"{host} can be reached at {said}", remedy)


def open_ports(host: str, ports: Sequence[int]) -> list[int]:
    with ThreadPoolExecutor(len(ports)) as threads:
        answers = threads.map(partial(accepts, host), ports)
        return [port for port, accepted in zip(ports, answers, strict=True) if accepted]


def accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), TIMEOUT_S).close()
    except (OSError, UnicodeError):
        return False
    return True
