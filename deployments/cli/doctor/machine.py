"""What of Ray and of ours listens on this machine, and does Ray ask for its token?"""

import ipaddress
from collections.abc import Iterable, Iterator, Sequence

import psutil

from deployments.cli.doctor.subject import Subject
from deployments.cli.doctor.verdict import Verdict, fail, ok, skip, warn

CORE = ("raylet", "gcs_server")  # Ray itself; its other processes are their children
UNGUARDED = {8404: "HAProxy's statistics", 9101: "HAProxy's metrics"}
MODE = "RAY_AUTH_MODE"
SHOWN = 6


def processes() -> list[psutil.Process]:
    """Those of Ray and HAProxy that may be looked into."""
    return [each for each in psutil.process_iter() if is_ours(each)]


def is_ours(process: psutil.Process) -> bool:
    """Whether it is one of them."""
    try:
        name = process.name()
        return name in (*CORE, "haproxy") or name.startswith(("ray::", "ray-"))
    except psutil.Error:
        return False


def ray_token(subject: Subject, running: Sequence[psutil.Process]) -> Verdict:
    """Whether the Ray that runs here asks for its token."""
    open_ = [each for each in running if is_core(each) and mode_of(each) != "token"]
    if open_:
        said = f"{open_[0].name()} ({open_[0].pid}) asks for none: who reaches it runs code"
        return fail(said, f"start Ray with {MODE}=token")
    if any(map(is_core, running)):
        return ok("Ray asks for it")
    if subject.is_elsewhere or not subject.is_laptop:
        return skip("no Ray runs here; --release looks at that of a cluster")
    return ok("`florence serve` starts its Ray with one")


def ports(running: Sequence[psutil.Process]) -> Verdict:
    """Whether anything but the service listens beyond loopback without a guard."""
    if not running:
        return skip("nothing of the service runs here")
    beyond = sorted(set(listening(running)))
    bare = [port for port, name in beyond if name == "haproxy" and port in UNGUARDED]
    shown = ", ".join(str(port) for port, _ in beyond[:SHOWN])
    more = f" and {len(beyond) - SHOWN} more" if len(beyond) > SHOWN else ""
    remedy = "let only the service's port through the firewall"
    if beyond and any(is_core(each) and mode_of(each) != "token" for each in running):
        return fail(f"other machines reach Ray without its token at {shown}{more}", remedy)
    if bare:
        what = ", ".join(f"{port} ({UNGUARDED[port]})" for port in bare)
        return warn(f"other machines reach {what} without a password", remedy)
    if beyond:
        return ok(f"Ray's {shown}{more} are reached from other machines, behind its token")
    return ok("all listen on loopback alone")


def listening(running: Iterable[psutil.Process]) -> Iterator[tuple[int, str]]:
    """The ports that other machines reach, and whose they are."""
    for process in running:
        try:
            connections, name = process.net_connections(kind="tcp"), process.name()
        except psutil.Error:
            continue
        for each in connections:
            if each.status == psutil.CONN_LISTEN and not is_loopback(each.laddr.ip):
                yield each.laddr.port, name


def is_core(process: psutil.Process) -> bool:
    """Whether it is Ray itself, which reads the mode at its start."""
    try:
        return process.name() in CORE
    except psutil.Error:
        return False


def mode_of(process: psutil.Process) -> str:
    """How it was started; what may not be read is taken for guarded."""
    try:
        return process.environ().get(MODE, "").lower()
    except psutil.Error:
        return "token"


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches it."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
