"""Our own files by their URLs."""

import asyncio

import pytest

from deployments.errors import FileDownloadError, FileTooLarge
from deployments.files import pending_pictures as pending
from deployments.files.base import StoredFile, new_name
from deployments.files.local import LocalFileStore
from deployments.files.own_urls import own_name, read_own

pytestmark = pytest.mark.anyio

NAME = "0123456789abcdef0123456789abcdef-00ffffffff.png"
BASES = ("https://Florence.example", "http://10.0.0.1:8000/florence/", "")


@pytest.mark.parametrize(
    "url",
    [
        f"https://florence.example/cdn/files/{NAME}",
        f"https://FLORENCE.example:443/cdn/files/{NAME}",
        f"HTTPS://florence.example/cdn/files/{NAME}?x=1#y",
        f"http://10.0.0.1:8000/florence/cdn/files/{NAME}",
    ],
)
def test_our_urls_are_known(url: str) -> None:
    """A file below one of the addresses of this service is ours."""
    assert own_name(url, BASES) == NAME


@pytest.mark.parametrize(
    "url",
    [
        "",
        "cdn/files",
        NAME,
        f"/cdn/files/{NAME}",
        f"https://other.example/cdn/files/{NAME}",
        f"http://florence.example/cdn/files/{NAME}",
        f"https://florence.example:8443/cdn/files/{NAME}",
        f"https://florence.example/x/cdn/files/{NAME}",
        f"https://florence.example/cdn/files/{NAME}/",
        f"https://florence.example/cdn/files/x{NAME}",
        "https://florence.example/cdn/files/car.jpg",
        f"http://10.0.0.1:8000/cdn/files/{NAME}",
        f"ftp://florence.example/cdn/files/{NAME}",
        f"https://florence.example:port/cdn/files/{NAME}",
        f"https://[florence.example/cdn/files/{NAME}",
        f"https:///cdn/files/{NAME}",
    ],
)
def test_other_urls_are_not_ours(url: str) -> None:
    """Another host, port, path or name is somebody else's, and fetched like any other."""
    assert own_name(url, BASES) is None


async def test_a_file_is_read(store: LocalFileStore) -> None:
    """The bytes come as they were put."""
    file = store.put(b"0123456789", "image/png")

    assert await read_own(store, file.name, 10) == b"0123456789"


async def test_a_picture_that_is_being_drawn_is_waited_for(store: LocalFileStore) -> None:
    """The picture of one run may be the image of the next, however soon that comes."""
    name = new_name("image/jpeg", 60.0)
    reading = asyncio.create_task(read_own(store, name, 10))
    await asyncio.sleep(0.05)
    store.keep(name, b"0123456789")

    assert await reading == b"0123456789"


async def test_a_large_file_is_refused(store: LocalFileStore) -> None:
    """Own files have the same limit as others."""
    file = store.put(b"0123456789", "image/png")

    with pytest.raises(FileTooLarge) as caught:
        await read_own(store, file.name, 9)
    assert caught.value.ctx == {"max_size": 9}


@pytest.mark.parametrize("ttl_s", [-1.0, 60.0])
async def test_a_file_that_is_gone_failed_to_download(
    store: LocalFileStore, monkeypatch: pytest.MonkeyPatch, ttl_s: float
) -> None:
    """A file that has expired, or never was, is no failure of the service."""
    monkeypatch.setattr(pending, "WAIT_S", 0.1)
    with pytest.raises(FileDownloadError, match="there is no file of this name, or it has expired"):
        await read_own(store, new_name("image/png", ttl_s), 10)


async def test_a_file_may_go_while_it_is_read(
    store: LocalFileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is removed between its look-up and its reading is gone as well."""
    name = new_name("image/png", 60.0)
    monkeypatch.setattr(store, "find", lambda name: StoredFile(name, 1))

    with pytest.raises(FileDownloadError):
        await read_own(store, name, 10)
