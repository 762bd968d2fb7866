"""Which network addresses the service may call on a client's behalf.

Addresses are judged after they were resolved, never by how they are written: `127.1`,
`2130706433` and `localhost` are all the same IPv4Address here.
Image downloads and webhooks share this guard, which knows nothing of HTTP.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_network,
)

from deployments.errors import SetupError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# IANA's IPv4 special-purpose registry, written out because `is_global` differs between Python
# versions and calls 192.0.0.192 and multicast global.
PRIVATE_IPV4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's metadata and DNS server, inside public space
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
GLOBAL_IPV6 = IPv6Network("2000::/3")
# Inside 2000::/3: protocol assignments with Teredo, documentation, 6to4, documentation.
PRIVATE_IPV6 = tuple(
    IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)
NAT64 = IPv6Network("64:ff9b::/96")
HOST_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,252}[a-z0-9_])?")


class CallRefused(Exception):
    """The call may not be made; the message is half a sentence that a client may read."""


def is_public(address: Address) -> bool:
    """Whether `address` is certainly a host on the public internet.

    IPv6 is an allow-list: mapped and NAT64 addresses are judged by the IPv4 address inside,
    and every other way to write an IPv4 address in IPv6 is refused.
    """
    address = unpack(address)
    if isinstance(address, IPv4Address):
        return address.is_global and not any(address in network for network in PRIVATE_IPV4)
    return address in GLOBAL_IPV6 and not any(address in network for network in PRIVATE_IPV6)


def unpack(address: Address) -> Address:
    """The IPv4 address that a mapped or a NAT64 address stands for, or the address itself.

    NAT64 is unpacked and not refused, because on an IPv6-only network every IPv4 host has one.
    """
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address


@dataclass(frozen=True)
class Allowance:
    """One entry of the operator's allow-list: a name or a network, on one port or on all."""

    name: str | None
    network: Network | None
    port: int | None

    def covers(self, host: str, port: int, address: Address) -> bool:
        """Whether the operator meant this host, resolved to this address, on this port."""
        if self.port not in (None, port):
            return False
        if self.network is None:
            return normalize(host) == self.name
        return unpack(address) in self.network


def parse_allowance(text: str) -> Allowance:
    """Read `name`, `name:port`, `address`, `address:port`, `network` or `network:port`.

    Raises:
        SetupError: `text` is none of these.
    """
    if network := parse_network(text):
        return Allowance(None, network, None)
    host, port = split_port(text)
    if network := parse_network(host.removeprefix("[").removesuffix("]")):
        return Allowance(None, network, port)
    if HOST_NAME.fullmatch(normalize(host)):
        return Allowance(normalize(host), None, port)
    raise SetupError(f"allowed host {text!r} is no host name, host:port or network")


def parse_network(text: str) -> Network | None:
    try:
        return ip_network(text)
    except ValueError:
        return None


def split_port(text: str) -> tuple[str, int | None]:
    host, _, port = text.rpartition(":")
    if host and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535:
        return host, int(port)
    return text, None


def normalize(host: str) -> str:
    """The form in which host names are compared: lower case, no trailing dot."""
    return host.lower().removesuffix(".")


class Guard:
    """Refuses every host that is neither public nor allowed by the operator."""

    def __init__(self, allowed_ports: Sequence[int], allowed_hosts: Sequence[str]) -> None:
        self.allowed_ports = frozenset(allowed_ports)
        self.allowances = [parse_allowance(text) for text in allowed_hosts]

    def check(self, host: str, port: int, addresses: Sequence[Address]) -> None:
        """Refuse unless every one of `addresses`, to which `host` was resolved, may be called.

        All are checked, because a name that is public and private at once is an attack.

        Raises:
            CallRefused: the host may not be called on this port.
        """
        if not addresses:
            raise CallRefused("the host has no public address")
        for address in addresses:
            self.check_one(host, port, address)

    def check_one(self, host: str, port: int, address: Address) -> None:
        allowances = [each for each in self.allowances if each.covers(host, port, address)]
        if not allowances and not is_public(address):
            raise CallRefused("the host has no public address")
        if port not in self.allowed_ports and not any(each.port == port for each in allowances):
            raise CallRefused(f"port {port} is not allowed")
