"""Connections to checked addresses only.

A host is resolved once and refused unless all its addresses may be called; the connection goes to
an address that was checked, so a name that changes its mind in between gains nothing.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import ip_address

import httpcore2

from deployments.net.guard import Address, Guard

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]

MAX_ADDRESSES = 4  # tried in turn, each with its share of the time to connect


class GuardedBackend(httpcore2.AnyIOBackend):
    """Opens connections to checked addresses only."""

    def __init__(self, guard: Guard, resolve: Resolve) -> None:
        self.guard = guard
        self.resolve = resolve

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109, the backend's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Resolve once, check every address, connect to the first that answers.

        Raises:
            CallRefused: an address may not be called.
            httpcore2.ConnectError: no address answers.
            httpcore2.ConnectTimeout: the last address tried did not answer in time.
        """
        addresses = await self.resolve(host, port)
        self.guard.check(host, port, addresses)
        *first, last = [str(address) for address in addresses[:MAX_ADDRESSES]]
        share = None if timeout is None else timeout / (len(first) + 1)
        for address in first:
            try:
                return await super().connect_tcp(address, port, share)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return await super().connect_tcp(last, port, share)


async def resolve_host(host: str, port: int) -> list[Address]:
    """Every address of `host` in the system's order of preference."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(sockaddr[0]) for *_, sockaddr in found))
