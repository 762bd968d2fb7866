"""The guard lets through the public internet and what the operator named, and nothing else."""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import SetupError
from deployments.net.guard import PRIVATE_IPV4, CallRefused, Guard, is_public

PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "2606:4700::1111", "2a00:1450::1"]
PRIVATE = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:a9fe:a9fe",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::7f00:1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]
private_ipv4 = st.sampled_from(PRIVATE_IPV4).flatmap(
    lambda network: st.integers(int(network[0]), int(network[-1])).map(IPv4Address)
)


@pytest.mark.parametrize("text", PUBLIC)
def test_public(text: str) -> None:
    """An address of the public internet may be called."""
    assert is_public(ip_address(text))


@pytest.mark.parametrize("text", PRIVATE)
def test_private(text: str) -> None:
    """No address of a private, special or transitional range counts as public."""
    assert not is_public(ip_address(text))


@pytest.mark.parametrize("prefix", ["::ffff:", "64:ff9b::"])
def test_public_inside_ipv6(prefix: str) -> None:
    """A mapped or NAT64 address is as public as the IPv4 address inside."""
    assert is_public(ip_address(f"{prefix}8.8.8.8"))


@given(private_ipv4)
def test_private_ipv4_is_never_public(address: IPv4Address) -> None:
    """Every address of every private IPv4 network is refused."""
    assert not is_public(address)


@given(
    private_ipv4,
    st.sampled_from(
        [
            lambda ipv4: (0xFFFF << 32) | ipv4,  # mapped
            lambda ipv4: ipv4,  # compatible
            lambda ipv4: (0xFFFF << 48) | ipv4,  # translated, ::ffff:0:a.b.c.d
            lambda ipv4: (0x64FF9B << 96) | ipv4,  # NAT64
            lambda ipv4: (0x64FF9B0001 << 80) | ipv4,  # NAT64 for local use
            lambda ipv4: (0x2002 << 112) | (ipv4 << 80),  # 6to4
            lambda ipv4: (0x20010000 << 96) | (ipv4 << 64),  # Teredo, as the server
            lambda ipv4: (0x20010000 << 96) | (ipv4 ^ 0xFFFFFFFF),  # Teredo, as the client
        ]
    ),
)
def test_private_ipv4_inside_ipv6_is_never_public(
    address: IPv4Address, embed: Callable[[int], int]
) -> None:
    """A private IPv4 address stays private however it is written in IPv6."""
    assert not is_public(IPv6Address(embed(int(address))))


@given(st.integers(0, 2**128 - 1).map(IPv6Address))
def test_ipv6_outside_global_unicast_is_never_public(address: IPv6Address) -> None:
    """Only 2000::/3, mapped and NAT64 addresses can be public in IPv6."""
    networks = ("2000::/3", "::ffff:0:0/96", "64:ff9b::/96")
    assert not is_public(address) or any(address in ip_network(each) for each in networks)


def verdict(host: str, port: int, addresses: list[str], *allowed_hosts: str) -> str:
    """What the guard says, empty when the host may be called."""
    try:
        Guard((80, 443), allowed_hosts).check(host, port, [ip_address(each) for each in addresses])
    except CallRefused as error:
        return str(error)
    return ""


def test_guard_lets_public_hosts_through() -> None:
    """A host whose addresses are all public passes on an allowed port."""
    assert verdict("example.com", 443, PUBLIC) == ""


def test_guard_refuses_a_mix() -> None:
    """One private address among public ones is enough to refuse."""
    assert verdict("example.com", 443, ["8.8.8.8", "10.0.0.1"]) == "the host has no public address"


def test_guard_refuses_a_host_without_addresses() -> None:
    """A host without any address is not a host without a private address."""
    assert verdict("example.com", 443, []) == "the host has no public address"


@pytest.mark.parametrize("port", [22, 6379, 8080, 0, 65536, -1])
def test_guard_refuses_other_ports(port: int) -> None:
    """Only allowed ports may be called, on public hosts too."""
    assert verdict("example.com", port, ["8.8.8.8"]) == f"port {port} is not allowed"


@pytest.mark.parametrize(
    ("allowed", "host", "port", "address"),
    [
        ("minio", "minio", 80, "10.0.0.1"),
        ("MinIO.svc.", "minio.SVC", 80, "10.0.0.1"),
        ("minio.svc", "minio.svc.", 80, "10.0.0.1"),
        ("minio:9000", "minio", 9000, "10.0.0.1"),
        ("10.0.0.0/8", "anything", 443, "10.1.2.3"),
        ("10.0.0.0/8:9000", "anything", 9000, "10.1.2.3"),
        ("10.0.0.1", "anything", 80, "10.0.0.1"),
        ("10.0.0.1", "anything", 80, "::ffff:10.0.0.1"),
        ("127.0.0.1:8080", "localhost", 8080, "127.0.0.1"),
        ("::1", "localhost", 80, "::1"),
        ("[::1]:8080", "localhost", 8080, "::1"),
        ("fd00::/8", "anything", 80, "fd00::1"),
        ("example.com:8443", "example.com", 8443, "8.8.8.8"),
    ],
)
def test_operator_may_allow(allowed: str, host: str, port: int, address: str) -> None:
    """A name, an address or a network that the operator allowed passes, with its port if given."""
    assert verdict(host, port, [address], allowed) == ""


@pytest.mark.parametrize(
    ("allowed", "host", "port", "address"),
    [
        ("minio", "minio", 9000, "10.0.0.1"),
        ("minio", "not-minio", 80, "10.0.0.1"),
        ("minio", "sub.minio", 80, "10.0.0.1"),
        ("minio:9000", "minio", 80, "10.0.0.1"),
        ("minio:9000", "minio", 9001, "10.0.0.1"),
        ("10.0.0.0/8", "anything", 443, "192.168.0.1"),
        ("10.0.0.0/8", "anything", 22, "10.0.0.1"),
        ("10.0.0.1:80", "10.0.0.1", 443, "10.0.0.1"),
        ("10.0.0.1", "10.0.0.1", 80, "127.0.0.1"),
    ],
)
def test_operator_allows_no_more(allowed: str, host: str, port: int, address: str) -> None:
    """An entry allows exactly what it says: no other name, network or port."""
    assert verdict(host, port, [address], allowed) != ""


@pytest.mark.parametrize(
    "text", ["", "http://minio", "minio/path", "*.svc", "10.0.0.1/8", "minio:0", "a b", "[::1"]
)
def test_entry_that_cannot_be_read(text: str) -> None:
    """A mistyped entry stops the start, instead of allowing nothing or something else."""
    with pytest.raises(SetupError, match="is no host name, host:port or network"):
        Guard((80,), (text,))
