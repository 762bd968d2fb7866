"""Takes the pictures of the page in the documentation: `make screenshots`."""

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from tests.browser.conftest import ARGUMENTS, MISSING, NAME, WAIT_MS
from tests.browser.service import KEY, WholeService

FOLDER = Path(__file__).parents[2] / "docs" / "images"


def shoot(browser: Browser, url: str, name: str, width: int, height: int, scheme: str) -> None:
    """One picture: objects and outlines in the sample of shapes."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(f"{url}/#key={KEY}")
    page.click("[data-sample=shapes]")
    page.check("#task-detailed-caption")
    page.click("#run")
    page.locator(".card .timing").nth(1).wait_for()
    page.wait_for_timeout(300)
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=FOLDER / f"{name}.png")
    context.close()


def main() -> None:
    """Write every picture."""
    FOLDER.mkdir(exist_ok=True)
    found = shutil.which(NAME)
    assert found, MISSING
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        service = WholeService(Path(folder))
        browser = playwright.chromium.launch(executable_path=found, args=[*ARGUMENTS])
        shoot(browser, service.url, "playground", 1440, 860, "light")
        shoot(browser, service.url, "playground-dark", 1440, 860, "dark")
        shoot(browser, service.url, "playground-phone", 360, 740, "light")
        browser.close()
        service.stop()


if __name__ == "__main__":
    main()
