"""Bodies: read with a bound; a body that does not fit is a 422 that says why, never a 500."""

import asyncio
import itertools
import json
from collections.abc import Iterable
from typing import Any

import pytest
from fastapi import Request as HttpRequest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.api import body as body_module
from deployments.api.body import UploadReader, read_bytes
from deployments.errors import ClientDisconnected, FileTooLarge, PayloadTooLarge, RequestTimeout

from .service import ANSWER, AUTHORIZED, CAPTION, Serve, Service

pytestmark = pytest.mark.anyio

KIB = 1024
DOCS = "https://docs.fal.ai/errors/#"


def only_fault(response: Any) -> dict[str, Any]:
    """The one item of a 422."""
    assert response.status_code == 422, response.text
    assert response.headers["x-fal-needs-retry"] == "0"
    (fault,) = response.json()["detail"]
    assert isinstance(fault, dict)
    assert fault["url"] == DOCS + fault["type"]
    return fault


@pytest.mark.parametrize("body", [b"", b"{}"])
def test_no_image_url_is_missing(shared: Service, body: bytes) -> None:
    """A body that is empty or has no image_url misses it, in pydantic's words."""
    assert only_fault(shared.post_bytes(body)) == {
        "loc": ["body", "image_url"],
        "msg": "Field required",
        "type": "missing",
        "url": DOCS + "missing",
    }


@pytest.mark.parametrize(
    "body",
    [
        b"image_url=u",
        b"{",
        b"   ",
        b'{"image_url": "u"} {}',
        b"\xff\xfe",
        b'{"image_url": "\xff"}',
        b'{"image_url": "u", "n": NaN}',
        b'{"image_url": "u", "n": -Infinity}',
        b'{"image_url": "\\ud800"}',
        b'{"image_url": "u", "n": ' + b"1" * 100_000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_what_is_no_json_is_refused(shared: Service, body: bytes) -> None:
    """Broken, badly encoded, too deep or too long JSON is `json_invalid`."""
    fault = only_fault(shared.post_bytes(body))

    assert (fault["type"], fault["loc"]) == ("json_invalid", ["body"])
    assert fault["msg"].startswith("Invalid JSON: ")
    assert shared.runs == []


@pytest.mark.parametrize("body", [b"null", b"[]", b'[{"image_url":"u"}]', b'"u"', b"1", b"true"])
def test_what_is_no_object_is_refused(shared: Service, body: bytes) -> None:
    """JSON that is no object does not fit the schema."""
    fault = only_fault(shared.post_bytes(body))

    assert (fault["type"], fault["loc"]) == ("model_type", ["body"])


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        (None, "string_type"),
        (1, "string_type"),
        (["u"], "string_type"),
        ({"url": "u"}, "string_type"),
        ("", "string_too_short"),
    ],
)
def test_image_url_must_be_a_string(shared: Service, value: Any, type_: str) -> None:
    """An image_url that is no string with something in it gets pydantic's own type."""
    fault = only_fault(shared.post({"image_url": value}))

    assert (fault["type"], fault["loc"]) == (type_, ["body", "image_url"])


def test_input_is_not_echoed(shared: Service) -> None:
    """A wrong input may be huge; the answer stays small."""
    response = shared.post({"image_url": ["A" * 100 * KIB]})

    assert only_fault(response)["type"] == "string_type"
    assert len(response.content) < KIB


def test_unknown_fields_are_ignored(shared: Service) -> None:
    """Extra fields do no harm."""
    response = shared.post({"image_url": "u", "text_input": "x", "deep": [[{}]]})

    assert response.status_code == 200


@pytest.mark.parametrize("content_type", ["text/plain", "application/octet-stream", "", "a;b=c/d"])
def test_content_type_does_not_matter(shared: Service, content_type: str) -> None:
    """The body is JSON whatever it calls itself."""
    response = shared.post_bytes(b'{"image_url":"u"}', Content_Type=content_type)

    assert response.status_code == 200


def test_large_bodies_arrive_whole(shared: Service) -> None:
    """An image in a data URI of several megabytes reaches the run unchanged."""
    uri = "data:image/png;base64," + "Aa0+" * 1024 * KIB

    assert shared.post({"image_url": uri}).status_code == 200
    assert shared.runs[-1].input.image_url == uri


def test_largest_body_is_accepted(serve: Serve) -> None:
    """A body of exactly the limit is read."""
    service = serve(ingress={"max_body_bytes": 2 * KIB})
    body = json.dumps({"image_url": "u"}).encode().ljust(2 * KIB)

    assert service.post_bytes(body).status_code == 200


@pytest.mark.parametrize("declared", [True, False])
def test_larger_bodies_are_refused(serve: Serve, declared: bool) -> None:
    """One byte more than allowed is `file_too_large`, also when no length was declared."""
    service = serve(ingress={"max_body_bytes": 2 * KIB})
    body = json.dumps({"image_url": "u"}).encode().ljust(2 * KIB + 1)
    content = body if declared else iter([body[:KIB], body[KIB:]])

    response = service.client.post(CAPTION, content=content, headers=AUTHORIZED)

    fault = only_fault(response)
    assert (fault["type"], fault["loc"]) == ("file_too_large", ["body", "image_url"])
    assert fault["ctx"] == {"max_size": 2 * KIB}
    assert service.runs == []


class Body:
    """A body that comes chunk by chunk, and counts the bytes that were taken."""

    def __init__(
        self, chunks: Iterable[bytes], ready: asyncio.Event | None = None, **headers: str
    ) -> None:
        self.taken = 0
        self._chunks = iter(chunks)
        self._ready = ready
        sent = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
        self.request = HttpRequest({"type": "http", "headers": sent}, self.receive)

    async def receive(self) -> dict[str, object]:
        """The next chunk, as a server gives it."""
        if self._ready:
            await self._ready.wait()
        chunk = next(self._chunks, None)
        if chunk is None:
            return {"type": "http.request", "body": b"", "more_body": False}
        self.taken += len(chunk)
        return {"type": "http.request", "body": chunk, "more_body": True}


async def upload(reader: UploadReader, body: Body, max_bytes: int) -> bytes:
    """The whole body of an upload."""
    async with reader.read(body.request, max_bytes) as data:
        return data


async def test_a_body_is_read_whole() -> None:
    """All chunks, up to the very last byte that is allowed."""
    assert await upload(UploadReader(60.0), Body([b"ab", b"", b"cd"]), 4) == b"abcd"


async def test_reading_stops_at_the_first_chunk_too_many() -> None:
    """An endless body is not read beyond the limit."""
    body = Body(itertools.repeat(b"x"))
    with pytest.raises(PayloadTooLarge):
        await upload(UploadReader(60.0), body, 4)
    assert body.taken == 5


async def test_declared_length_is_believed_at_once() -> None:
    """A body that declares to be too large is refused before any of it is read."""
    body = Body([b"x"], content_length="9" * 5000)
    with pytest.raises(FileTooLarge):
        await read_bytes(body.request, 4 * KIB, FileTooLarge(max_size=4 * KIB))
    assert body.taken == 0


async def test_a_slow_body_is_given_up() -> None:
    """An upload has as much time as its URL."""
    with pytest.raises(RequestTimeout):
        await upload(UploadReader(0.01), Body([], asyncio.Event()), 4)


async def test_half_a_body_is_none() -> None:
    """A caller that disconnects leaves no file."""

    async def disconnect() -> dict[str, object]:
        return {"type": "http.disconnect"}

    body = Body([])
    body.request = HttpRequest({"type": "http", "headers": []}, disconnect)
    with pytest.raises(ClientDisconnected):
        await upload(UploadReader(60.0), body, 4)


async def test_a_bounded_number_of_uploads_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is not touched before one of them is done."""
    monkeypatch.setattr(body_module, "MAX_UPLOADS", 1)
    reader, ready = UploadReader(60.0), asyncio.Event()
    first, second = Body([b"1"], ready), Body([b"2"])
    tasks = [asyncio.create_task(upload(reader, body, 4)) for body in (first, second)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert second.taken == 0

    ready.set()
    assert await asyncio.gather(*tasks) == [b"1", b"2"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
objects = st.fixed_dictionaries({"image_url": json_values}).map(json.dumps).map(str.encode)


@pytest.mark.slow
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=200) | json_values.map(json.dumps).map(str.encode) | objects)
def test_no_body_breaks_the_service(shared: Service, body: bytes) -> None:
    """Whatever the body is, the answer is the run's or a 422 with its faults."""
    response = shared.post_bytes(body)

    if response.status_code == 200:
        assert response.json() == ANSWER.output
    else:
        assert response.status_code == 422
        assert all({"loc", "msg", "type", "url"} <= set(f) for f in response.json()["detail"])
