"""Uploads: as fal's clients make them, and as no client should."""

import hashlib
import io
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
import uvicorn
from PIL import Image

from deployments.api import multipart_upload as multipart
from deployments.errors import StoreUnavailable
from deployments.files.base import expiry_of
from deployments.settings import MIB

from .service import AUTHORIZED, KEY, Serve, Service, build

INITIATE = "/rest/storage/upload/initiate?storage_type=fal-cdn-v3"
INITIATE_PARTS = "/rest/storage/upload/initiate-multipart?storage_type=fal-cdn-v3"
TOKEN = "/rest/storage/auth/token?storage_type=fal-cdn-v3"
MAX_BYTES = 3000


def picture(kind: str = "PNG") -> bytes:
    """A small image."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def service(shared: Service) -> Service:
    """Every upload has a name of its own."""
    return shared


@pytest.fixture
def small(serve: Serve, tmp_path: Path) -> Service:
    """A service that stores small files only."""
    return serve(files={"root": str(tmp_path / "files"), "max_upload_bytes": MAX_BYTES})


def initiate(
    service: Service, content_type: str = "image/png", path: str = INITIATE, **headers: str
) -> Any:
    """Where to upload a file, and where it will be."""
    body = {"content_type": content_type, "file_name": "car.png"}
    sent = AUTHORIZED | {name.replace("_", "-"): value for name, value in headers.items()}
    return service.client.post(path, json=body, headers=sent)


def name_of(url: str) -> str:
    """The file name at the end of a URL."""
    return urlsplit(url).path.rpartition("/")[2]


def refused(response: Any) -> tuple[int, str]:
    """The status and the type of an error."""
    return response.status_code, response.headers["x-fal-error-type"]


def test_a_file_is_put_at_its_url(service: Service) -> None:
    """The URL of the upload needs no key, and the file is served at the URL that was named."""
    initiated = initiate(service).json()
    put = service.client.put(initiated["upload_url"], content=picture())
    got = service.client.get(initiated["file_url"])

    assert set(initiated) == {"upload_url", "file_url"}
    assert initiated["file_url"].startswith("http://testserver/cdn/files/")
    assert initiated["upload_url"].startswith("http://testserver/cdn/upload/")
    assert (put.status_code, put.content) == (200, b"")
    assert (got.status_code, got.content) == (200, picture())
    assert got.headers["content-type"] == "image/png"
    assert put.headers["etag"] == got.headers["etag"]


def test_a_key_does_no_harm_to_an_upload(service: Service) -> None:
    """fal's Python client sends its key to wherever it uploads."""
    initiated = initiate(service).json()

    put = service.client.put(initiated["upload_url"], content=picture(), headers=AUTHORIZED)
    assert put.status_code == 200


@pytest.mark.parametrize("path", [INITIATE, INITIATE_PARTS, TOKEN])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Key wrong:key"}])
def test_uploads_begin_with_a_key(shared: Service, path: str, headers: dict[str, str]) -> None:
    """No other caller can fill the store."""
    response = shared.client.post(path, json={}, headers=headers)

    assert refused(response) == (401, "unauthorized")


@pytest.mark.parametrize("path", ["/cdn/files/upload", "/cdn/files/upload/multipart"])
@pytest.mark.parametrize("credentials", ["", "Key wrong:key", "Bearer 1.2." + "0" * 64])
def test_direct_uploads_need_a_key_or_a_token(shared: Service, path: str, credentials: str) -> None:
    """What is neither is refused as a wrong key."""
    headers = {"Authorization": credentials} if credentials else {}
    response = shared.client.post(path, content=b"x", headers=headers)

    assert refused(response) == (401, "unauthorized")


def test_a_url_works_once(shared: Service) -> None:
    """The second upload is refused, with a code that no client repeats, and changes nothing."""
    initiated = initiate(shared).json()
    shared.client.put(initiated["upload_url"], content=picture())
    again = shared.client.put(initiated["upload_url"], content=picture("WEBP"))

    assert refused(again) == (403, "forbidden")
    assert shared.client.get(initiated["file_url"]).content == picture()


def test_an_altered_url_is_refused(shared: Service) -> None:
    """A signature fits its own name and method only."""
    first, second = (initiate(shared).json()["upload_url"] for _ in range(2))
    query = first.partition("?")[2]
    altered = [
        first.partition("?")[0],
        second.partition("?")[0] + "?" + query,
        first.replace(".png", ".jpg"),
        first.replace("ticket=", "ticket=f"),
        first.replace("?", "/parts/1?"),
    ]

    for url in altered:
        assert refused(shared.client.put(url, content=picture())) == (403, "forbidden")


def test_a_url_ends(serve: Serve, tmp_path: Path) -> None:
    """An upload that comes too late is refused."""
    files = {"root": str(tmp_path / "files"), "upload_expires_s": 0.001}
    service = serve(files=files)
    initiated = initiate(service).json()

    response = service.client.put(initiated["upload_url"], content=picture())
    assert refused(response) == (403, "forbidden")


def unread() -> Iterator[bytes]:
    """A body that must not be read."""
    raise AssertionError("the body was read")
    yield b""


def pieces() -> Iterator[bytes]:
    """A body without a declared length."""
    for _ in range(MAX_BYTES + 1):
        yield b"x"


@pytest.mark.parametrize("way", ["put", "post", "part"])
def test_a_large_file_is_refused_before_it_is_read(small: Service, way: str) -> None:
    """A length that is said to be too large is enough."""
    method, url = upload_way(small, way)
    headers = AUTHORIZED | {"Content-Length": str(MAX_BYTES + 1)}
    response = small.client.request(method, url, content=unread(), headers=headers)

    assert refused(response) == (413, "payload_too_large")
    assert response.json()["detail"] == "At most 3000 bytes can be stored here."


@pytest.mark.parametrize("way", ["put", "post", "part"])
def test_a_large_file_is_refused_without_a_length(small: Service, way: str) -> None:
    """A length that is not said is counted, and nothing is kept."""
    method, url = upload_way(small, way)
    response = small.client.request(method, url, content=pieces(), headers=AUTHORIZED)

    assert refused(response) == (413, "payload_too_large")
    assert not small.root.exists()


def upload_way(service: Service, way: str) -> tuple[str, str]:
    """The method and URL of one way to upload bytes."""
    if way == "post":
        return "POST", "/cdn/files/upload"
    if way == "put":
        return "PUT", initiate(service).json()["upload_url"]
    return "PUT", initiate(service, path=INITIATE_PARTS).json()["upload_url"].replace("?", "/1?")


def test_a_file_of_the_largest_size_is_kept(small: Service) -> None:
    """The limit is the largest size that is allowed."""
    initiated = initiate(small, "text/plain").json()
    put = small.client.put(initiated["upload_url"], content=bytes(MAX_BYTES))

    assert put.status_code == 200


@pytest.mark.parametrize(
    ("content_type", "file_name", "suffix"),
    [
        ("image/png", "x", ".png"),
        ("image/jpeg", "x.png", ".jpg"),
        ("IMAGE/JPG; q=1", "", ".jpg"),
        ("image/tiff", "", ".tiff"),
        ("application/octet-stream", "car.JPEG", ".jpg"),
        ("application/octet-stream", "car.webp", ".webp"),
        ("application/octet-stream", "../../etc/passwd", ".bin"),
        ("application/octet-stream", "", ".bin"),
        ("text/plain", "hello.txt", ".bin"),
        ("text/html", "x.png", ".bin"),
        ("image/svg+xml", "x.svg", ".bin"),
        ("image/heic", "x.heic", ".bin"),
    ],
)
def test_the_declared_type_names_the_file(
    shared: Service, content_type: str, file_name: str, suffix: str
) -> None:
    """An image's type is kept, or its file name's; all else is opaque."""
    body = {"content_type": content_type, "file_name": file_name}
    initiated = shared.client.post(INITIATE, json=body, headers=AUTHORIZED).json()

    assert initiated["file_url"].endswith(suffix)


def test_nothing_declared_is_opaque(shared: Service) -> None:
    """Both fields may be missing, and the body too."""
    initiated = shared.client.post(INITIATE, headers=AUTHORIZED).json()

    assert initiated["file_url"].endswith(".bin")


def test_a_declaration_that_does_not_fit_is_explained(shared: Service) -> None:
    """Its faults are reported as for any input."""
    response = shared.client.post(INITIATE, json={"file_name": 5}, headers=AUTHORIZED)

    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", "file_name"]


def test_a_text_is_kept_and_never_shown(service: Service) -> None:
    """What a browser could run is only ever downloaded."""
    initiated = initiate(service, "text/html").json()
    service.client.put(initiated["upload_url"], content=b"<script>alert(1)</script>")
    got = service.client.get(initiated["file_url"])

    assert got.content == b"<script>alert(1)</script>"
    assert got.headers["content-type"] == "application/octet-stream"
    assert got.headers["content-disposition"].startswith("attachment; ")
    assert got.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"<script>alert(1)</script>", "unsupported_image_format"),
        (b"%PDF-1.7", "unsupported_image_format"),
        (b"hello", "image_load_error"),
        (b"", "image_load_error"),
    ],
)
def test_a_file_declared_as_an_image_must_be_one(shared: Service, data: bytes, kind: str) -> None:
    """Bytes that are no image are refused at once, and the URL can still be used."""
    initiated = initiate(shared).json()
    response = shared.client.put(initiated["upload_url"], content=data)

    assert refused(response) == (422, kind)
    assert response.json()["detail"][0]["loc"] == ["body"]
    assert shared.client.put(initiated["upload_url"], content=picture()).status_code == 200


def test_an_image_under_another_images_name_is_kept(service: Service) -> None:
    """People rename files; decoders read the bytes."""
    initiated = initiate(service, "image/jpeg").json()

    assert service.client.put(initiated["upload_url"], content=picture("WEBP")).status_code == 200


@pytest.mark.parametrize("header", ["X_Fal_Object_Lifecycle", "X_Fal_Object_Lifecycle_Preference"])
@pytest.mark.parametrize(("wish", "expected_s"), [(7200, 7200.0), (None, math.inf)])
def test_a_file_lives_as_long_as_its_uploader_wishes(
    shared: Service, header: str, wish: int | None, expected_s: float
) -> None:
    """The lifecycle counts from the initiate on; null is for ever."""
    lifecycle = {header: json.dumps({"expiration_duration_seconds": wish})}
    url = initiate(shared, **lifecycle).json()["file_url"]
    lives_s = expiry_of(name_of(url)) - time.time()

    assert lives_s == expected_s or expected_s - 2 <= lives_s <= expected_s + 1


def test_a_direct_upload_has_a_wish_too(shared: Service) -> None:
    """Both ways of uploading know the header."""
    headers = AUTHORIZED | {"X-Fal-Object-Lifecycle": '{"expiration_duration_seconds": null}'}
    response = shared.client.post("/cdn/files/upload", content=b"x", headers=headers)

    assert expiry_of(name_of(response.json()["access_url"])) == math.inf


def test_a_wish_that_cannot_be_read_is_refused(shared: Service) -> None:
    """It is not dropped in silence."""
    response = initiate(shared, X_Fal_Object_Lifecycle="soon")

    assert refused(response) == (400, "bad_request")


def test_a_short_life_shortens_the_permission(shared: Service) -> None:
    """A file cannot arrive when its life is over."""
    lifecycle = {"X_Fal_Object_Lifecycle": '{"expiration_duration_seconds": 60}'}
    url = initiate(shared, **lifecycle).json()["upload_url"]
    expires = int(url.rpartition("ticket=")[2].split(".")[1], 16)

    assert expires - time.time() <= 60


def test_a_token_uploads(service: Service) -> None:
    """A token stands for the key until its time is over, and the bytes say what they are."""
    response = service.client.post(TOKEN, json={}, headers=AUTHORIZED)
    token = response.json()
    expires_at = datetime.fromisoformat(token["expires_at"])
    headers = {
        "Authorization": f"{token['token_type']} {token['token']}",
        "Content-Type": "text/html",
        "X-Fal-File-Name": "x.html",
    }
    url = service.client.post("/cdn/files/upload", content=picture(), headers=headers).json()

    assert token["base_url"] == "http://testserver/cdn"
    assert token["expires_at"].endswith("+00:00")
    assert timedelta(0) < expires_at - datetime.now(UTC) <= timedelta(seconds=900)
    assert set(url) == {"access_url"}
    assert service.client.get(url["access_url"]).headers["content-type"] == "image/png"


def test_a_token_is_no_key(service: Service) -> None:
    """It opens nothing but uploads."""
    token = service.client.post(TOKEN, json={}, headers=AUTHORIZED).json()["token"]
    response = service.client.post(INITIATE, headers={"Authorization": f"Bearer {token}"})

    assert refused(response) == (401, "unauthorized")


def test_browsers_may_upload(service: Service) -> None:
    """The preflight of a PUT to an upload URL is answered."""
    url = initiate(service).json()["upload_url"]
    asked = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "content-type",
    }
    response = service.client.options(url, headers=asked)

    assert response.status_code == 204
    assert "PUT" in response.headers["access-control-allow-methods"]
    assert response.headers["access-control-allow-headers"] == "content-type"
    assert response.headers["access-control-allow-origin"] == "*"


def test_urls_are_as_the_caller_sees_us(serve: Serve) -> None:
    """Behind a proxy, both URLs lead through it."""
    service = serve(ingress={"public_url": "https://florence.example/api/"})
    initiated = initiate(service).json()

    assert initiated["upload_url"].startswith("https://florence.example/api/cdn/upload/")
    assert initiated["file_url"].startswith("https://florence.example/api/cdn/files/")


def test_a_store_that_is_away_is_a_503(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client may try again with the same URL."""
    initiated = initiate(service).json()

    def fail(name: str, pieces: object) -> None:
        raise StoreUnavailable

    with monkeypatch.context() as outage:
        outage.setattr(service.files, "create", fail)
        response = service.client.put(initiated["upload_url"], content=picture())
    assert refused(response) == (503, "store_unavailable")
    assert service.client.put(initiated["upload_url"], content=picture()).status_code == 200


class InParts:
    """One client's way to upload in parts, with 100 bytes in each."""

    def __init__(self, way: str, service: Service, content_type: str = "text/plain") -> None:
        self.service = service
        if way == "javascript":
            initiated = initiate(service, content_type, INITIATE_PARTS).json()
            self.base, _, query = initiated["upload_url"].partition("?")
            self.query, self.url = f"?{query}", initiated["file_url"]
        else:
            headers = AUTHORIZED | {"Content-Type": content_type, "X-Fal-File-Name": "x"}
            created = service.client.post("/cdn/files/upload/multipart", headers=headers).json()
            self.url, self.query = created["access_url"], ""
            self.base = f"{self.url}/multipart/{created['uploadId']}"

    def put(self, number: int | str, data: bytes, **headers: str) -> Any:
        """Upload one part."""
        url = f"{self.base}/{number}{self.query}"
        return self.service.client.put(url, content=data, headers=headers)

    def complete(self, parts: list[Any]) -> Any:
        """Join what was uploaded."""
        url = f"{self.base}/complete{self.query}"
        return self.service.client.post(url, json={"parts": parts})


def part(number: int, data: bytes) -> dict[str, Any]:
    """A part as its uploader names it."""
    return {"partNumber": number, "etag": f'"{hashlib.sha256(data).hexdigest()}"'}


@pytest.fixture(params=["javascript", "python"])
def way(request: pytest.FixtureRequest) -> str:
    """Whose way it is."""
    return str(request.param)


@pytest.fixture
def in_parts(way: str, service: Service) -> InParts:
    """An upload that has begun."""
    return InParts(way, service)


def files_under(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if path.is_file())


def test_parts_become_one_file(in_parts: InParts) -> None:
    """Parts come in any order, are named in any order, and leave nothing but the file."""
    data = [b"a" * 100, b"b" * 100, b"c" * 7]
    others = set(files_under(in_parts.service.root))
    answers = {number: in_parts.put(number, data[number - 1]) for number in (3, 1, 2)}
    done = in_parts.complete([answers[number].json() for number in (2, 3, 1)])

    assert [answer.status_code for answer in answers.values()] == [200] * 3
    assert answers[3].json() == part(3, data[2])
    assert answers[3].headers["etag"] == part(3, data[2])["etag"]
    assert answers[3].headers["content-type"] == "application/json"
    assert (done.status_code, done.json()) == (200, {"access_url": in_parts.url})
    assert in_parts.service.client.get(in_parts.url).content == b"".join(data)
    assert len(set(files_under(in_parts.service.root)) - others) == 1


def test_large_parts_are_joined_in_pieces(
    in_parts: InParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part is not read whole."""
    monkeypatch.setattr(multipart, "CHUNK_BYTES", 7)
    data = bytes(range(100))
    in_parts.put(1, data)
    in_parts.complete([part(1, data)])

    assert in_parts.service.client.get(in_parts.url).content == data


def test_any_replica_takes_a_part(way: str, service: Service) -> None:
    """Nothing of an upload is kept in a process."""
    begun = InParts(way, service)
    begun.put(1, b"one")
    begun.service = build(service.root, store=service.store)
    begun.put(2, b"two")
    begun.service = build(service.root, store=service.store)
    done = begun.complete([part(1, b"one"), part(2, b"two")])

    assert done.status_code == 200
    assert service.client.get(begun.url).content == b"onetwo"


def test_a_part_can_be_repeated(in_parts: InParts) -> None:
    """A client that is not sure sends it again; another content is another part."""
    assert in_parts.put(1, b"draft").status_code == 200
    assert in_parts.put(1, b"final").status_code == 200
    assert in_parts.put(1, b"final").status_code == 200
    in_parts.complete([part(1, b"final")])

    assert in_parts.service.client.get(in_parts.url).content == b"final"


def test_completing_can_be_repeated(in_parts: InParts) -> None:
    """A client that did not hear the answer asks again."""
    in_parts.put(1, b"x")

    assert in_parts.complete([part(1, b"x")]).status_code == 200
    assert in_parts.complete([part(1, b"x")]).status_code == 200


def test_a_part_that_is_missing_is_named(in_parts: InParts) -> None:
    """What was not uploaded, or is another's, cannot be joined."""
    in_parts.put(1, b"x")
    response = in_parts.complete([part(1, b"x"), part(2, b"y")])

    assert refused(response) == (400, "bad_request")
    assert response.json()["detail"].startswith("Part 2 was not uploaded")
    assert in_parts.service.client.get(in_parts.url).status_code == 404


def test_a_part_named_twice_is_refused(in_parts: InParts) -> None:
    """Each part is joined once."""
    in_parts.put(1, b"x")
    response = in_parts.complete([part(1, b"x"), part(1, b"x")])

    assert refused(response) == (400, "bad_request")


@pytest.mark.parametrize(
    "wrong", [[], [{}], [{"partNumber": 0, "etag": "0" * 64}], [{"partNumber": 1, "etag": "x"}]]
)
def test_a_completion_that_does_not_fit_is_explained(in_parts: InParts, wrong: list[Any]) -> None:
    """Its faults are reported as for any input."""
    response = in_parts.complete(wrong)

    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"][:2] == ["body", "parts"]


@pytest.mark.parametrize("number", ["0", "x", "-1", "10001", "9" * 5000])
def test_a_part_that_is_no_number_is_not_found(in_parts: InParts, number: str) -> None:
    """Parts are numbered from 1."""
    assert refused(in_parts.put(number, b"x")) == (404, "not_found")


def test_a_part_beyond_the_largest_file_is_refused(in_parts: InParts) -> None:
    """The number of a part says where it begins, before a byte of it is read."""
    response = in_parts.put(5, b"x")  # 32 MiB are allowed, and four parts fill 40

    assert refused(response) == (413, "payload_too_large")


def test_a_part_may_fill_the_file(in_parts: InParts) -> None:
    """The last part ends where the largest file does, and none is longer than others."""
    too_long = {"Content-Length": str(2 * MIB + 1)}
    assert refused(in_parts.put(4, b"x", **too_long)) == (413, "payload_too_large")
    too_long = {"Content-Length": str(10 * MIB + 1)}
    assert refused(in_parts.put(1, b"x", **too_long)) == (413, "payload_too_large")


def test_parts_need_their_signature(in_parts: InParts) -> None:
    """No other caller can add to an upload, or end it."""
    in_parts.put(1, b"x")
    in_parts.base = in_parts.base.replace("-", "-f", 1)

    assert refused(in_parts.put(1, b"x")) == (403, "forbidden")
    assert refused(in_parts.complete([part(1, b"x")])) == (403, "forbidden")


def test_joined_parts_must_be_the_declared_image(way: str, service: Service) -> None:
    """The rule for whole files holds for joined ones."""
    begun = InParts(way, service, "image/png")
    begun.put(1, b"hello")

    assert refused(begun.complete([part(1, b"hello")])) == (422, "image_load_error")


@pytest.mark.slow
def test_an_object_store_takes_uploads(serve: Serve, bucket: str) -> None:
    """Whole or in parts, files go to the bucket and come from it."""
    service = serve(files={"root": f"s3://{bucket}/files"})
    initiated = initiate(service).json()
    first = service.client.put(initiated["upload_url"], content=picture())
    second = service.client.put(initiated["upload_url"], content=picture())
    begun = InParts("python", service)
    named = [begun.put(number, bytes([number]) * 100).json() for number in (2, 1)]

    assert (first.status_code, second.status_code) == (200, 403)
    assert service.client.get(initiated["file_url"]).content == picture()
    assert begun.complete(named).status_code == 200
    ranged = service.client.get(begun.url, headers={"Range": "bytes=99-100"})
    assert (ranged.status_code, ranged.content) == (206, b"\1\2")


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A service on a port of this machine."""
    files = {"root": str(tmp_path / "files"), "max_upload_bytes": 50 * MIB}
    app = build(tmp_path / "files", files=files).app
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=10)
    listener.close()


PRELUDE = """
import asyncio, io, json, os, sys
from pathlib import Path
import fal_client
from fal_client import client as fal
from PIL import Image
fal.REST_URL, fal.CDN_URL = sys.argv[1] + "/rest", sys.argv[1] + "/cdn"
image = Image.new("RGB", (4, 4), "red")
buffer = io.BytesIO()
image.save(buffer, "PNG")
png = buffer.getvalue()
Path("car.png").write_bytes(png)
Path("hello.txt").write_text("hello")
"""


def with_fal_client(address: str, folder: Path, script: str) -> Any:
    """What a program of a user prints, as JSON: a process of its own, as fal's client has."""
    command = [sys.executable, "-c", PRELUDE + script, address]
    environment = os.environ | {"FAL_KEY": KEY}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def download(url: str) -> tuple[bytes, str]:
    """The bytes at `url` and their type."""
    with urlopen(url) as response:
        return response.read(), response.headers["content-type"]


@pytest.mark.slow
@pytest.mark.parametrize("repository", ["fal_v3", "fal"])
def test_fals_python_client_uploads(address: str, tmp_path: Path, repository: str) -> None:
    """Bytes, files and images, by either of its two protocols."""
    script = f"""
way = dict(repository="{repository}", fallback_repository="{repository}")
lifecycle = fal_client.StorageSettings(expires_in="7d")
print(json.dumps([
    fal_client.upload(png, "image/png", **way),
    fal_client.upload_file("car.png", **way),
    fal_client.SyncClient().upload_image(image, "png", **way),
    fal_client.upload(png, "image/png", lifecycle=lifecycle, **way),
    fal_client.upload_file("hello.txt", **way),
]))
"""
    *images, text = with_fal_client(address, tmp_path, script)

    assert [download(url) for url in images] == [(picture(), "image/png")] * 4
    assert download(text) == (b"hello", "application/octet-stream")
    assert 604_000 < expiry_of(name_of(images[3])) - time.time() <= 604_801


@pytest.mark.slow
def test_fals_asynchronous_client_uploads(address: str, tmp_path: Path) -> None:
    """The same for callers that await."""
    script = """
async def upload_all():
    client = fal_client.AsyncClient()
    return [
        await client.upload(png, "image/png"),
        await client.upload_file("car.png"),
        await client.upload_image(image, "png"),
        await client.upload(png, "image/png", repository="fal"),
    ]
print(json.dumps(asyncio.run(upload_all())))
"""
    urls = with_fal_client(address, tmp_path, script)

    assert [download(url) for url in urls] == [(picture(), "image/png")] * 4


@pytest.mark.slow
def test_fals_python_client_uploads_in_parts(address: str, tmp_path: Path) -> None:
    """Files over its threshold come in parts, ten at a time."""
    script = """
fal.MULTIPART_THRESHOLD, fal.MULTIPART_CHUNK_SIZE = 100, 160
data = bytes(range(256)) * 3
Path("data.bin").write_bytes(data)
print(json.dumps([
    fal_client.upload(data, "text/plain"),
    fal_client.upload_file("data.bin"),
    asyncio.run(fal_client.AsyncClient().upload(data, "text/plain")),
    asyncio.run(fal_client.AsyncClient().upload_file("data.bin")),
]))
"""
    urls = with_fal_client(address, tmp_path, script)

    assert [download(url)[0] for url in urls] == [bytes(range(256)) * 3] * 4


@pytest.mark.slow
def test_fals_python_client_hears_why_a_file_is_refused(address: str, tmp_path: Path) -> None:
    """The reason reaches the caller, though the body was never read."""
    script = """
try:
    fal_client.upload(bytes(60_000_000), "image/png")
except fal_client.FalClientHTTPError as error:
    print(json.dumps([error.status_code, error.error_type, error.message]))
"""
    error = with_fal_client(address, tmp_path, script)

    assert error == [413, "payload_too_large", f"At most {50 * MIB} bytes can be stored here."]
