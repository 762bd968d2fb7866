"""Bad input over real HTTP: the exact status and fal's error type, and the service lives on."""

import struct
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from PIL import Image

from tests.acceptance.caller import APP, PROPOSAL, Caller, encoded, error_type, scene, uri
from tests.acceptance.conftest import MAX_BYTES
from tests.acceptance.origin import Origin


@pytest.fixture(autouse=True)
def alive(caller: Caller) -> Iterator[None]:
    """After bad requests a good one is answered."""
    yield
    assert caller.send(scene(0, (256, 256)).image).status_code == 200


def refusal(response: httpx2.Response) -> tuple[int, str]:
    """The status and fal's error type of an answer that must be an error."""
    return response.status_code, error_type(response)


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be as large as it says."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(4096))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)


def long_gif(num_frames: int) -> bytes:
    """A GIF of the first scene, followed by many more frames."""
    first = scene(0).image.quantize(64)
    data = encoded(first, "GIF")[:-1]
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return data + frame * num_frames + b"\x3b"


BODIES = {
    "no body": (b"", "missing"),
    "not JSON": (b"image_url=x", "json_invalid"),
    "half of JSON": (b'{"image_url": "da', "json_invalid"),
    "not UTF-8": (b'{"image_url": "\xff\xfe"}', "json_invalid"),
    "a list": (b"[]", "model_type"),
    "missing": (b"{}", "missing"),
    "null": (b'{"image_url": null}', "string_type"),
    "a number": (b'{"image_url": 5}', "string_type"),
    "an object": (b'{"image_url": {"url": "x"}}', "string_type"),
    "empty": (b'{"image_url": ""}', "string_too_short"),
    "nested deeply": (b'{"image_url": ' + b"[" * 100_000, "json_invalid"),
}


def test_bodies_that_do_not_fit(caller: Caller) -> None:
    """An invalid body gets an error for each wrong field."""
    headers = caller.authorization | {"Content-Type": "application/json"}
    found = {
        name: refusal(caller.http.post(caller.url + PROPOSAL, content=body, headers=headers))
        for name, (body, _) in BODIES.items()
    }
    assert found == {name: (422, type_) for name, (_, type_) in BODIES.items()}


SVG = b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>'
HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00heicmif1" + bytes(64)
JPEG = encoded(scene(0).image, "JPEG")

FILES = {
    "no image": (b"plain text, long enough to be something", "image_load_error"),
    "noise": (bytes(range(256)) * 8, "image_load_error"),
    "truncated JPEG": (JPEG[: len(JPEG) // 2], "image_load_error"),
    "truncated PNG": (encoded(scene(0).image, "PNG")[:2000], "image_load_error"),
    "SVG": (SVG, "unsupported_image_format"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(64), "unsupported_image_format"),
    "HTML as image/png": (b"<!DOCTYPE html><html></html>", "unsupported_image_format"),
    "HEIC": (HEIC, "unsupported_image_format"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n" + bytes(64), "unsupported_image_format"),
    "50000×50000 PNG": (png_header(50_000, 50_000), "image_too_large"),
    "1×1": (encoded(Image.new("RGB", (1, 1)), "PNG"), "image_too_small"),
}


def test_files_that_are_no_good(caller: Caller) -> None:
    """A file that cannot be read as an image is refused for what it is."""
    found = {name: refusal(caller.send(data)) for name, (data, _) in FILES.items()}
    assert found == {name: (422, type_) for name, (_, type_) in FILES.items()}


def test_an_unsupported_format_names_those_that_work(caller: Caller) -> None:
    """The error lists the formats that are read."""
    detail = caller.send(HEIC).json()["detail"][0]

    assert "png" in {name.lower() for name in detail["ctx"]["supported_formats"]}


DATA_URIS = [
    "data:image/png;base64,§§§",
    "data:image/png;base64,",
    "data:image/png;base64",  # without a comma
    "data:image/png;base64,%2569VBORw0",  # percent-encoding within percent-encoding
]


def test_data_uris_that_are_no_good(caller: Caller) -> None:
    """A broken data URI is refused as an image that cannot be loaded."""
    found = {url: refusal(caller.send(url)) for url in DATA_URIS}
    assert found == dict.fromkeys(DATA_URIS, (422, "image_load_error"))


def test_a_data_uri_needs_no_type(caller: Caller) -> None:
    """What the bytes are decides, not what the URI says of them."""
    given = uri(scene(0).image)

    assert caller.send(given.replace("image/png", "")).status_code == 200
    assert caller.send(given.replace("image/png", "application/octet-stream")).status_code == 200


def test_too_many_bytes_in_a_data_uri(caller: Caller) -> None:
    """More than max_bytes is refused with the limit."""
    response = caller.send(bytes(MAX_BYTES + 1))

    assert refusal(response) == (422, "file_too_large")
    assert response.json()["detail"][0]["ctx"] == {"max_size": MAX_BYTES}


def test_too_many_bytes_in_the_body(caller: Caller) -> None:
    """A body beyond its own limit is refused before it is read."""
    response = caller.send(bytes(8 * 1024 * 1024))

    assert refusal(response) == (422, "file_too_large")


def test_extreme_aspects_work(caller: Caller) -> None:
    """A very long image is unusual, not wrong."""
    images = [Image.new("RGB", size, "white") for size in ((1000, 2), (2, 1000), (4000, 10))]
    assert [caller.send(image).status_code for image in images] == [200] * 3


def test_a_long_animation_is_its_first_frame(caller: Caller) -> None:
    """A GIF of 10 000 frames takes no longer than its first."""
    began = time.monotonic()
    response = caller.send(long_gif(10_000))

    assert response.status_code == 200
    assert time.monotonic() - began < 15


URLS = {
    "/missing": "file_download_error",
    "/hangs": "file_download_error",
    "/drips": "file_download_error",
    "/endless": "file_too_large",
    "/loop": "file_download_error",
    "/private": "file_download_error",
    "/metadata": "file_download_error",
    "/file": "file_download_error",
    "/declared-large": "file_too_large",
    "/cut-short": "file_download_error",
    "/slow-headers": "file_download_error",
    "/gzip-bomb": "file_download_error",
    "/huge-headers": "file_download_error",
}


def test_servers_that_misbehave(caller: Caller, origin: Origin) -> None:
    """Whatever the other server does, the client gets an error, in seconds; all at once here."""
    began = time.monotonic()
    with ThreadPoolExecutor(len(URLS)) as threads:
        responses = list(threads.map(lambda path: caller.send(origin.url + path), URLS))

    assert [response.status_code for response in responses] == [422] * len(URLS)
    assert dict(zip(URLS, map(error_type, responses), strict=True)) == URLS
    assert time.monotonic() - began < 15


def test_bytes_beyond_the_declared_length_are_not_read(caller: Caller, origin: Origin) -> None:
    """A server that sends more than it said changes nothing."""
    assert caller.send(f"{origin.url}/longer").status_code == 200


ADDRESSES = [
    "http://127.0.0.1/",
    "http://localhost/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0177.0.0.1/",
    "http://0/",
    "http://0.0.0.0/",
    "http://①②⑦.0.0.1/",
    "http://[::1]/",
    "http://[::]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[64:ff9b:1::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[2001:0:53aa:64c::1]/",
    "http://[fe80::1%25eth0]/",
    "http://[fec0::1]/",
    "http://[fd00:ec2::254]/",
    "http://[ff02::1]/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://100.100.100.200/",
    "http://192.0.0.192/",
    "http://198.18.0.1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://localhost./",
    "http://kubernetes.default.svc/",
    "http://good@127.0.0.1/",
    "http://127.0.0.1\\@example.com/",
    "http://127.0.0.1\t/",
    "http://127.0.0.1/\r\nHost: example.com",
    "http://127.0.0.1:22/",
    "http://127.0.0.1:6379/",
    "file:///etc/passwd",
    "ftp://127.0.0.1/x.png",
    "gopher://127.0.0.1/",
    "dict://127.0.0.1:11211/",
    "javascript:alert(1)",
    "not a URL",
    "/etc/passwd",
    "http://",
]


def test_addresses_that_are_not_public(caller: Caller) -> None:
    """No way of writing a private address gets anything fetched."""
    found = {url: refusal(caller.send(url)) for url in ADDRESSES}
    assert found == dict.fromkeys(ADDRESSES, (422, "file_download_error"))


KEYS = [
    "Key florence-00000000:00000000000000000000000000000000",
    "florence-00000000:0",
    "Basic dXNlcjpwYXNz",
    "Key",
    "Key clé",
]


def test_keys_that_are_no_good(caller: Caller) -> None:
    """Without a good key nothing is done."""
    url, body = caller.url + PROPOSAL, {"image_url": uri(scene(0).image)}
    found = {
        key: refusal(caller.http.post(url, json=body, headers={b"Authorization": key.encode()}))
        for key in KEYS
    }

    assert refusal(caller.http.post(url, json=body)) == (401, "unauthorized")
    assert found == dict.fromkeys(KEYS, (401, "unauthorized"))


def test_unknown_endpoints(caller: Caller) -> None:
    """What is not served is not found."""
    paths = ["/fal-ai/other", f"{APP}/no-such-task", "/fal-ai", "/x/y/z"]
    found = {path: refusal(caller.post({"image_url": "x"}, path)) for path in paths}
    assert found == dict.fromkeys(paths, (404, "not_found"))


def test_wrong_methods(caller: Caller) -> None:
    """An endpoint takes POST and says so."""
    url = caller.url + PROPOSAL
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        response = caller.http.request(method, url, headers=caller.authorization)
        assert refusal(response) == (405, "method_not_allowed")
        assert "POST" in response.headers["allow"]


def test_bad_timeouts(caller: Caller) -> None:
    """X-Fal-Request-Timeout must be a positive number."""
    for timeout in ("soon", "-1", "0", "nan"):
        headers = caller.authorization | {"X-Fal-Request-Timeout": timeout}
        response = caller.http.post(caller.url + PROPOSAL, json={}, headers=headers)
        assert refusal(response) == (400, "bad_request"), timeout


def test_errors_look_like_fals(caller: Caller) -> None:
    """Every error is JSON with a request id, fal's headers, and CORS for browsers."""
    headers = caller.authorization | {"Origin": "https://example.com"}
    response = caller.http.post(caller.url + PROPOSAL, json={}, headers=headers)

    assert response.headers["content-type"].startswith("application/json")
    assert response.headers["x-fal-error-type"]
    assert response.headers["x-fal-needs-retry"] == "0"
    assert len(response.headers["x-fal-request-id"]) == 36
    assert response.headers["access-control-allow-origin"] in ("*", "https://example.com")
    assert "x-fal-request-id" in response.headers["access-control-expose-headers"].lower()


def test_wrong_questions_do_not_disturb_others(caller: Caller) -> None:
    """Texts and regions that are no questions are refused; what is asked meanwhile is not."""
    image_url = uri(scene(1).image)
    grounding, category = f"{APP}/caption-to-phrase-grounding", f"{APP}/region-to-category"
    texts = ("<OD>", "</s>", "<loc_5>", "<image>", "a\0b", "word " * 1000, None, 5)
    whole: dict[str, Any] = {"x1": 100, "y1": 100, "x2": 200, "y2": 200}
    regions = [whole | {"x2": 100}, whole | {"x1": 1.5}, whole | {"x1": "100"}, {"x1": 1, "y1": 1}]
    wrong: list[tuple[str, dict[str, Any], str]] = [
        (grounding, {"text_input": text}, "text_input") for text in texts
    ]
    wrong += [(category, {"region": region}, "region") for region in regions]
    pixel = {"x1": 0, "y1": 0, "x2": 1, "y2": 1}
    right: list[tuple[str, dict[str, Any]]] = [
        (grounding, {"text_input": text}) for text in ("", "🦒", "square <and> circle")
    ]
    right += [(category, {"region": pixel}), (category, {"region": whole | {"x2": 10**9}})]

    def ask(path: str, given: dict[str, Any]) -> httpx2.Response:
        return caller.post({"image_url": image_url} | given, path)

    alone = [ask(*each) for each in right]
    with ThreadPoolExecutor(len(wrong) + len(right)) as threads:
        asked = [threads.submit(ask, *each) for each in right]
        disturbing = [threads.submit(ask, path, given) for path, given, _ in wrong]
        together = [each.result() for each in asked]
        refused = [each.result() for each in disturbing]

    assert [each.status_code for each in together] == [200] * len(right)
    assert [each.json()["results"] for each in together] == [e.json()["results"] for e in alone]
    for (_, _, name), response in zip(wrong, refused, strict=True):
        assert response.status_code == 422
        assert {tuple(fault["loc"][:2]) for fault in response.json()["detail"]} == {("body", name)}
