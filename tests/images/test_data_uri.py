"""A data URI gives the bytes that a browser would read, within the limit."""

import base64
import time
import tracemalloc
import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import FileTooLarge, ImageLoadError
from deployments.images.data_uri import read_data_uri

MAX_BYTES = 1000
CONTENT = b"\xfb\xff\xfe picture"
ENCODED = base64.b64encode(CONTENT).decode()
MIB = 1024 * 1024


def percent_encode_all(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def wrap_lines(text: str) -> str:
    return "\r\n ".join(text[i : i + 4] for i in range(0, len(text), 4))


WRITINGS: list[Callable[[bytes], str]] = [
    lambda data: "data:image/png;base64," + base64.b64encode(data).decode(),
    lambda data: "data:;base64," + base64.urlsafe_b64encode(data).decode().rstrip("="),
    lambda data: "data:image/png;base64," + percent_encode_all(base64.b64encode(data).decode()),
    lambda data: "data:image/png;base64," + wrap_lines(base64.b64encode(data).decode()),
    lambda data: "data:image/png," + urllib.parse.quote_from_bytes(data),
    lambda data: "data:," + "".join(f"%{byte:02x}" for byte in data),
]


@given(st.binary(min_size=1, max_size=MAX_BYTES), st.sampled_from(WRITINGS))
def test_round_trip(content: bytes, write: Callable[[bytes], str]) -> None:
    """Any bytes come back from every way to write them."""
    assert content == read_data_uri(write(content), MAX_BYTES)


@pytest.mark.parametrize(
    "uri",
    [
        f"data:image/png;base64,{ENCODED}",
        f"data:;base64,{ENCODED}",
        f"DATA:image/png;BASE64,{ENCODED}",
        f"data:image/png; base64 ,{ENCODED}",
        f"data:image/png;charset=utf-8;base64,{ENCODED}",
        f"data:text/html;base64,{ENCODED}",
        f"data:image/png;base64,{ENCODED.replace('+', '%2B').replace('=', '%3D')}",
        f"data:image/png;base64,{ENCODED.rstrip('=')}",
        f"data:image/png;base64, {ENCODED}\n",
        f"data:image/png;base64,{ENCODED}#fragment",
    ],
)
def test_accepted(uri: str) -> None:
    """Type, case, padding, white space and a fragment make no difference."""
    assert read_data_uri(uri, MAX_BYTES) == CONTENT


@pytest.mark.parametrize(
    ("uri", "content"),
    [
        ("data:,a%20b", b"a b"),
        ("data:,a%2", b"a%2"),
        ("data:,%", b"%"),
        ("data:,%%41%zz", b"%A%zz"),
        ("data:,%2541", b"%41"),
        ("data:,a,b;base64", b"a,b;base64"),
        ("data:,\u00e9", "é".encode()),
        ("data:base64,QUJD", b"QUJD"),
    ],
)
def test_without_base64(uri: str, content: bytes) -> None:
    """Without `;base64` the payload is percent-decoded once, and a stray % stays."""
    assert content == read_data_uri(uri, MAX_BYTES)


@pytest.mark.parametrize(
    "payload",
    [
        "A",
        "AAAAA",
        "AA=A",
        "====",
        "=AAA",
        "AAA==",
        "AAAA=",
        "AA\x00A",
        "AAA!",
        "AAA\u00e9",
        "AAA\ud800",
        "%2541AAA",
        "%252B%252B",
        "data:image/png;base64,AAAA",
    ],
)
def test_bad_base64(payload: str) -> None:
    """Base64 that is cut, mis-padded, foreign or percent-encoded twice is refused as such."""
    with pytest.raises(ImageLoadError, match="base64 is damaged"):
        read_data_uri(f"data:image/png;base64,{payload}", MAX_BYTES)


@pytest.mark.parametrize(
    "uri", ["data:image/png;base64,", "data:,", "data:;base64, \n", "data:,#a"]
)
def test_empty(uri: str) -> None:
    """A data URI without data says so."""
    with pytest.raises(ImageLoadError, match="holds no data"):
        read_data_uri(uri, MAX_BYTES)


@pytest.mark.parametrize(
    "uri", ["", "data:", "data:image/png;base64", "image/png;base64,AAAA", "x"]
)
def test_no_data_uri(uri: str) -> None:
    """Text that is no data URI is refused with the form that it should have."""
    with pytest.raises(ImageLoadError, match="not of the form"):
        read_data_uri(uri, MAX_BYTES)


@pytest.mark.parametrize("write", WRITINGS)
def test_limit(write: Callable[[bytes], str]) -> None:
    """Exactly `max_bytes` pass, one more does not, and the error says the limit."""
    assert len(read_data_uri(write(b"\xff" * MAX_BYTES), MAX_BYTES)) == MAX_BYTES
    with pytest.raises(FileTooLarge) as caught:
        read_data_uri(write(b"\xff" * (MAX_BYTES + 1)), MAX_BYTES)
    assert caught.value.ctx == {"max_size": MAX_BYTES}


def test_huge_is_refused_by_its_length() -> None:
    """A payload far over the limit is refused before it is decoded: it is copied once at most."""
    uri = "data:image/png;base64," + "A" * (110 * MIB)
    tracemalloc.start()
    try:
        with pytest.raises(FileTooLarge):
            read_data_uri(uri, 20 * MIB)
        assert tracemalloc.get_traced_memory()[1] < 1.1 * len(uri)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("uri", "num_bytes"),
    [
        ("data:;base64," + "A" * (24 * MIB), 18 * MIB),
        ("data:," + "%41" * (10 * MIB), 10 * MIB),
    ],
    ids=["base64", "percent"],
)
def test_large_is_fast(uri: str, num_bytes: int) -> None:
    """The largest that a request can hold takes little CPU."""
    started = time.process_time()
    assert num_bytes == len(read_data_uri(uri, 20 * MIB))
    assert time.process_time() - started < 3.0
