"""One browser and one service for a module's tests, and a page that is open on it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.service import KEY, WholeService

NAME = "chromium"
MISSING = "install Debian's browser: apt-get install --no-install-recommends chromium"
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WAIT_MS = 30_000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeService]:
    """The service with the demo checkpoint."""
    service = WholeService(tmp_path_factory.mktemp("service"))
    yield service
    service.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium, which finds nothing but loopback."""
    found = shutil.which(NAME)
    assert found, MISSING
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=[*ARGUMENTS])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, whole: WholeService) -> Iterator[Page]:
    """The page with the key, as `florence serve` links to it.

    No request leaves the service, and no script fails.
    """
    context = browser.new_context(viewport={"width": 1360, "height": 860})
    opened = context.new_page()
    opened.set_default_timeout(WAIT_MS)
    requests: list[str] = []
    errors: list[str] = []
    opened.on("request", lambda request: requests.append(request.url))
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(f"{whole.url}/#key={KEY}")
    yield opened
    context.close()
    assert errors == []
    strangers = [url for url in requests if not url.startswith((whole.url, "blob:", "data:"))]
    assert strangers == []


def picture(folder: Path, data: bytes, name: str = "photo.jpg") -> Path:
    """A file that the person chooses."""
    file = folder / name
    file.write_bytes(data)
    return file
