"""fal's own Python client, unmodified, over https with a private authority."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from deployments.demo.scoring import match_boxes
from deployments.local.state import StateFolder
from deployments.local.tls import certificates
from tests.acceptance.caller import Caller, scene, truth, uri
from tests.acceptance.client_scripts import move, run_script
from tests.acceptance.origin import Origin
from tests.acceptance.receiver import Receiver
from tests.acceptance.tls_proxy import TlsProxy

NEWEST, OLDER = "1.0.3", "0.10.0"  # the older one finds the queue by its host name alone
VERSIONS = (NEWEST, OLDER)
ROOT = Path(__file__).parents[2]
CACHE = ROOT / "out" / "clients"
INSTALL_S = 180
CALLS = (
    "run", "subscribe", "submit", "iter_events", "by_id", "cancel", "stream", "encode_file",
    "upload", "errors",
)  # fmt: skip

Printed = dict[str, list[Any]]
Call = Callable[[str], list[Any]]
Check = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def printed(
    caller: Caller,
    front: TlsProxy,
    state: StateFolder,
    origin: Origin,
    receiver: Receiver,
    image_file: Path,
) -> Iterator[dict[tuple[str, str], "Future[Printed]"]]:
    """What each call of each client printed; the clients run at the same time."""
    host = f"localhost:{front.port}"
    environment = {
        "SSL_CERT_FILE": str(certificates(state.tls).authority),
        "FAL_KEY": caller.key,
        "BASE_URL": f"https://{host}",
        "IMAGE_URL": f"{origin.url}/scene.png",
        "SEVERAL_URL": uri(scene(3).image),
        "LATE_URL": f"{origin.url}/late.png",
        "HANGING_URL": f"{origin.url}/hangs",
        "IMAGE_FILE": str(image_file),
    }

    places = {version: hosts(version, host) for version in VERSIONS}

    def run(version: str, kind: str) -> Printed:
        webhook = {"WEBHOOK_URL": receiver.url(f"/python/{version}/{kind}")}
        command = [sys.executable, "-m", f"tests.clients.{kind}_calls", *CALLS]
        return by_call(run_script(command, ROOT, environment | places[version] | webhook))

    with ThreadPoolExecutor(4) as threads:
        yield {
            (version, kind): threads.submit(run, version, kind)
            for version in VERSIONS
            for kind in ("sync", "async")
        }


def by_call(values: Iterable[Any]) -> Printed:
    """What was printed after the name of each call."""
    found: Printed = {}
    for value in values:
        if isinstance(value, dict) and value.keys() == {"call"}:
            current = found[value["call"]] = []
        else:
            current.append(value)
    return found


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """Which client."""
    return str(request.param)


@pytest.fixture(scope="module", params=["sync", "async"])
def call(
    request: pytest.FixtureRequest,
    version: str,
    printed: dict[tuple[str, str], "Future[Printed]"],
) -> Call:
    """What one call of a client printed; the name of the call is its argument."""

    def values(name: str) -> list[Any]:
        found = printed[version, request.param].result()[name]
        assert not any(isinstance(each, dict) and "failed" in each for each in found), found
        return found

    return values


def hosts(version: str, host: str) -> dict[str, str]:
    """Where a client of this version looks for the service, and where it is itself."""
    if version == NEWEST:
        return {"FAL_RUN_HOST": f"{host}/run", "FAL_QUEUE_RUN_HOST": f"{host}/queue"}
    return {"FAL_RUN_HOST": host, "PYTHONPATH": str(installed(version))}


def installed(version: str) -> Path:
    """The folder of another client version; other packages are shared."""
    folder = CACHE / f"fal-client@{version}"
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        fresh = Path(temporary) / "fresh"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        wanted = ["--target", str(fresh), f"fal-client=={version}"]
        subprocess.run([*pip, *wanted], check=True, timeout=INSTALL_S)
        move(fresh, folder)
    return folder


@pytest.fixture
def check(caller: Caller, front: TlsProxy, version: str) -> Check:
    """Checks that the boxes are those of the scene, and that the picture is where it should be."""
    names = ("localhost",) if version == NEWEST else ("localhost", "queue.localhost")

    def checked(output: dict[str, Any]) -> None:
        pairs = match_boxes(truth(scene(0)), output["results"]["bboxes"])
        url = urlsplit(output["image"]["url"])
        picture = caller.http.get(caller.url + url.path, headers={"Host": url.netloc})

        assert min(pair.iou for pair in pairs) >= 0.5
        assert (url.scheme, url.port) == ("https", front.port)
        assert url.hostname in names
        assert picture.headers["content-type"] == output["image"]["content_type"]

    return checked


def test_run(call: Call, check: Check) -> None:
    """A run gives the boxes, and URLs that begin with https."""
    [output] = call("run")
    check(output)


def test_subscribe(call: Call, check: Check) -> None:
    """fal's example prints status updates, then the boxes."""
    *heard, output = call("subscribe")
    updates = [each for each in heard if isinstance(each, dict)]
    order = ["Queued", "InProgress", "Completed"]
    places = [order.index(update["is"]) for update in updates]

    check(output)
    assert places == sorted(places)
    assert {updates[-2]["is"], updates[-1]["is"]} == {"InProgress", "Completed"}
    assert {log["level"] for log in updates[-1]["logs"]} == {"INFO"}
    assert any("Generated" in log["message"] for log in updates[-1]["logs"])


def test_submit_with_a_webhook(
    call: Call, check: Check, receiver: Receiver, request: Any, version: str
) -> None:
    """A handle waits for the result, which the webhook has too."""
    request_id, output = call("submit")
    kind = request.node.callspec.params["call"]
    [delivery] = receiver.deliveries(f"/python/{version}/{kind}")

    check(output)
    assert delivery.message["request_id"] == request_id
    assert delivery.message["payload"] == output


def test_iter_events(call: Call) -> None:
    """The events end with the completed one, which has the log and what it took."""
    *_, last = call("iter_events")

    assert last["is"] == "Completed"
    assert last["logs"]
    assert 0 < last["metrics"]["inference_time"] < 60
    assert last.get("error") is None


def test_status_and_result_by_id(call: Call, check: Check) -> None:
    """The id alone is enough."""
    output, status = call("by_id")

    check(output)
    assert status["is"] == "Completed"


def test_cancel(call: Call, version: str) -> None:
    """A request that is cancelled ends as such; one that has ended cannot be."""
    status, result, again = call("cancel")

    assert status["is"] == "Completed"
    if version == NEWEST:
        assert status["error_type"] == "client_cancelled"
    assert (result["status"], result["body"]["error_type"]) == (499, "client_cancelled")
    assert (again["status"], again["body"]) == (400, {"status": "ALREADY_COMPLETED"})


def test_stream(call: Call) -> None:
    """Each event has more boxes than the one before; the last is the whole output of a run."""
    *events, run, refusal = call("stream")
    counts = [len(event["results"]["bboxes"]) for event in events]

    assert counts == sorted(set(counts))
    assert len(counts) >= 2
    assert counts[-1] == len(scene(3).objects) == 3
    assert [event["image"] for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1]["results"] == run["results"]
    assert set(events[-1]["image"]) == set(run["image"])
    assert "text/event-stream" in refusal  # the client looks no further


def test_encode_file(call: Call, check: Check) -> None:
    """A file may travel in the request."""
    [output] = call("encode_file")
    check(output)


def test_upload(call: Call, check: Check) -> None:
    """A file that was uploaded is as good as any other URL."""
    url, output = call("upload")

    assert url.startswith("https://localhost:")
    check(output)


def test_errors(call: Call) -> None:
    """The client raises the service's error."""
    run, queued, status, cancel, stranger = call("errors")

    for error in (run, queued):
        assert error["status"] == 422
        assert [fault["type"] for fault in error["message"]] == ["image_load_error"]
    for error in (status, cancel):
        assert (error["status"], error["body"]["status"]) == (404, "NOT_FOUND")
    assert (stranger["status"], stranger["error_type"]) == (401, "unauthorized")
    assert all(error["request_id"] for error in (run, queued, status, cancel, stranger))
