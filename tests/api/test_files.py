"""Downloads, whole and in ranges, of files that are there and of pending ones."""

import asyncio
import math
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest

from deployments.api import files
from deployments.api.files import MARGIN_S, PendingFiles
from deployments.errors import StoreUnavailable
from deployments.files import pending_pictures as pending
from deployments.files.base import StoredFile, new_name
from deployments.files.pending_pictures import pending_name
from deployments.settings import QueueSettings
from tests.jobs.memory import MemoryStore

from .http_exchange import HttpExchange
from .service import AwayStore, Service, build

DATA = bytes(range(256)) * 4


@pytest.fixture
def service(shared: Service) -> Service:
    """Every file has a name of its own."""
    return shared


@pytest.fixture
def picture(service: Service) -> StoredFile:
    """A picture in the store."""
    return service.files.put(DATA, "image/png")


def get(service: Service, file: StoredFile, **headers: str) -> Any:
    """A download."""
    return service.client.get(f"/cdn/files/{file.name}", headers=headers)


def test_a_picture_is_served_without_a_key(service: Service, picture: StoredFile) -> None:
    """A picture has its type and length, may be cached until it expires, and is only a picture."""
    response = get(service, picture)

    assert (response.status_code, response.content) == (200, DATA)
    assert response.headers["content-type"] == "image/png"
    assert response.headers["content-length"] == "1024"
    assert response.headers["content-disposition"] == f'inline; filename="{picture.name}"'
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["cache-control"] in (
        "public, max-age=3600, immutable",
        "public, max-age=3599, immutable",
    )


@pytest.mark.parametrize("content_type", ["text/html", "image/svg+xml", "application/json"])
def test_only_pictures_are_shown_inline(service: Service, content_type: str) -> None:
    """What a browser could run is only ever downloaded."""
    response = get(service, service.files.put(b"<script>", content_type))

    assert response.headers["content-disposition"].startswith("attachment; ")
    assert response.headers["content-type"] == "application/octet-stream"


def test_head_sends_headers_alone(service: Service, picture: StoredFile) -> None:
    """HEAD has the headers of GET and no body."""
    response = service.client.head(f"/cdn/files/{picture.name}")

    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == "1024"
    assert response.headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=1000-", 1000, 1024),
        ("bytes=-24", 1000, 1024),
        ("bytes=1000-9999", 1000, 1024),
        ("bytes=-9999", 0, 1024),
        (" bytes=5-5 ", 5, 6),
    ],
)
def test_a_range_is_served(
    service: Service, picture: StoredFile, asked: str, start: int, stop: int
) -> None:
    """A single range is a 206 with these bytes and their position."""
    response = get(service, picture, Range=asked)

    assert (response.status_code, response.content) == (206, DATA[start:stop])
    assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/1024"
    assert response.headers["content-length"] == str(stop - start)


@pytest.mark.parametrize("asked", ["bytes=1024-", "bytes=9999-99999", "bytes=-0"])
def test_a_range_outside_is_refused(service: Service, picture: StoredFile, asked: str) -> None:
    """A range that the file does not have is a 416 with its size."""
    response = get(service, picture, Range=asked)

    assert response.status_code == 416
    assert response.headers["content-range"] == "bytes */1024"
    assert response.json()["error_type"] == "range_not_satisfiable"


@pytest.mark.parametrize(
    "asked",
    ["bytes=-", "bytes=9-3", "bytes=0-1,5-6", "items=0-1", "bytes=a-b", "bytes=" + "9" * 99],
)
def test_what_is_no_single_range_is_ignored(
    service: Service, picture: StoredFile, asked: str
) -> None:
    """The whole file answers a range that is not understood."""
    response = get(service, picture, Range=asked)

    assert (response.status_code, response.content) == (200, DATA)


@pytest.mark.parametrize(("same", "status"), [(True, 206), (False, 200)])
def test_range_of_another_version_is_ignored(
    service: Service, picture: StoredFile, same: bool, status: int
) -> None:
    """If-Range must name this very file."""
    tag = get(service, picture).headers["etag"] if same else '"other"'

    response = service.client.get(
        f"/cdn/files/{picture.name}", headers={"Range": "bytes=0-1", "If-Range": tag}
    )
    assert response.status_code == status


def test_large_files_come_in_pieces(
    service: Service, picture: StoredFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of many pieces arrives whole, and so does a range across them."""
    monkeypatch.setattr(files, "CHUNK_BYTES", 100)

    assert get(service, picture).content == DATA
    assert get(service, picture, Range="bytes=50-950").content == DATA[50:951]


def test_empty_files_are_served(service: Service) -> None:
    """A file of no bytes is a 200, and has no range."""
    file = service.files.put(b"", "image/png")

    assert (get(service, file).status_code, get(service, file).content) == (200, b"")
    assert get(service, file, Range="bytes=0-").status_code == 416


@pytest.mark.parametrize(
    "name", ["nope", "0" * 32 + "-ffffffffff.png", "..%2f..%2fetc%2fpasswd", "%00", "é"]
)
def test_unknown_names_are_not_found(service: Service, name: str) -> None:
    """What is not in the store is a 404 in JSON."""
    response = service.client.get(f"/cdn/files/{name}")

    assert (response.status_code, response.json()["error_type"]) == (404, "not_found")


def test_expired_files_are_not_found(service: Service) -> None:
    """A file beyond its age is as if it had never been."""
    old = service.files.put(DATA, "image/png", -1.0)

    assert get(service, old).status_code == 404
    assert service.client.head(f"/cdn/files/{old.name}").status_code == 404


def test_files_that_never_expire_may_be_cached_for_a_year(service: Service) -> None:
    """A cache gets no time that it cannot count."""
    eternal = service.files.put(DATA, "image/png", math.inf)

    assert get(service, eternal).headers["cache-control"] == "public, max-age=31536000, immutable"


def test_a_store_that_is_away_is_a_503(
    service: Service, picture: StoredFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that cannot be reached now is not said to be gone."""

    def fail(name: str) -> StoredFile:
        raise StoreUnavailable

    monkeypatch.setattr(service.files, "find", fail)
    response = get(service, picture)

    assert (response.status_code, response.json()["error_type"]) == (503, "store_unavailable")


def test_file_that_vanishes_is_not_found(
    service: Service, picture: StoredFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is pruned after it was found and before it was read is a 404."""
    service.files.remove(picture.name)
    monkeypatch.setattr(service.files, "find", lambda name: picture)

    assert get(service, picture).status_code == 404


def test_other_methods_are_refused(service: Service, picture: StoredFile) -> None:
    """Files are read-only here."""
    response = service.client.put(f"/cdn/files/{picture.name}", content=b"x")

    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


def pending_file(service: Service, ttl_s: float = 60.0) -> str:
    """The name of a pending file, as the answer of a run has it."""
    service.post({"image_url": "u"})
    return pending_name(service.runs[-1].picture_key, "image/jpeg", ttl_s)


async def download(service: Service, name: str) -> tuple[int, dict[str, str]]:
    """The status and headers of a download, however long that takes."""
    async with HttpExchange(service.app, f"/cdn/files/{name}") as exchange:
        return await exchange.start()


def test_a_pending_file_is_waited_for(service: Service) -> None:
    """A download that comes before its file gets it as soon as it is there."""
    name = pending_file(service)

    async def scenario() -> tuple[int, dict[str, str]]:
        downloading = asyncio.create_task(download(service, name))
        await asyncio.sleep(0.02)
        assert not downloading.done()
        await asyncio.to_thread(service.files.keep, name, DATA)
        return await downloading

    status, headers = asyncio.run(scenario())
    assert (status, headers["content-length"]) == (200, "1024")


def test_any_replica_waits(service: Service) -> None:
    """The replica that is asked did not name the file: they share only their stores."""
    name = pending_file(service)
    other = build(service.root, store=service.store)

    async def scenario() -> tuple[int, dict[str, str]]:
        downloading = asyncio.create_task(download(other, name))
        await asyncio.sleep(0.02)
        await asyncio.to_thread(service.files.keep, name, DATA)
        return await downloading

    assert asyncio.run(scenario())[0] == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_pending_file_that_is_lost_is_not_found(
    service: Service, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """After a while the download is refused."""
    monkeypatch.setattr(pending, "WAIT_S", 0.05)
    name = pending_file(service)
    began = time.monotonic()

    assert service.client.request(method, f"/cdn/files/{name}").status_code == 404
    assert time.monotonic() - began >= 0.05


@pytest.mark.parametrize("kind", ["made up", "made with another key", "expired"])
def test_what_is_not_pending_is_not_waited_for(service: Service, kind: str) -> None:
    """A name that is only well formed gets its 404 at once."""
    names = {
        "made up": new_name("image/jpeg", 60.0),
        "made with another key": pending_name("key", "image/jpeg", 60.0),
        "expired": pending_file(service, ttl_s=-1.0),
    }
    began = time.monotonic()

    assert service.client.get(f"/cdn/files/{names[kind]}").status_code == 404
    assert time.monotonic() - began < pending.WAIT_S / 2


def test_a_bounded_number_of_downloads_waits(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more is refused at once; a caller that disconnects makes room."""
    monkeypatch.setattr(files, "MAX_WAITING", 3)
    name = pending_file(service)

    async def scenario() -> None:
        async with AsyncExitStack() as waiting:
            for _ in range(3):
                exchange = HttpExchange(service.app, f"/cdn/files/{name}")
                await waiting.enter_async_context(exchange)
            await asyncio.sleep(0.1)
            assert (await download(service, name))[0] == 404
            exchange.disconnect()
            await exchange.task
            downloading = asyncio.create_task(download(service, name))
            await asyncio.sleep(0.02)
            assert not downloading.done()
            await asyncio.to_thread(service.files.keep, name, DATA)
            assert (await downloading)[0] == 200

    asyncio.run(scenario())


pytestmark = pytest.mark.anyio

LONGEST_RUN_S = 120.0


@pytest.fixture
def store() -> MemoryStore:
    """Where the secret is."""
    return MemoryStore(QueueSettings())


async def named(store: MemoryStore) -> str:
    """A pending file that one replica has named."""
    return pending_name(await PendingFiles(store, LONGEST_RUN_S).key(), "image/jpeg", 3600.0)


async def test_a_pending_file_is_known_to_any_replica(store: MemoryStore) -> None:
    """They share a secret; a name that was made up is known to none."""
    other = PendingFiles(store, LONGEST_RUN_S)

    assert await other.includes(await named(store))
    assert not await other.includes(new_name("image/jpeg", 3600.0))


async def test_another_service_has_another_secret(store: MemoryStore) -> None:
    """Its pending files are not ours."""
    assert not await PendingFiles(store, LONGEST_RUN_S).includes(
        await named(MemoryStore(QueueSettings()))
    )


@pytest.mark.parametrize("phase", [0.0, 0.5, 0.999])
async def test_a_key_outlives_the_run_that_got_it(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, phase: float
) -> None:
    """Whenever in its period it was made, it holds until the run must be over, but not for long."""
    period_s = LONGEST_RUN_S + MARGIN_S
    began = (time.time() // period_s + phase) * period_s
    monkeypatch.setattr(time, "time", lambda: began)
    name = await named(store)
    for later_s, is_held in ((0.0, True), (period_s, True), (2 * period_s, False)):
        monkeypatch.setattr(time, "time", lambda at=began + later_s: at)
        assert await PendingFiles(store, LONGEST_RUN_S).includes(name) == is_held


async def test_without_the_store_nothing_is_pending() -> None:
    """With it, names can be made and known again."""
    store = AwayStore()
    pending_files = PendingFiles(store, LONGEST_RUN_S)
    assert await pending_files.key() == ""
    assert not await pending_files.includes(new_name("image/jpeg", 60.0))

    store.is_away = False
    assert await pending_files.includes(pending_name(await pending_files.key(), "image/jpeg", 60.0))


async def test_a_store_that_hangs_holds_no_run_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run waits for the secret a moment only."""

    class Hanging(MemoryStore):
        async def secret(self, name: str, fresh: bytes) -> bytes:
            await asyncio.Event().wait()
            return fresh

    monkeypatch.setattr(files, "STORE_TIMEOUT_S", 0.05)
    async with asyncio.timeout(5.0):
        assert await PendingFiles(Hanging(QueueSettings()), LONGEST_RUN_S).key() == ""
