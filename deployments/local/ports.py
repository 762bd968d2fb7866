"""Ports of this machine that are free now."""

import random
import socket
from contextlib import suppress
from itertools import islice

from deployments.errors import SetupError

# Below the range from which systems give ports away.
PORT_RANGE = range(20_000, 30_000)

_given: set[int] = set()  # to this process, which may not listen on all of them yet


def free_port(host: str, port: int = 0) -> int:
    """`port`, or any free port for 0, after a test that it is free at `host`.

    Raises:
        SetupError: it is in use, or `host` is not this machine's.
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
    """Free ports on loopback, outside the range from which systems assign ports.

    Others than before, as long as there are some.

    Raises:
        SetupError: there are fewer than `num`.
    """
    drawn = random.sample(PORT_RANGE, len(PORT_RANGE))
    ports = list(islice(filter(is_free, sorted(drawn, key=_given.__contains__)), num))
    if len(ports) < num:
        raise SetupError(
            f"all ports from {PORT_RANGE[0]} to {PORT_RANGE[-1]} are in use: end what uses them"
        )
    _given.update(ports)
    return ports


def is_free(port: int) -> bool:
    """Whether a server can listen on this port of loopback."""
    with suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False
