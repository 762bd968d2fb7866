"""fal's own JavaScript client, unmodified: its published examples, and what they leave out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.demo.scoring import match_boxes
from deployments.local.config import compose
from deployments.local.state import StateFolder
from deployments.local.tls import certificates
from tests.acceptance.caller import Caller, scene, truth, uri
from tests.acceptance.client_scripts import NEWEST, OLDEST, Node, Scripts, installed
from tests.acceptance.origin import Origin
from tests.acceptance.receiver import Receiver
from tests.acceptance.tls_proxy import TlsProxy

WAYS = [
    (NEWEST, "proxyUrl"),
    (NEWEST, "requestMiddleware"),
    (NEWEST, "page"),
    (OLDEST, "requestMiddleware"),
    (OLDEST, "page"),
]
STATUSES = ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]

AHEAD: list[tuple[str, dict[str, str]]] = [  # first those that wait for a late image
    ("subscribe.mjs", {}),
    ("follow.mjs", {"MODE": "polling"}),
    ("follow.mjs", {"MODE": "streaming"}),
    ("queue.mjs", {}),
    ("storage.mjs", {}),
    ("files.mjs", {}),
    ("run.mjs", {}),
    ("stream.mjs", {}),
    ("errors.mjs", {}),
    ("unauthorized.mjs", {"KEY": "wrong"}),
]


@pytest.fixture(scope="module")
def https(front: TlsProxy, state: StateFolder) -> dict[str, str]:
    """The service behind TLS, with an authority that Node must be told to trust."""
    return {
        "BASE_URL": f"https://localhost:{front.port}",
        "NODE_EXTRA_CA_CERTS": str(certificates(state.tls).authority),
    }


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: " by ".join(way))
def script(
    request: pytest.FixtureRequest,
    caller: Caller,
    https: dict[str, str],
    origin: Origin,
    receiver: Receiver,
    image_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scripts]:
    """Runs a script with one version of the client, set up in one way; gives what it printed."""
    version, way = request.param
    node = Node(tmp_path_factory.mktemp("client"), installed(version))
    environment = {
        "WAY": way,
        "BASE_URL": caller.url,
        "KEY": caller.key,
        "IMAGE_URL": f"{origin.url}/scene.png",
        "SEVERAL_URL": uri(scene(3).image),
        "IMAGE_FILE": str(image_file),
        "HANGING_URL": f"{origin.url}/hangs",
        "WEBHOOK_URL": receiver.url(f"/javascript/{version}/{way}"),
        "LATE_URL": f"{origin.url}/late.png",
        "NUM_OTHERS": str(2 * compose({}, {}).settings.queue.max_running),
    }
    scripts = Scripts(node, environment, [("subscribe.mjs", https), *AHEAD])
    yield scripts
    scripts.close()


def check(output: dict[str, Any]) -> None:
    """The boxes are those of the scene."""
    pairs = match_boxes(truth(scene(0)), output["results"]["bboxes"])
    assert min(pair.iou for pair in pairs) >= 0.5


def is_id(value: Any) -> bool:
    """Whether it can be a request's id."""
    return isinstance(value, str) and len(value) == 36


def test_published_subscribe(script: Scripts) -> None:
    """fal's example prints the log while it waits, then the boxes and the request id."""
    *messages, data, request_id = script("subscribe.mjs")

    check(data)
    assert is_id(request_id)
    assert all(isinstance(message, str) for message in messages)


def test_published_subscribe_with_a_private_authority(
    script: Scripts, https: dict[str, str]
) -> None:
    """The same over https, with the authority in NODE_EXTRA_CA_CERTS."""
    *_, data, _ = script("subscribe.mjs", **https)

    check(data)
    assert data["image"]["url"].startswith(https["BASE_URL"])


def test_published_queue(
    script: Scripts, caller: Caller, receiver: Receiver, request: pytest.FixtureRequest
) -> None:
    """fal's examples submit, ask for the status and fetch the result; the webhook is called."""
    request_id, status, data, result_id = script("queue.mjs")
    [version, way] = request.node.callspec.params["script"]
    [delivery] = receiver.deliveries(f"/javascript/{version}/{way}")

    check(data)
    assert is_id(request_id)
    assert request_id == result_id == status["request_id"] == delivery.message["request_id"]
    assert status["status"] == "COMPLETED"
    assert any("Generated" in log["message"] for log in status["logs"])
    assert set(status["logs"][0]) == {"message", "timestamp", "level", "source"}
    assert 0 < status["metrics"]["inference_time"] < 60
    assert delivery.message["payload"] == data


def test_published_upload(script: Scripts, caller: Caller) -> None:
    """fal's example gives a URL; the file there is what was uploaded, and nothing to render."""
    [url] = script("storage.mjs")
    file = caller.http.get(url)

    assert (file.status_code, file.text) == (200, "Hello, World!")
    assert file.headers["x-content-type-options"] == "nosniff"
    assert file.headers["content-disposition"].startswith("attachment")


def test_files_as_input(script: Scripts) -> None:
    """A Blob or a File as image_url is uploaded by the client itself, and found by us."""
    answers = script("files.mjs")

    assert [answer["kind"] for answer in answers] == ["File", "Blob"]
    for answer in answers:
        check(answer["data"])


@pytest.mark.parametrize("mode", ["polling", "streaming"])
def test_subscribe_hears_each_step(script: Scripts, mode: str) -> None:
    """The updates go forward, end as completed, and bring each line of the log once."""
    [*enqueued, last] = script("follow.mjs", MODE=mode)
    updates = last["updates"]
    places = [STATUSES.index(update["status"]) for update in updates]
    messages = [log["message"] for log in updates[-1]["logs"]]

    check(last["data"])
    assert enqueued == [{"enqueued": last["requestId"]}]
    assert places == sorted(places)
    assert {updates[-2]["status"], updates[-1]["status"]} == {"IN_PROGRESS", "COMPLETED"}
    assert all(isinstance(update["logs"], list) for update in updates[-2:])
    assert all(
        isinstance(update["queue_position"], int)
        for update in updates
        if update["status"] == "IN_QUEUE"
    )
    assert any("Generated" in message for message in messages)
    assert len(messages) == len(set(messages))


def test_run_and_stream(script: Scripts, request: pytest.FixtureRequest) -> None:
    """The synchronous run has a request id; the last event of its stream is the whole output."""
    [version, _] = request.node.callspec.params["script"]
    run, stream = script("run.mjs")

    check(run["data"])
    assert is_id(run["requestId"])
    check(stream["done"])
    if version == NEWEST:  # the older one loses an event that comes right before the end
        assert stream["events"] == [stream["done"]]


def test_boxes_are_streamed_as_they_are_found(
    script: Scripts, request: pytest.FixtureRequest
) -> None:
    """Each event has more boxes than the one before; the last has those of a run."""
    [version, _] = request.node.callspec.params["script"]
    streamed, refused = script("stream.mjs")
    counts = [len(event["results"]["bboxes"]) for event in streamed["events"]]

    assert streamed["done"]["results"] == streamed["data"]["results"]
    assert streamed["done"]["image"]["url"].startswith("http")
    assert len(streamed["data"]["results"]["bboxes"]) == len(scene(3).objects) == 3
    if version == NEWEST:  # the older one loses an event that comes right before the end
        assert streamed["events"][-1] == streamed["done"]
        assert len(counts) >= 2
        assert counts[0] < counts[-1] == 3
    assert counts == sorted(counts)
    assert refused["status"] == 422
    assert "3, the number of beams of this deployment" in refused["body"]["detail"][0]["msg"]


def test_cancel(script: Scripts) -> None:
    """What runs and what waits can be cancelled, and ends as cancelled; what has ended cannot."""
    begun, running, waiting, late = script("cancel.mjs")

    assert begun == {"running": "IN_PROGRESS"}
    assert (waiting["was"]["status"], waiting["was"]["queue_position"] >= 0) == ("IN_QUEUE", True)
    for cancelled in (running, waiting):
        assert cancelled["status"]["status"] == "COMPLETED"
        assert cancelled["status"]["error_type"] == "client_cancelled"
        assert cancelled["result"]["status"] == 499
        assert cancelled["result"]["body"]["error_type"] == "client_cancelled"
    assert late["result"] == {"status": 400, "body": {"status": "ALREADY_COMPLETED"}}


INVALID = {
    "no image": "image_load_error",
    "no input": "missing",
    "no image, queued": "image_load_error",
    "no image, streamed": "image_load_error",
    "no input, queued": "missing",
}
UNKNOWN = ("unknown status", "unknown result", "unknown cancel", "unknown endpoint")


def test_errors(script: Scripts, request: pytest.FixtureRequest) -> None:
    """A 422 is a ValidationError that names the field; any other is an ApiError."""
    [version, _] = request.node.callspec.params["script"]
    errors = {error["attempt"]: error for error in script("errors.mjs")}

    assert set(errors) == {*INVALID, *UNKNOWN}
    for attempt, type_ in INVALID.items():
        error = errors[attempt]
        assert (error["isValidationError"], error["status"]) == (True, 422), attempt
        assert [fault["type"] for fault in error["faults"]] == [type_]
        assert error["ofImage"] == error["faults"] == error["body"]["detail"]
    for attempt in UNKNOWN:
        error = errors[attempt]
        assert (error["isApiError"], error["isValidationError"]) == (True, False)
        assert error["status"] == 404
    for attempt in UNKNOWN[:3]:
        assert errors[attempt]["body"]["status"] == "NOT_FOUND"
    if version == NEWEST:  # the older one does not report it
        assert all(is_id(error["requestId"]) for error in errors.values())


def test_a_wrong_key(script: Scripts) -> None:
    """It is an ApiError that says so."""
    for error in script("unauthorized.mjs", KEY="wrong"):
        assert (error["isApiError"], error["status"]) == (True, 401)
        assert error["body"]["error_type"] == "unauthorized"


def test_the_guard_of_the_page_lets_nothing_out(tmp_path: Path) -> None:
    """Forgotten configuration is an error before a key leaves; with it, all goes to us."""
    node = Node(tmp_path / "client", installed(NEWEST))

    assert node.run("guard.mjs", {}) == [
        "not our service: https://queue.fal.run/fal-ai/florence-2-large/caption",
        "allowed: http://127.0.0.1:9/api/fal/proxy",
    ]
