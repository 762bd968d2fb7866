"""fal's own server proxy before the service, so that a page needs no key."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.demo.scoring import match_boxes
from tests.acceptance.caller import Caller, scene, truth
from tests.acceptance.client_scripts import NEWEST, SERVER_PROXY, Node, Scripts, installed
from tests.acceptance.origin import Origin

AHEAD: list[tuple[str, dict[str, str]]] = [
    ("subscribe.mjs", {}),
    ("follow.mjs", {"MODE": "streaming"}),
    ("storage.mjs", {}),
    ("files.mjs", {}),
    ("run.mjs", {}),
]


@pytest.fixture(scope="module")
def page(
    caller: Caller, origin: Origin, image_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scripts]:
    """Runs a script as a page does: without a key, through an application's server."""
    node = Node(tmp_path_factory.mktemp("page"), installed(NEWEST, SERVER_PROXY))
    server = {"BASE_URL": caller.url, "KEY": caller.key}
    with node.running("server_proxy.mjs", server) as url:
        environment = {
            "WAY": "serverProxy",
            "BASE_URL": caller.url,
            "PROXY_URL": url,
            "IMAGE_URL": f"{origin.url}/scene.png",
            "LATE_URL": f"{origin.url}/late.png",
            "IMAGE_FILE": str(image_file),
        }
        scripts = Scripts(node, environment, AHEAD)
        yield scripts
        scripts.close()


def check(output: dict[str, Any]) -> None:
    """The boxes are those of the scene."""
    pairs = match_boxes(truth(scene(0)), output["results"]["bboxes"])
    assert min(pair.iou for pair in pairs) >= 0.5


def test_subscribe(page: Scripts) -> None:
    """fal's published example works without the key."""
    *_, data, request_id = page("subscribe.mjs")

    check(data)
    assert len(request_id) == 36


def test_subscribe_by_streaming(page: Scripts) -> None:
    """Events pass through the proxy as they happen."""
    *_, last = page("follow.mjs", MODE="streaming")

    check(last["data"])
    assert last["updates"][-1]["status"] == "COMPLETED"


def test_upload(page: Scripts, caller: Caller) -> None:
    """The proxy asks for a place, where the page itself puts the file."""
    [url] = page("storage.mjs")

    assert caller.http.get(url).text == "Hello, World!"


def test_files_as_input(page: Scripts) -> None:
    """A file of the page is uploaded and found."""
    for answer in page("files.mjs"):
        check(answer["data"])


def test_run_and_stream(page: Scripts) -> None:
    """The synchronous run, and its stream."""
    run, stream = page("run.mjs")

    check(run["data"])
    check(stream["done"])
