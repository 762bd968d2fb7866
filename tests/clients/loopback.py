"""Names that end in .localhost are this machine, also where the system's resolver has not heard."""

import socket
from typing import Any

resolve = socket.getaddrinfo


def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
    """What the system says, of the name's own address."""
    name = host.decode() if isinstance(host, bytes) else host
    return resolve("127.0.0.1" if str(name).endswith(".localhost") else host, *args, **options)


socket.getaddrinfo = getaddrinfo
