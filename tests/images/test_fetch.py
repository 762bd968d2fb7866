"""A download reaches what it may, and every hostile host, URL and answer ends as a clear error.

The servers are real ones on the loopback interface.
They stand for public hosts by way of `allowed_hosts`, so the guard is on in every test.
"""

import asyncio
import contextlib
import gzip
import ssl
import time
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deployments.errors import FileDownloadError, FileTooLarge, SetupError
from deployments.images.fetch import Fetcher
from deployments.net.connect import Resolve
from deployments.net.guard import Address
from deployments.settings import PreprocessSettings
from tests.net.receiver import (
    AUTHORITIES,
    Answer,
    Posted,
    Receiver,
    endless,
    moved,
    reply,
    resolver,
    silent,
)

pytestmark = pytest.mark.anyio

PICTURE = b"\x89PNG picture"
MAX_BYTES = 4096


class Server(Receiver):
    """A server of pictures."""

    def url(self, host: str = "pictures.example", path: str = "/cat.png") -> str:
        return super().url(host, path)


@contextlib.asynccontextmanager
async def serving(answer: Answer, context: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(answer, context)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def ok(body: bytes, *headers: bytes) -> bytes:
    length = b"Content-Length: %d" % len(body)
    return b"\r\n".join([b"HTTP/1.1 200 OK", length, *headers, b"", body])


def fetcher(
    *servers: Server,
    resolve: Resolve | None = None,
    ssl_context: ssl.SSLContext | None = None,
    **changes: Any,
) -> Fetcher:
    """A fetcher for which `servers`, under any name, are public."""
    settings = PreprocessSettings(
        **{
            "max_bytes": MAX_BYTES,
            "fetch_timeout_s": 3.0,
            "connect_timeout_s": 1.0,
            "allowed_hosts": tuple(f"127.0.0.1:{server.port}" for server in servers),
        }
        | changes
    )
    context = ssl_context or AUTHORITIES
    return Fetcher(settings, resolve=resolve or resolver(), ssl_context=context)


async def failure(fetch: Awaitable[bytes]) -> str:
    """Why the download failed, which must not describe the network inside."""
    with pytest.raises(FileDownloadError) as caught:
        await fetch
    assert "127.0.0.1" not in caught.value.message
    assert caught.value.__cause__ is None
    prefix = "Failed to download the file: "
    assert caught.value.message.startswith(prefix)
    return caught.value.message.removeprefix(prefix)


# ---- what must work


async def test_download() -> None:
    """The bytes arrive, and the request asks for a plain body without cookies or credentials."""
    async with serving(reply(ok(PICTURE))) as server:
        assert await fetcher(server).fetch(server.url(path="/a%20b c?q=1#fragment")) == PICTURE
    [request] = server.posted
    assert request.line == "GET /a%20b%20c?q=1 HTTP/1.1"
    assert request.headers["host"] == f"pictures.example:{server.port}"
    assert request.headers["accept-encoding"] == "identity"
    assert not {"cookie", "authorization"} & set(request.headers)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\n\r\n" + PICTURE,
        b"HTTP/1.0 200 OK\r\n\r\n" + PICTURE,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"4\r\n" + PICTURE[:4] + b"\r\n8\r\n" + PICTURE[4:] + b"\r\n0\r\n\r\n",
        ok(PICTURE, b"Content-Encoding: identity"),
    ],
    ids=["until-close", "http-1.0", "chunked", "identity"],
)
async def test_framings(raw: bytes) -> None:
    """Every way of HTTP/1 to delimit a body is read."""
    async with serving(reply(raw)) as server:
        assert await fetcher(server).fetch(server.url()) == PICTURE


async def test_limit_is_inclusive() -> None:
    """A file of exactly `max_bytes` arrives."""
    async with serving(reply(ok(bytes(MAX_BYTES)))) as server:
        assert len(await fetcher(server).fetch(server.url())) == MAX_BYTES


async def test_concurrent_downloads() -> None:
    """One fetcher serves many downloads at a time, each on a connection of its own."""
    async with serving(reply(ok(PICTURE))) as server:
        client = fetcher(server)
        assert (
            await asyncio.gather(*(client.fetch(server.url()) for _ in range(20))) == [PICTURE] * 20
        )
    assert server.num_connections == 20


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect(status: int) -> None:
    """A redirect to another allowed host is followed."""
    async with (
        serving(reply(ok(PICTURE))) as target,
        serving(moved(target.url("other.example"), status)) as server,
    ):
        assert await fetcher(server, target).fetch(server.url()) == PICTURE


async def test_relative_redirect() -> None:
    """A relative location is resolved against the URL that sent it."""

    async def answer(asked: Posted, writer: asyncio.StreamWriter) -> None:
        first = server.num_connections == 1
        await (moved("../b/dog.png") if first else reply(ok(PICTURE)))(asked, writer)

    async with serving(answer) as server:
        assert await fetcher(server).fetch(server.url(path="/a/cat.png")) == PICTURE
    assert server.posted[1].line.startswith("GET /b/dog.png ")


async def test_allowed_name() -> None:
    """A host that the operator allowed by name and port is reached although it is private."""
    async with serving(reply(ok(PICTURE))) as server:
        client = fetcher(allowed_hosts=(f"minio.storage:{server.port}",))
        assert await client.fetch(server.url("minio.storage")) == PICTURE
        assert await failure(client.fetch(server.url())) == "the host has no public address."


async def test_next_address() -> None:
    """An address that refuses the connection is passed over for the next one."""
    async with serving(reply(ok(PICTURE))) as server:
        client = fetcher(
            resolve=resolver(pictures_example=["127.0.0.2", "127.0.0.3", "127.0.0.1"]),
            allowed_hosts=("127.0.0.0/8",),
            allowed_ports=(server.port,),
        )
        assert await client.fetch(server.url()) == PICTURE


# ---- hostile addresses: 1 to 36


LOOPBACK = [
    "127.0.0.1",
    "localhost",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "0",
    "0.0.0.0",
    "①②⑦.0.0.1",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
]
SPECIAL = [
    "[::ffff:a9fe:a9fe]",
    "[::127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2001::1]",
    "[fe80::1%25eth0]",
    "[fec0::1]",
    "[fd00:ec2::254]",
    "[ff02::1]",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "169.254.169.254",
    "100.100.100.200",
    "192.0.0.192",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
]


@pytest.mark.parametrize("host", [*LOOPBACK, *SPECIAL, "127.0.0.1.", "localhost."])
async def test_private_address(host: str) -> None:
    """No way to write a private address leads to it: the system's resolver has the last word."""
    async with serving(reply(ok(b"secret"))) as server:
        settings = PreprocessSettings(allowed_ports=(server.port,), fetch_timeout_s=3.0)
        await failure(Fetcher(settings, ssl_context=AUTHORITIES).fetch(server.url(host)))
    assert server.num_connections == 0


@pytest.mark.parametrize(
    ("host", "addresses"),
    [
        ("private.example", ["10.0.0.1"]),
        ("mixed.example", ["93.184.216.34", "10.0.0.1"]),
        ("mixed.example", ["127.0.0.1", "93.184.216.34"]),
        ("kubernetes.default.svc", ["10.96.0.1"]),
        ("metadata.google.internal", ["169.254.169.254"]),
    ],
)
async def test_name_of_private_address(host: str, addresses: list[str]) -> None:
    """A name is refused when any of its addresses is private."""
    client = fetcher(resolve=resolver(**{host.replace(".", "_"): addresses}))
    assert await failure(client.fetch(f"http://{host}/")) == "the host has no public address."


async def test_rebinding_within_a_hop() -> None:
    """A name that changes its address after the check gains nothing: it is resolved once."""
    answers = [["127.0.0.1"], ["169.254.169.254"]]

    async def resolve(host: str, port: int) -> list[Address]:
        return [ip_address(each) for each in answers.pop(0)]

    async with serving(reply(ok(PICTURE))) as server:
        assert await fetcher(server, resolve=resolve).fetch(server.url()) == PICTURE
    assert answers == [["169.254.169.254"]]


async def test_rebinding_between_hops() -> None:
    """A name that changes its address between two redirects is checked again."""
    answers = [["127.0.0.1"], ["169.254.169.254"]]

    async def resolve(host: str, port: int) -> list[Address]:
        return [ip_address(each) for each in answers.pop(0)]

    async with serving(moved("/again")) as server:
        message = await failure(fetcher(server, resolve=resolve).fetch(server.url()))
    assert message == "the host has no public address."
    assert server.num_connections == 1


async def test_trailing_dot() -> None:
    """A host with a trailing dot is the same host, to the operator's list as well."""
    async with serving(reply(ok(PICTURE))) as server:
        client = fetcher(allowed_hosts=(f"minio:{server.port}",))
        assert await client.fetch(server.url("minio.")) == PICTURE


@pytest.mark.parametrize("host", ["does-not-exist.invalid", "a" * 64 + ".example", "a..b"])
async def test_host_not_found(host: str) -> None:
    """A host that cannot be resolved is the client's error."""
    settings = PreprocessSettings(fetch_timeout_s=5.0)
    assert "host" in await failure(Fetcher(settings).fetch(f"http://{host}/"))


# ---- hostile URLs: 37 to 45


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("http://169.254.169.254/latest/meta-data/", "the host has no public address."),
        ("//[::ffff:a9fe:a9fe]/", "the host has no public address."),
        ("http://93.184.216.34:22/", "port 22 is not allowed."),
        ("file:///etc/passwd", "only http and https URLs are fetched."),
        ("gopher://pictures.example/", "only http and https URLs are fetched."),
        ("data:,secret", "only http and https URLs are fetched."),
        ("http://user@pictures.example/", "the URL contains a user name or a password."),
        ("http:\\\\127.0.0.1\\", "it was redirected to a URL with a backslash."),
        ("http://[::1", "the URL is not valid."),
        ("http://[v1.x]/", "the URL is not valid."),
        ("http://a:99999/", "the URL is not valid."),
    ],
)
async def test_redirect_to_the_inside(location: str, message: str) -> None:
    """A redirect may go nowhere that a client's URL may not."""

    async def resolve(host: str, port: int) -> list[Address]:
        return [ip_address("127.0.0.1" if host == "pictures.example" else host)]

    async with serving(moved(location)) as server:
        assert message == await failure(fetcher(server, resolve=resolve).fetch(server.url()))


async def test_redirect_loop() -> None:
    """Redirects end at `max_redirects`."""
    async with serving(moved("/again")) as server:
        message = await failure(fetcher(server, max_redirects=3).fetch(server.url()))
    assert message == "it was redirected more than 3 times."
    assert server.num_connections == 4


async def test_redirect_without_location() -> None:
    """A redirect to nowhere is an answer that is no file."""
    async with serving(reply(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n")) as server:
        assert await failure(fetcher(server).fetch(server.url())) == "the server answered 302."


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///etc/passwd", "only http and https URLs are fetched."),
        ("ftp://a.example/", "only http and https URLs are fetched."),
        ("gopher://a.example/", "only http and https URLs are fetched."),
        ("dict://a.example/", "only http and https URLs are fetched."),
        ("ws://a.example/", "only http and https URLs are fetched."),
        ("a.example/cat.png", "only http and https URLs are fetched."),
        ("//a.example/cat.png", "only http and https URLs are fetched."),
        ("", "only http and https URLs are fetched."),
        (" http://a.example/", "only http and https URLs are fetched."),
        ("http://good@127.0.0.1/", "the URL contains a user name or a password."),
        ("http://user:password@a.example/", "the URL contains a user name or a password."),
        ("http://a.example\\@127.0.0.1/", "the URL contains a backslash."),
        ("http:\\\\127.0.0.1/", "the URL contains a backslash."),
        ("http://127.0.0.1\t/", "the URL is not valid."),
        ("http://a.example/\r\nHost: b.example", "the URL is not valid."),
        ("http://a.example/\0", "the URL is not valid."),
        ("http:///cat.png", "the URL is not valid."),
        ("http://", "the URL is not valid."),
        ("http://[::1/", "the URL is not valid."),
        ("http://256.0.0.1/", "the URL is not valid."),
        ("http://xn--\u00e9/", "the URL is not valid."),
        ("http://a.example:port/", "the URL is not valid."),
        ("http://a.example:99999/", "the URL is not valid."),
        ("http://a.example:-1/", "the URL is not valid."),
        ("http://a.example:0/", "the URL is not valid."),
        ("http://a.example/" + "a" * 100_000, "the URL is not valid."),
    ],
)
async def test_hostile_url(url: str, message: str) -> None:
    """A foreign scheme, credentials or a trick is refused before anything is resolved."""

    async def resolve(host: str, port: int) -> list[Address]:
        raise AssertionError("resolved")

    assert message == await failure(fetcher(resolve=resolve).fetch(url))


@pytest.mark.parametrize("host", ["xn--\x7f", "xn--a", "xn--999999999", "a%00b", "%31%32%37.0.0.1"])
async def test_strange_host(host: str) -> None:
    """A host that no resolver knows ends as an error, whatever it is made of."""
    await failure(Fetcher(PreprocessSettings(fetch_timeout_s=5.0)).fetch(f"http://{host}/"))


@pytest.mark.parametrize("port", [22, 25, 6379, 8080])
async def test_other_ports(port: int) -> None:
    """A public host is not called on a port that is not allowed."""
    client = fetcher(resolve=resolver(public_example=["93.184.216.34"]))
    url = f"http://public.example:{port}/"
    assert f"port {port} is not allowed." == await failure(client.fetch(url))


async def test_proxy_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment is not used: it would resolve and connect instead of us."""
    async with serving(reply(ok(b"proxy"))) as proxy, serving(reply(ok(PICTURE))) as server:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert await fetcher(server).fetch(server.url()) == PICTURE
    assert proxy.num_connections == 0


# ---- hostile answers: 46 to 51


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [
        endless(b"HTTP/1.1 200 OK\r\n", b"X", 0.02),
        endless(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n", 0.02),
        endless(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", b"x", 0.02),
        endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02),
        moved("/again"),
    ],
    ids=["header-bytes", "header-lines", "body", "informational", "redirects"],
)
async def test_drip(answer: Answer) -> None:
    """However slowly it drips, and over however many redirects, a download ends in time."""

    async def resolve(host: str, port: int) -> list[Address]:
        await asyncio.sleep(0.06)
        return [ip_address("127.0.0.1")]

    async with serving(answer) as server:
        client = fetcher(server, resolve=resolve, fetch_timeout_s=0.3, max_redirects=10)
        started = time.monotonic()
        assert await failure(client.fetch(server.url())) == "it took longer than 0.3 seconds."
        assert time.monotonic() - started < 2.0


async def test_slow_resolver() -> None:
    """The time to resolve counts too."""

    async def resolve(host: str, port: int) -> list[Address]:
        await asyncio.sleep(60)
        return []

    client = fetcher(resolve=resolve, fetch_timeout_s=0.1)
    assert await failure(client.fetch("http://a.example/")) == "it took longer than 0.1 seconds."


async def test_silent_handshake() -> None:
    """A host that accepts and then says nothing is given up after `connect_timeout_s`."""

    async with serving(reply(b"")) as server:
        client = fetcher(server, connect_timeout_s=0.1)
        url = server.url().replace("http:", "https:")
        assert await failure(client.fetch(url)) == "the host did not answer in time."


async def test_a_closed_port() -> None:
    """A refused connection is the host's fault, in words that name no address."""
    async with serving(reply(b"")) as server:
        client, url = fetcher(server), server.url()
    assert await failure(client.fetch(url)) == "the host could not be reached."


@pytest.mark.parametrize(
    "answer",
    [
        endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"400\r\n%1024d\r\n" % 0),
        endless(b"HTTP/1.1 200 OK\r\n\r\n", bytes(1024)),
        reply(b"HTTP/1.1 200 OK\r\nContent-Length: 4097\r\n\r\n"),
        reply(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n"),
        reply(ok(bytes(MAX_BYTES + 1))),
    ],
    ids=["endless-chunked", "endless", "declared", "declared-absurdly", "sent"],
)
async def test_too_large(answer: Answer) -> None:
    """A body over the limit is not read to its end, declared or not; the error says the limit."""
    async with serving(answer) as server:
        with pytest.raises(FileTooLarge) as caught:
            await fetcher(server).fetch(server.url())
    assert caught.value.ctx == {"max_size": MAX_BYTES}


async def test_too_many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body sent byte by byte is given up before it costs much CPU."""
    monkeypatch.setattr("deployments.images.fetch.MAX_PIECES", 1000)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serving(endless(head, b"1\r\nx\r\n" * 1000)) as server:
        message = await failure(fetcher(server).fetch(server.url()))
    assert message == "the server sent it in too many pieces."


async def test_body_shorter_than_declared() -> None:
    """Half a file is an error, not half a picture."""
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + PICTURE
    async with serving(reply(raw)) as server:
        assert "broke off" in await failure(fetcher(server).fetch(server.url()))


async def test_body_longer_than_declared() -> None:
    """What follows the declared length belongs to no file and is not read."""
    raw = ok(PICTURE) + bytes(10 * MAX_BYTES)
    async with serving(reply(raw)) as server:
        assert await fetcher(server).fetch(server.url()) == PICTURE


@pytest.mark.parametrize("encoding", [b"gzip", b"GZIP", b"br", b"identity, gzip", b"deflate"])
async def test_compressed(encoding: bytes) -> None:
    """A body that we asked not to be compressed is refused when it is, never unfolded."""
    bomb = gzip.compress(bytes(1_000_000))
    async with serving(reply(ok(bomb, b"Content-Encoding: " + encoding))) as server:
        assert "compressed" in await failure(fetcher(server).fetch(server.url()))


async def test_undeclared_compression() -> None:
    """Bytes that happen to be gzip stay as they are."""
    bomb = gzip.compress(bytes(1_000_000))
    async with serving(reply(ok(bomb))) as server:
        assert bomb == await fetcher(server).fetch(server.url())


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1_000_000,
        b"HTTP/1.1 200 OK\r\n" + b"X-Header: value\r\n" * 50_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 1_000_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 9000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nBad Header: x\r\n\r\n",
        b"<html>",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\0" * 1000,
        b"",
    ],
)
async def test_no_proper_http(raw: bytes) -> None:
    """Huge headers, contradictory lengths and other protocols end as one clear error."""
    async with serving(reply(raw)) as server:
        message = await failure(fetcher(server).fetch(server.url()))
    assert message in (
        "the server broke off or did not speak proper HTTP.",
        "the connection broke.",
    )


@pytest.mark.parametrize("status", [204, 206, 304, 401, 403, 404, 418, 500, 503])
async def test_status(status: int) -> None:
    """An answer other than 200 is named by its number, and its body stays unread."""
    raw = f"HTTP/1.1 {status} secret\r\nContent-Length: 6\r\n\r\nsecret".encode()
    async with serving(reply(raw)) as server:
        message = await failure(fetcher(server).fetch(server.url()))
    assert message == f"the server answered {status}."


# ---- TLS: 44 and 52


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for pictures.example, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pictures.example")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("pictures.example")]), False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@pytest.fixture
def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


@pytest.mark.parametrize("host", ["pictures.example", "pictures.example."])
async def test_tls(server_context: ssl.SSLContext, trusting: ssl.SSLContext, host: str) -> None:
    """The certificate is checked against the name, although we connect to an address."""
    async with serving(reply(ok(PICTURE)), server_context) as server:
        assert await fetcher(server, ssl_context=trusting).fetch(server.url(host)) == PICTURE


async def test_certificate_of_another_host(
    server_context: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    """A certificate for another name is refused."""
    async with serving(reply(ok(PICTURE)), server_context) as server:
        client = fetcher(server, ssl_context=trusting)
        message = await failure(client.fetch(server.url("other.example")))
    assert message == "the server's certificate or its TLS is not valid."


async def test_unknown_authority(server_context: ssl.SSLContext) -> None:
    """A certificate of an unknown authority is refused."""
    async with serving(reply(ok(PICTURE)), server_context) as server:
        message = await failure(fetcher(server).fetch(server.url()))
    assert message == "the server's certificate or its TLS is not valid."


async def test_no_tls_at_an_https_url() -> None:
    """A server that does not speak TLS is not spoken to in the clear."""

    async def answer(asked: Posted, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("a request in the clear")

    async with serving(answer) as server:
        client = fetcher(server, connect_timeout_s=0.2)
        await failure(client.fetch(server.url().replace("http:", "https:")))


async def test_downgrade(server_context: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    """A redirect from https to http is refused: it could be read and changed on the way."""
    async with (
        serving(reply(ok(PICTURE))) as target,
        serving(moved(target.url()), server_context) as server,
    ):
        client = fetcher(server, target, ssl_context=trusting)
        message = await failure(client.fetch(server.url()))
    assert message == "it was redirected from https to http."
    assert target.num_connections == 0


async def test_upgrade(server_context: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    """A redirect from http to https is followed."""
    async with (
        serving(reply(ok(PICTURE)), server_context) as target,
        serving(moved(target.url())) as server,
    ):
        client = fetcher(server, target, ssl_context=trusting)
        assert await client.fetch(server.url()) == PICTURE


# ---- the rest


async def test_cancellation() -> None:
    """A caller who leaves takes the download along; cancellation is not an error of the URL."""
    began = asyncio.Event()

    async def answer(asked: Posted, writer: asyncio.StreamWriter) -> None:
        began.set()
        await silent(asked, writer)

    async with serving(answer) as server:
        task = asyncio.create_task(fetcher(server).fetch(server.url()))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def test_mistyped_allow_list() -> None:
    """An allow-list that cannot be read stops the start."""
    with pytest.raises(SetupError):
        Fetcher(PreprocessSettings(allowed_hosts=("http://minio",)))
