"""A private certificate authority for one machine, for clients that need https."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deployments.local.state import write_private

NAMES = ("localhost", "queue.localhost")
ADDRESSES = ("127.0.0.1", "::1")
AUTHORITY_LIFE = timedelta(days=3650)
SERVER_LIFE = timedelta(days=397)  # the longest that browsers accept
RENEW_BEFORE = timedelta(days=30)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Names = Sequence[x509.GeneralName]


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files: the authority that clients trust, the server's chain and its key."""

    authority: Path
    server: Path
    server_key: Path


def certificates(folder: Path, host: str = "localhost") -> Certificates:
    """The certificates in `folder` for this machine and `host`, made or renewed when needed."""
    found = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    authority_key = folder / "ca.key"
    if not (is_valid(found.authority) and authority_key.is_file()):
        make_authority(found.authority, authority_key)
        found.server.unlink(missing_ok=True)
    names = alternative_names(host)
    if not (is_valid(found.server, names) and found.server_key.is_file()):
        make_server(found, authority_key, names)
    return found


def is_valid(file: Path, names: Names = ()) -> bool:
    """Whether there is a certificate for `names` that does not expire soon."""
    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
        missing = set(names) - set(names_in(certificate) if names else ())
    except (FileNotFoundError, ValueError, x509.ExtensionNotFound):
        return False
    return not missing and certificate.not_valid_after_utc - RENEW_BEFORE > datetime.now(UTC)


def names_in(certificate: x509.Certificate) -> Names:
    return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)


def make_authority(file: Path, key_file: Path) -> None:
    """Write a new authority. It may sign servers, but no other authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = common_name("Florence Serve private CA")
    certificate = (
        certificate_builder(name, name, key.public_key(), AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(ca_key_usage(), critical=True)
        .sign(key, hashes.SHA256())
    )
    write_private(key_file, pem_of_key(key))
    write_private(file, pem_of(certificate))


def make_server(certificates: Certificates, authority_key: Path, names: Names) -> None:
    """Write a new server certificate for `names`, signed by the authority."""
    authority = x509.load_pem_x509_certificate(certificates.authority.read_bytes())
    signer = serialization.load_pem_private_key(authority_key.read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    certificate = (
        certificate_builder(
            common_name("localhost"), authority.subject, key.public_key(), SERVER_LIFE
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(usage, critical=False)
        .add_extension(issuer, critical=False)
        .sign(signer, hashes.SHA256())
    )
    write_private(certificates.server_key, pem_of_key(key))
    write_private(certificates.server, pem_of(certificate))


def certificate_builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, life: timedelta
) -> x509.CertificateBuilder:
    """The parts that all certificates here have. Valid from an hour ago, for slow clocks."""
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def ca_key_usage() -> x509.KeyUsage:
    """The key may sign certificates, and do nothing else."""
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )


def alternative_names(host: str) -> Names:
    """The names and addresses of this machine and of `host`.

    Older clients of fal call the queue at `queue.<host>`.
    """
    own = [address_of(text) for text in ADDRESSES]
    address = address_of(host)
    names = NAMES if address else (*NAMES, host.lower(), f"queue.{host.lower()}")
    addresses = [*own, address] if address and not address.is_unspecified else own
    return [
        *(x509.DNSName(name) for name in dict.fromkeys(names)),
        *(x509.IPAddress(each) for each in dict.fromkeys(addresses) if each),
    ]


def address_of(host: str) -> Address | None:
    """`host` as an address; None when it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def pem_of(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def pem_of_key(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
