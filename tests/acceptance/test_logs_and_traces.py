"""Each request has one trace across all processes, and one line in the log."""

import base64
from secrets import token_hex
from uuid import uuid4

import pytest

from tests.acceptance.caller import PROPOSAL, Caller, encoded, scene, uri
from tests.acceptance.observed import Observed
from tests.acceptance.origin import Origin
from tests.acceptance.receiver import Receiver
from tests.telemetry.spans import tree

DEPLOYMENTS = {"Ingress", "Preprocess", "Inference", "Postprocess"}
TIMINGS = {"fetch_ms", "decode_ms", "queue_wait_ms", "model_ms", "postprocess_ms", "total_ms"}
STAGES = {
    ("preprocess", "fetch"),
    ("preprocess", "decode"),
    ("inference", "wait"),
    ("inference", "batch"),
    ("postprocess", "picture"),
}
PARTS = ("preprocess", "inference", "postprocess")


@pytest.fixture
def trace_id() -> str:
    """The id of a new trace."""
    return token_hex(16)


def parent(trace_id: str) -> dict[str, str]:
    """The header of a caller that started the trace."""
    return {"traceparent": f"00-{trace_id}-{token_hex(8)}-01"}


@pytest.mark.parametrize("is_fetched", [True, False], ids=["by reference", "by value"])
@pytest.mark.parametrize(("path", "event"), [("", "run"), ("/stream", "stream")])
def test_a_run_is_one_trace(
    caller: Caller,
    origin: Origin,
    observed: Observed,
    trace_id: str,
    is_fetched: bool,
    path: str,
    event: str,
) -> None:
    """The trace spans four processes, up to the drawing of the picture. The log line has its id."""
    image = f"{origin.url}/scene.png" if is_fetched else uri(scene(0).image)
    answer = caller.http.post(
        caller.url + PROPOSAL + path,
        json={"image_url": image},
        headers=caller.authorization | parent(trace_id),
    )
    assert answer.status_code == 200
    spans = observed.trace(trace_id, 9)
    line = observed.line(event, answer.headers["x-fal-request-id"])
    root = f"{event} region-proposal"

    assert tree(spans) == {("", root)} | {(root, part) for part in PARTS} | STAGES
    assert {span.deployment for span in spans} == DEPLOYMENTS
    assert len({span.resource["process.pid"] for span in spans}) >= 4
    assert line["trace_id"] == trace_id
    assert (line["endpoint"], line["status"], line["attempt"]) == ("region-proposal", 200, 1)
    assert len(line["key_id"]) == 12
    assert line.keys() >= TIMINGS | {"batch_size", "tokens", "source_bytes"}
    assert line["total_ms"] >= line["model_ms"] > 0
    assert line["tokens"] > 0


def test_a_queued_request_is_one_trace(
    caller: Caller, receiver: Receiver, observed: Observed, trace_id: str
) -> None:
    """The trace spans five processes, from submit to webhook. Submit and attempt log a line."""
    path = f"/hooks/{uuid4()}"
    submitted = caller.http.post(
        f"{caller.url}/queue{PROPOSAL}",
        params={"fal_webhook": receiver.url(path)},
        json={"image_url": uri(scene(1).image)},
        headers=caller.authorization | parent(trace_id),
    ).json()
    [delivery] = receiver.deliveries(path)
    spans = observed.trace(trace_id, 12)
    lines = [observed.line(event, submitted["request_id"]) for event in ("submit", "execute")]
    submit, execute = "submit region-proposal", "execute region-proposal"

    assert tree(spans) == STAGES | {(execute, part) for part in PARTS} | {
        ("", submit),
        (submit, "queue"),
        (submit, execute),
        (submit, "webhook"),
    }
    assert {span.deployment for span in spans} == DEPLOYMENTS | {"Dispatcher"}
    assert len({span.resource["process.pid"] for span in spans}) >= 5
    webhook = next(span for span in spans if span.name == "webhook")
    assert delivery.headers["traceparent"] == f"00-{trace_id}-{webhook.id}-01"
    assert {line["trace_id"] for line in lines} == {trace_id}
    assert {line["key_id"] for line in lines} == {lines[0]["key_id"]}
    assert lines[1].keys() >= TIMINGS | {"waited_ms", "batch_size", "tokens", "attempt"}
    assert lines[1]["status"] == 200


def test_an_error_is_logged_and_traced(caller: Caller, observed: Observed, trace_id: str) -> None:
    """The log line and the spans have the client's error type."""
    answer = caller.http.post(
        caller.url + PROPOSAL,
        json={"image_url": uri(b"no image")},
        headers=caller.authorization | parent(trace_id),
    )
    assert answer.status_code == 422
    spans = {span.name: span for span in observed.trace(trace_id, 2)}
    line = observed.line("run", answer.headers["x-fal-request-id"])

    assert (line["status"], line["error_type"]) == (422, "image_load_error")
    assert spans["preprocess"].attributes["error.type"] == "image_load_error"
    assert spans["run region-proposal"].attributes["http.response.status_code"] == 422
    assert "errors.ImageLoadError" not in observed.text()  # no traceback of what a client did wrong


def test_no_secret_is_logged_or_traced(caller: Caller, observed: Observed, trace_id: str) -> None:
    """No file contains the key or the image."""
    image = encoded(scene(2).image, "PNG")
    answer = caller.http.post(
        caller.url + PROPOSAL,
        json={"image_url": uri(image)},
        headers=caller.authorization | parent(trace_id),
    )
    observed.trace(trace_id, 9)
    observed.line("run", answer.headers["x-fal-request-id"])
    text = observed.text()

    assert trace_id in text
    assert caller.key not in text
    assert base64.b64encode(image).decode()[:100] not in text
    assert "data:image/" not in text
