"""Ports of this machine that are free now."""

import random
import socket
from contextlib import suppress
from itertools import islice

from deployments.errors import SetupError

# Below the range from which systems give ports away.
PORT_RANGE = range(20_000, 30_000)


def free_port(host: str, port: int = 0) -> int:
    """`port`, or any port for 0, that can be listened on at `host` now.

    Raises:
        SetupError: it cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SetupError(
                f"cannot listen on {host}:{port} ({reason}): choose another with --port or --host"
            ) from None
        found: int = probe.getsockname()[1]
        return found


def free_ports(num: int) -> list[int]:
    """Ports on loopback that nobody listens on now, and that systems give to nobody unasked.

    Raises:
        SetupError: there are not so many.
    """
    free = filter(is_free, random.sample(PORT_RANGE, len(PORT_RANGE)))
    ports = list(islice(free, num))
    if len(ports) < num:
        raise SetupError(
            f"all ports from {PORT_RANGE[0]} to {PORT_RANGE[-1]} are in use: end what uses them"
        )
    return ports


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of loopback now."""
    with suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False
