"""What went wrong with a call, in half a sentence that a client may read."""

import socket
import ssl

import anyio
import httpcore2
import httpx2

# The first row that fits says what the client reads; the exceptions' own words stay inside.
REASONS: tuple[tuple[type[Exception], str], ...] = (
    (httpx2.InvalidURL, "the URL is not valid"),
    (UnicodeError, "the host name is not valid"),
    (ValueError, "the URL is not valid"),
    (socket.gaierror, "the host has no public address"),
    (httpcore2.ConnectTimeout, "the host did not answer in time"),
    (httpcore2.ConnectError, "the host could not be reached"),
    (httpcore2.ProtocolError, "the server broke off or did not speak proper HTTP"),
    (httpcore2.NetworkError, "the connection broke"),
    (httpcore2.TimeoutException, "the server was too slow"),
    (anyio.BrokenResourceError, "the connection broke"),
    (OSError, "the connection broke"),
)
FAILURES = tuple(kind for kind, _ in REASONS)


def explain(error: BaseException) -> str:
    if error.args and isinstance(error.args[0], ssl.SSLError):
        return "the server's certificate or its TLS is not valid"
    return next(reason for kind, reason in REASONS if isinstance(error, kind))
