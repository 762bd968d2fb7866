"""A private authority and its server: real handshakes, renewal, private keys."""

import ipaddress
import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from deployments.local import tls
from deployments.local.tls import Certificates, certificates


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of a first start."""
    return certificates(tmp_path_factory.mktemp("tls"))


def certificate(file: Path) -> x509.Certificate:
    """A certificate as an object."""
    return x509.load_pem_x509_certificate(file.read_bytes())


def handshake(made: Certificates, name: str) -> str:
    """What a client that trusts the authority hears from a server with these certificates."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(made.server, made.server_key)
    client = ssl.create_default_context(cafile=str(made.authority))
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # the default of later versions of Python

    def answer() -> None:
        accepted, _ = listening.accept()
        try:
            with server.wrap_socket(accepted, server_side=True) as secured:
                secured.sendall(b"hello")
        except (ssl.SSLError, OSError):
            accepted.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            with (
                socket.create_connection(listening.getsockname(), timeout=5) as plain,
                client.wrap_socket(plain, server_hostname=name) as secured,
            ):
                return secured.recv(5).decode()
        finally:
            thread.join(5)


@pytest.mark.parametrize("name", ["localhost", "queue.localhost", "127.0.0.1", "::1"])
def test_a_client_that_trusts_the_authority_connects(made: Certificates, name: str) -> None:
    """Every name of this machine works, by strict rules."""
    assert handshake(made, name) == "hello"


@pytest.mark.parametrize("name", ["example.org", "other.localhost", "127.0.0.2"])
def test_no_other_name_is_answered_for(made: Certificates, name: str) -> None:
    """The certificate is good for this machine alone."""
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(made, name)


def test_another_authority_is_not_trusted(made: Certificates, tmp_path: Path) -> None:
    """A client that trusts another service's authority refuses this one."""
    other = certificates(tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(Certificates(other.authority, made.server, made.server_key), "localhost")


def test_the_authority_signs_the_server(made: Certificates) -> None:
    """The chain has two links; the server cannot sign."""
    authority, server = certificate(made.authority), certificate(made.server)
    server.verify_directly_issued_by(authority)
    authority.verify_directly_issued_by(authority)
    found = [
        each.extensions.get_extension_for_class(x509.BasicConstraints).value
        for each in (authority, server)
    ]
    assert [(each.ca, each.path_length) for each in found] == [(True, 0), (False, None)]


def test_the_names_are_in_the_certificate(made: Certificates) -> None:
    """Clients look at the alternative names, not at the subject."""
    extensions = certificate(made.server).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "queue.localhost"]
    addresses = [ipaddress.ip_address(address) for address in ("127.0.0.1", "::1")]
    assert names.get_values_for_type(x509.IPAddress) == addresses


@pytest.mark.parametrize(
    ("host", "more"),
    [
        ("florence.example", ["florence.example", "queue.florence.example"]),
        ("Florence.Example", ["florence.example", "queue.florence.example"]),
        ("192.0.2.7", ["192.0.2.7"]),
        ("0.0.0.0", []),
        ("::", []),
        ("localhost", []),
        ("127.0.0.1", []),
    ],
)
def test_the_host_that_is_served_at_is_named_too(
    tmp_path: Path, host: str, more: list[str]
) -> None:
    """Its queue as well, where older clients of fal look for it; an address has none."""
    served = certificates(tmp_path, host)
    named = certificate(served.server).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    names = [str(each.value) for each in named.value]
    own = ["localhost", "queue.localhost", "127.0.0.1", "::1"]
    assert sorted(names) == sorted([*own, *more])
    assert {handshake(served, name) for name in more} <= {"hello"}


def test_another_host_needs_another_certificate(tmp_path: Path) -> None:
    """The authority stays, so that clients notice nothing; a host that is named needs none."""
    first = contents(certificates(tmp_path))
    other = contents(certificates(tmp_path, "florence.example"))
    again = contents(certificates(tmp_path))
    assert first[0] == other[0]
    assert first[1] != other[1]
    assert other == again


def test_the_server_lives_as_long_as_browsers_accept(made: Certificates) -> None:
    """At most 398 days, and valid already for a clock that is behind."""
    server = certificate(made.server)
    assert server.not_valid_after_utc - server.not_valid_before_utc < timedelta(days=398)
    assert server.not_valid_before_utc < datetime.now(UTC) - timedelta(minutes=50)


def test_keys_are_private(made: Certificates) -> None:
    """Other users of the machine cannot read a key."""
    keys = (made.server_key, made.server_key.with_name("ca.key"))
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}


def contents(made: Certificates) -> tuple[bytes, bytes, bytes]:
    """The files as they are now."""
    return (
        made.authority.read_bytes(),
        made.server.read_bytes(),
        made.server_key.read_bytes(),
    )


def test_certificates_are_kept(tmp_path: Path) -> None:
    """The next start has the same ones, so that clients need to trust only once."""
    before = contents(certificates(tmp_path))
    assert before == contents(certificates(tmp_path))


@pytest.mark.parametrize(("life", "is_kept"), [("SERVER_LIFE", True), ("AUTHORITY_LIFE", False)])
def test_what_is_about_to_expire_is_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, life: str, is_kept: bool
) -> None:
    """The server alone, so that clients notice nothing; an authority with its server."""
    with monkeypatch.context() as short:
        short.setattr(tls, life, timedelta(days=29))
        before = contents(certificates(tmp_path))
    after = contents(certificates(tmp_path))
    assert (before[0] == after[0]) is is_kept
    assert not set(before[1:]) & set(after[1:])
    assert handshake(certificates(tmp_path), "localhost") == "hello"


@pytest.mark.parametrize("name", ["ca.pem", "ca.key", "server.pem", "server.key"])
@pytest.mark.parametrize("lost", [True, False])
def test_what_is_lost_or_broken_is_made_again(tmp_path: Path, name: str, lost: bool) -> None:
    """Whichever file is gone, or a certificate that is damaged, the next start works."""
    certificates(tmp_path)
    if lost:
        (tmp_path / name).unlink()
    elif name.endswith(".pem"):
        (tmp_path / name).write_text("-----BEGIN CERTIFICATE-----\nbroken")
    assert handshake(certificates(tmp_path), "localhost") == "hello"
