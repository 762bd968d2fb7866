"""Which ports of a host can be reached from here that should not be?"""

import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from deployments.cli.doctor.verdict import Verdict, fail, ok, skip

TIMEOUT_S = 1.5
PORTS = {
    6379: "Ray's state",
    8080: "Ray's metrics",
    8265: "Ray's dashboard",
    8404: "HAProxy's statistics",
    9101: "HAProxy's metrics",
    10001: "Ray's clients",
    44217: "the autoscaler's metrics",
    44227: "the dashboard's metrics",
    52365: "Ray's agent",
}


def ports(url: str) -> Verdict:
    """Those of the URL's host, but for its own."""
    host = host_of(url)
    if is_here(host):
        return skip(f"{host} is this machine")
    return judged(host, opened(host, [port for port in PORTS if port != urlsplit(url).port]))


def host_of(url: str) -> str:
    """The host that a URL names."""
    return urlsplit(url).hostname or ""


def judged(host: str, found: list[int]) -> Verdict:
    """What it means that these are open."""
    if not found:
        return ok(f"none of Ray's and HAProxy's of {host} can be reached from here")
    said = ", ".join(f"{port} ({PORTS[port]})" for port in found)
    remedy = "close them to others: a firewall, or networkPolicy in the chart's values"
    return fail(f"{host} can be reached at {said}", remedy)


def opened(host: str, ports: list[int]) -> list[int]:
    """Those that take a connection."""
    with ThreadPoolExecutor(len(ports)) as threads:
        answers = threads.map(lambda port: takes(host, port), ports)
        return [port for port, answered in zip(ports, answers, strict=True) if answered]


def takes(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection((host, port), TIMEOUT_S).close()
    except (OSError, UnicodeError):
        return False
    return True


def is_here(host: str) -> bool:
    """Whether a name is this machine's own, whose ports others do not see."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
