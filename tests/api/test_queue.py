"""The queue over HTTP. The tests are the worker: they claim requests and end them."""

import json
import re
from datetime import datetime
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.errors import FileDownloadError, InternalError, ServiceError
from deployments.florence.tasks import TASKS
from deployments.jobs.job import JobOutcome, JobState, LogLine
from deployments.jobs.transitions import cancelled
from deployments.telemetry.metrics import METRICS
from tests.florence.questions import body_of

from .service import (
    AUTHORIZED,
    CAPTION,
    KEY_ID,
    NUM_BEAMS,
    OTHER_KEY,
    QUEUED,
    AwayStore,
    Serve,
    Service,
    do,
    named,
)

INPUT = {"image_url": "https://example.com/car.jpg"}
SUBMIT = f"/queue{CAPTION}"
OUTPUT = {"results": "né 猫"}
NOWHERE = "00000000-0000-4000-8000-000000000000"


def detail(response: Any) -> str:
    """The sentence of a bad request."""
    assert (response.status_code, response.json()["error_type"]) == (400, "bad_request")
    return str(response.json()["detail"])


# ---------------------------------------------------------------------------- submit


@pytest.mark.parametrize("task", TASKS)
def test_a_submit_is_answered_with_urls(service: Service, task: str) -> None:
    """The answer is fal's: the id, the position in the queue, and the three URLs."""
    response = service.post(body_of(TASKS[task]), f"/queue/{TASKS[task].endpoint}")

    request_id = response.json()["request_id"]
    url = f"http://testserver{QUEUED}/{request_id}"
    assert response.status_code == 200
    assert response.json() == {
        "status": "IN_QUEUE",
        "request_id": request_id,
        "response_url": url,
        "status_url": f"{url}/status",
        "cancel_url": f"{url}/cancel",
        "gateway_request_id": request_id,
        "queue_position": 0,
    }
    assert str(UUID(request_id)) == request_id
    assert response.headers["x-fal-request-id"] == request_id
    assert response.headers["content-type"] == "application/json"
    assert "idempotent-replayed" not in response.headers
    assert service.queued()[0]["path"] == task


def test_a_submit_is_kept_for_a_worker(service: Service) -> None:
    """The worker gets the input that was checked, without fields that are not known."""
    response = service.post(INPUT | {"more": [1]}, SUBMIT)

    claimed = service.claim()
    assert claimed.lease.id == response.json()["request_id"]
    assert (claimed.key_id, claimed.path) == (KEY_ID, "caption")
    assert json.loads(claimed.input) == INPUT
    assert claimed.base_url == "http://testserver"
    assert (claimed.priority, claimed.files_ttl_s) == (0, None)
    assert service.runs == []


def test_a_submit_wakes_a_worker(service: Service) -> None:
    """The job does not wait for the next poll."""
    service.submit()

    assert len(service.wakes) == 1


def test_the_position_is_the_number_ahead(service: Service) -> None:
    """The first is at 0; low priority waits behind all others."""
    positions = [
        service.submit(X_Fal_Queue_Priority=priority).json()["queue_position"]
        for priority in ("low", "normal", "normal")
    ]

    assert positions == [0, 0, 1]


@pytest.mark.parametrize(
    ("body", "type_"),
    [
        ({}, "missing"),
        ({"image_url": 1}, "string_type"),
        ([], "model_type"),
        ({"image_url": "u", "num_beams": NUM_BEAMS + 1}, "less_than_equal"),
    ],
)
def test_a_wrong_input_is_refused_at_once(shared: Service, body: Any, type_: str) -> None:
    """What could never run is a 422 now, not a failure later."""
    response = shared.post(body, SUBMIT)

    assert (response.status_code, response.json()["detail"][0]["type"]) == (422, type_)
    assert shared.wakes == []


def test_the_queue_keeps_the_beams(service: Service) -> None:
    """The input is kept as it was given, without what was not."""
    service.post({"image_url": "u", "num_beams": 1}, SUBMIT)
    service.post({"image_url": "u", "num_beams": None}, SUBMIT)

    inputs = [json.loads(service.claim().input) for _ in range(2)]
    assert inputs == [{"image_url": "u", "num_beams": 1}, {"image_url": "u"}]


def test_a_body_can_be_too_large(serve: Serve) -> None:
    """The bound of a run's body holds here as well."""
    service = serve(ingress={"max_body_bytes": 2048})

    response = service.post({"image_url": "u" * 3000}, SUBMIT)

    assert (response.status_code, service.queued()) == (422, [])


@pytest.mark.parametrize("path", ["", "/requests", "/nope", "/caption/nope"])
def test_unknown_tasks_cannot_be_submitted(shared: Service, path: str) -> None:
    """What is no task is a 404."""
    response = shared.submit(f"/queue/fal-ai/florence-2-large{path}")

    assert (response.status_code, shared.wakes) == (404, [])


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
def test_a_submit_is_a_post(shared: Service, method: str) -> None:
    """Other methods are refused."""
    response = shared.client.request(method, SUBMIT, headers=AUTHORIZED)

    assert (response.status_code, response.headers["allow"]) == (405, "OPTIONS, POST")


@pytest.mark.parametrize(
    ("headers", "column", "expected"),
    [
        ({}, "priority", 0),
        ({"X_Fal_Queue_Priority": "low"}, "priority", 1),
        ({"X_Fal_Queue_Priority": "urgent"}, "priority", 0),
        ({}, "start_by", None),
        ({}, "max_attempts", 3),
        ({"X_Fal_No_Retry": "1"}, "max_attempts", 1),
        ({"X_Fal_No_Retry": " TRUE "}, "max_attempts", 1),
        ({"X_Fal_No_Retry": "yes"}, "max_attempts", 1),
        ({"X_Fal_No_Retry": "0"}, "max_attempts", 3),
        ({"X_Fal_Retry_Config": "{}"}, "max_attempts", 3),
        ({"X_Fal_Retry_Config": '{"timeout": {"retries": 0}}'}, "max_attempts", 1),
        ({"X_Fal_Retry_Config": '{"server_error": {"retries": 0}}'}, "max_attempts", 1),
        ({"X_Fal_Retry_Config": '{"connection_error": {"retries": 0}}'}, "max_attempts", 1),
        ({"X_Fal_Retry_Config": '{"connection_error": {"retries": 1}}'}, "max_attempts", 2),
        ({"X_Fal_Retry_Config": '{"timeout": {"retries": 99}}'}, "max_attempts", 3),
        ({"X_Fal_Retry_Config": '{"timeout": {}, "new": 1}'}, "max_attempts", 3),
        ({}, "keeps_input", 1),
        ({"X_Fal_Store_IO": "0"}, "keeps_input", 0),
        ({"X_Fal_Store_IO": "1"}, "keeps_input", 1),
        ({}, "files_ttl_s", None),
        (
            {"X_Fal_Object_Lifecycle_Preference": '{"expiration_duration_seconds": 3600}'},
            "files_ttl_s",
            3600.0,
        ),
        ({"X_Fal_Object_Lifecycle_Preference": '{"initial_acl": {}}'}, "files_ttl_s", None),
        ({}, "webhook_url", None),
        ({"X_Fal_Runner_Hint": "h1", "X_Fal_Tags": "a", "X_Fal_Unknown": "?"}, "max_attempts", 3),
    ],
)
def test_headers_change_the_job(
    shared: Service, headers: dict[str, str], column: str, expected: object
) -> None:
    """Each header that is known changes one thing about the request; others change nothing."""
    assert shared.submit(**headers).status_code == 200

    assert shared.queued()[-1][column] == expected


def test_the_settings_say_how_often_a_request_is_begun(serve: Serve) -> None:
    """A caller can ask for fewer attempts, not for more."""
    service = serve(queue={"max_attempts": 2})
    service.submit(X_Fal_Retry_Config='{"timeout": {"retries": 9}}')

    assert service.queued()[0]["max_attempts"] == 2


def test_the_start_timeout_counts_from_the_submit(service: Service) -> None:
    """X-Fal-Request-Timeout is how long a request may wait for a worker."""
    service.submit(X_Fal_Request_Timeout="5.5")

    row = service.queued()[0]
    assert row["start_by"] == pytest.approx(row["created_at"] + 5.5)


@pytest.mark.parametrize(
    "headers",
    [
        {"X_Fal_Request_Timeout": "soon"},
        {"X_Fal_Request_Timeout": "-1"},
        {"X_Fal_Retry_Config": "no"},
        {"X_Fal_Retry_Config": "[]"},
        {"X_Fal_Retry_Config": '{"timeout": 0}'},
        {"X_Fal_Retry_Config": '{"timeout": {"retries": -1}}'},
        {"X_Fal_Retry_Config": '{"timeout": {"retries": "0"}}'},
        {"X_Fal_Object_Lifecycle_Preference": "no"},
        {"X_Fal_Object_Lifecycle_Preference": '{"expiration_duration_seconds": "1h"}'},
        {"X_Fal_Object_Lifecycle_Preference": '{"expiration_duration_seconds": -1}'},
        {"Idempotency_Key": "k" * 256},
    ],
)
def test_headers_without_sense_are_refused(shared: Service, headers: dict[str, str]) -> None:
    """A header that is known and cannot be understood is named, and nothing is queued."""
    response = shared.submit(**headers)

    [name] = named(headers)
    assert name.lower() in detail(response).lower()
    assert shared.wakes == []


def test_a_webhook_is_kept(service: Service) -> None:
    """The URL is kept as it was given, with its query."""
    url = "https://hooks.example.com/h?a=1&b=2"
    response = service.client.post(
        SUBMIT, json=INPUT, params={"fal_webhook": url}, headers=AUTHORIZED
    )

    assert response.status_code == 200
    service.finish(JobOutcome.done(OUTPUT))
    [webhook] = do(service.store.webhooks())
    assert (webhook.id, webhook.url) == (response.json()["request_id"], url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hook",
        "/hook",
        "//example.com/hook",
        "ftp://example.com/",
        "javascript:alert(1)",
        "https://",
        "https://user:password@example.com/",
        "https://example.com\\@127.0.0.1/",
        "https://example.com:99999/",
        "https://example.com/\n",
    ],
)
def test_a_webhook_is_an_absolute_url(shared: Service, url: str) -> None:
    """What can never be delivered to is refused when it is submitted."""
    response = shared.client.post(
        SUBMIT, json=INPUT, params={"fal_webhook": url}, headers=AUTHORIZED
    )

    assert "fal_webhook must be an absolute http or https URL" in detail(response)
    assert shared.wakes == []


def test_a_caller_can_refuse_to_wait(service: Service) -> None:
    """With fal_max_queue_length so many may wait; one beyond it is a 429, to be tried later."""
    statuses = [
        service.submit(f"{SUBMIT}?fal_max_queue_length={length}").status_code
        for length in (1, 2, 3, 3)
    ]
    refused = service.submit(f"{SUBMIT}?fal_max_queue_length=0")

    assert statuses == [200, 200, 200, 429]
    assert (refused.status_code, refused.json()["error_type"]) == (429, "queue_full")
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["x-fal-needs-retry"] == "1"


def test_the_queue_has_a_bound(serve: Serve) -> None:
    """More than the settings allow are not queued."""
    service = serve(queue={"max_queued": 1})

    assert [service.submit().status_code for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("length", ["", "-1", "1.5", "many", "٣", "9" * 10, "9" * 5000])
def test_the_queue_length_is_a_number(shared: Service, length: str) -> None:
    """A length that is no whole number from 0 is a bad request."""
    response = shared.client.post(
        SUBMIT, json=INPUT, params={"fal_max_queue_length": length}, headers=AUTHORIZED
    )

    assert "fal_max_queue_length" in detail(response)
    assert shared.wakes == []


def test_a_repeated_submit_is_the_same_request(service: Service) -> None:
    """An Idempotency-Key makes a second submit harmless: same body, same id, and it says so."""
    first = service.submit(Idempotency_Key="once")
    second = service.submit(Idempotency_Key="once")

    assert (second.status_code, second.json()) == (200, first.json())
    assert second.headers["x-fal-request-id"] == first.json()["request_id"]
    assert second.headers["idempotent-replayed"] == "true"
    assert len(service.queued()) == 1


def test_a_repeated_submit_finds_an_ended_request(service: Service) -> None:
    """The key holds as long as the request is kept."""
    first = service.submit(Idempotency_Key="k" * 255)
    service.finish(JobOutcome.done(OUTPUT))
    second = service.submit(Idempotency_Key="k" * 255)

    assert second.json()["request_id"] == first.json()["request_id"]
    assert service.get(second.json()["status_url"]).json()["status"] == "COMPLETED"


def test_what_the_proxy_delivers_twice_is_one_request(service: Service) -> None:
    """HAProxy sends a submit again, under one id, when the Ingress died before it answered."""
    first = service.submit(X_Florence_Delivery="d1")
    again = service.submit(X_Florence_Delivery="d1")
    other = service.submit(X_Florence_Delivery="d2")

    assert again.json()["request_id"] == first.json()["request_id"]
    assert other.json()["request_id"] != first.json()["request_id"]


def test_the_clients_own_word_goes_before_the_proxys(service: Service) -> None:
    """Its Idempotency-Key holds over deliveries, and is never taken for the name of one."""
    first = service.submit(Idempotency_Key="d1", X_Florence_Delivery="d1")
    again = service.submit(Idempotency_Key="d1", X_Florence_Delivery="d2")
    other = service.submit(X_Florence_Delivery="d1")

    assert again.json()["request_id"] == first.json()["request_id"]
    assert other.json()["request_id"] != first.json()["request_id"]


def test_an_idempotency_key_is_for_one_request(service: Service) -> None:
    """The same key with another input is an error; another caller may use it."""
    service.submit(Idempotency_Key="k")
    other = service.post({"image_url": "v"}, SUBMIT, Idempotency_Key="k")
    service.add_key()
    stranger = service.client.post(
        SUBMIT,
        json={"image_url": "v"},
        headers={"Authorization": f"Key {OTHER_KEY}", "Idempotency-Key": "k"},
    )

    assert (other.status_code, other.json()["error_type"]) == (400, "idempotency_conflict")
    assert (stranger.status_code, "idempotent-replayed" in stranger.headers) == (200, False)


@pytest.mark.parametrize("key", ["", "  "])
def test_an_empty_idempotency_key_is_none(shared: Service, key: str) -> None:
    """A client that leaves it empty repeats nothing."""
    ids = {shared.submit(Idempotency_Key=key).json()["request_id"] for _ in range(2)}

    assert len(ids) == 2


@pytest.mark.parametrize(
    ("path", "headers", "base"),
    [
        (SUBMIT, {}, "http://testserver/queue"),
        (f"{SUBMIT}/", {}, "http://testserver/queue"),
        (
            SUBMIT,
            {"X_Forwarded_Proto": "https", "X_Forwarded_Host": "a.example"},
            "https://a.example/queue",
        ),
        (CAPTION, {"Host": "queue.a.example:8443"}, "http://queue.a.example:8443"),
        (
            CAPTION,
            {"X_Forwarded_Proto": "https", "X_Forwarded_Host": "queue.a.example"},
            "https://queue.a.example",
        ),
        (SUBMIT, {"Host": "queue.a.example"}, "http://queue.a.example/queue"),
        (
            "/api/fal/proxy",
            {"X_Fal_Target_URL": f"https://queue.fal.run{CAPTION}"},
            "http://testserver/queue",
        ),
    ],
)
def test_urls_lead_back_to_the_same_host(
    shared: Service, path: str, headers: dict[str, str], base: str
) -> None:
    """A caller who follows the URLs comes to the same host and prefix, and finds the request."""
    response = shared.submit(path, **headers)

    job = response.json()
    url = f"{base}/fal-ai/florence-2-large/requests/{job['request_id']}"
    assert [job[f"{name}_url"] for name in ("response", "status", "cancel")] == [
        url,
        f"{url}/status",
        f"{url}/cancel",
    ]
    again = shared.get(job["status_url"]).json()
    assert again["request_id"] == job["request_id"]
    assert shared.client.put(job["cancel_url"], headers=AUTHORIZED).status_code == 202


def test_the_public_url_wins(serve: Serve) -> None:
    """The operator's word counts whatever host a caller named."""
    service = serve(ingress={"public_url": "https://florence.example.com/base/"})

    for path, host in ((SUBMIT, "testserver"), (CAPTION, "queue.a.example")):
        job = service.submit(path, Host=host).json()
        assert job["status_url"].startswith("https://florence.example.com/base/queue/fal-ai/")


# ---------------------------------------------------------------------------- status


def test_a_request_waits_runs_and_ends(service: Service) -> None:
    """202 while there is something to wait for, 200 afterwards; each status has fal's fields."""
    job = service.submit().json()
    asked = {name: job[name] for name in ("request_id", "response_url", "status_url", "cancel_url")}

    waiting = service.get(job["status_url"])
    claimed = service.claim()
    running = service.get(job["status_url"])
    do(service.store.finish(claimed.lease, JobOutcome.done(OUTPUT, inference_s=0.25)))
    ended = service.get(job["status_url"])

    assert [response.status_code for response in (waiting, running, ended)] == [202, 202, 200]
    assert waiting.json() == asked | {"status": "IN_QUEUE", "queue_position": 0}
    assert running.json() == asked | {"status": "IN_PROGRESS", "logs": []}
    assert ended.json() == asked | {
        "status": "COMPLETED",
        "logs": [],
        "metrics": {"inference_time": 0.25},
    }


@pytest.mark.parametrize(
    ("truncated", "metrics"),
    [(False, {"tokens": 12}), (True, {"tokens": 12, "truncated": True})],
)
def test_the_metrics_say_what_was_written(
    service: Service, truncated: bool, metrics: dict[str, Any]
) -> None:
    """How many tokens, and that the limit cut them, in the status and in its stream."""
    job = service.submit().json()
    service.finish(JobOutcome.done(OUTPUT, inference_s=0.25, num_tokens=12, truncated=truncated))

    status = service.get(job["status_url"])
    [streamed] = service.get(f"{job['status_url']}/stream").text.split("\n\n")[:-1]

    assert status.json()["metrics"] == {"inference_time": 0.25} | metrics
    assert json.loads(streamed.removeprefix("data: ")) == status.json()


def test_a_status_says_who_answered(service: Service) -> None:
    """Once somebody has; other headers of the result stay with it."""
    job = service.submit().json()
    urls = [job["status_url"], f"{job['status_url']}/stream"]
    waiting = service.get(job["status_url"])
    headers = {"x-florence-model": "demo", "x-other": "1"}
    service.finish(JobOutcome.done(OUTPUT, headers=headers))

    assert "x-florence-model" not in waiting.headers
    for response in [
        service.client.request(verb, url, headers=AUTHORIZED)
        for url in urls
        for verb in ("GET", "HEAD")
    ]:
        assert response.headers["x-florence-model"] == "demo"
        assert "x-other" not in response.headers


@pytest.mark.parametrize(
    ("outcome", "error", "error_type"),
    [
        (JobOutcome.failed(FileDownloadError("No host")), "No host", "file_download_error"),
        (JobOutcome.failed(InternalError("Broken")), "Broken", "internal_error"),
        (cancelled(), "The request was cancelled by its caller.", "client_cancelled"),
    ],
)
def test_a_failure_is_completed_with_an_error(
    service: Service, outcome: JobOutcome, error: str, error_type: str
) -> None:
    """There are only three statuses; a failure or a cancellation is in other fields."""
    job = service.submit().json()
    service.finish(outcome)

    response = service.get(job["status_url"])

    assert (response.status_code, response.json()["status"]) == (200, "COMPLETED")
    assert (response.json()["error"], response.json()["error_type"]) == (error, error_type)
    assert response.json()["logs"] == []


@pytest.mark.parametrize("wish", ["1", "true", "True"])
def test_the_log_is_sent_when_asked_for(service: Service, wish: str) -> None:
    """Each line has its message, its time in UTC, its level and a source."""
    job = service.submit().json()
    service.finish(JobOutcome.done(OUTPUT, logs=(LogLine("slow", level="WARN", age_s=0.5),)))

    logs = service.get(f"{job['status_url']}?logs={wish}").json()["logs"]

    assert all(set(entry) == {"message", "timestamp", "level", "source"} for entry in logs)
    [line] = [entry for entry in logs if entry["message"] == "slow"]
    assert (line["level"], line["source"]) == ("WARN", "USER")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["timestamp"])
    times = [datetime.fromisoformat(entry["timestamp"]) for entry in logs]
    assert times[-1].tzinfo is not None


@pytest.mark.parametrize("query", ["", "?logs=0", "?logs=false", "?logs=no"])
def test_the_log_is_not_sent_unasked(service: Service, query: str) -> None:
    """A list is there all the same: clients rely on it."""
    job = service.submit().json()
    service.claim()

    assert service.get(job["status_url"] + query).json()["logs"] == []


# ---------------------------------------------------------------------------- result


@pytest.mark.parametrize("what", ["", "/response"])
def test_the_result_is_the_output(service: Service, what: str) -> None:
    """The body is what a synchronous run would have answered, byte for byte, with its id."""
    job = service.submit().json()
    service.finish(JobOutcome.done(OUTPUT))

    response = service.get(job["response_url"] + what)

    assert response.status_code == 200
    assert response.content == '{"results":"né 猫"}'.encode()
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-fal-request-id"] == job["request_id"]


@pytest.mark.parametrize("error", [FileDownloadError(), InternalError()])
def test_the_result_of_a_failure_is_its_error(service: Service, error: ServiceError) -> None:
    """Status, body and headers are those that a synchronous run would have had."""
    job = service.submit().json()
    service.finish(JobOutcome.failed(error))

    response = service.get(job["response_url"])

    assert (response.status_code, response.json()) == (error.status, error.body())
    for name, value in error.headers().items():
        assert response.headers[name] == value
    assert response.headers["x-fal-request-id"] == job["request_id"]


@pytest.mark.parametrize("is_claimed", [False, True])
def test_a_result_that_is_not_there_yet(service: Service, is_claimed: bool) -> None:
    """Before the end it is a 400 with fal's sentence."""
    job = service.submit().json()
    if is_claimed:
        service.claim()

    response = service.get(job["response_url"])

    assert response.status_code == 400
    assert response.json() == {
        "detail": "Request is still in progress",
        "error_type": "request_in_progress",
    }


def test_the_result_of_a_cancelled_request(service: Service) -> None:
    """A caller that disconnected would have got the same."""
    job = service.submit().json()
    service.cancel(job["request_id"])

    response = service.get(job["response_url"])

    assert (response.status_code, response.json()["error_type"]) == (499, "client_cancelled")


# ---------------------------------------------------------------------------- cancel


def test_a_waiting_request_is_cancelled(service: Service) -> None:
    """It never runs, and the dispatcher is woken."""
    job = service.submit().json()

    response = service.cancel(job["request_id"])

    assert (response.status_code, response.json()) == (202, {"status": "CANCELLATION_REQUESTED"})
    assert service.queued()[0]["state"] == JobState.CANCELLED
    assert len(service.wakes) == 2


def test_a_running_request_is_asked_to_stop(service: Service) -> None:
    """Its worker hears of it; asking twice is no mistake."""
    job = service.submit().json()
    claimed = service.claim()

    statuses = [service.cancel(job["request_id"]).status_code for _ in range(2)]

    assert statuses == [202, 202]
    [beat] = do(service.store.heartbeat([claimed.lease], 60.0))
    assert beat.cancelled


def test_an_ended_request_cannot_be_cancelled(service: Service) -> None:
    """Its outcome stays."""
    job = service.submit().json()
    service.finish(JobOutcome.done(OUTPUT))

    response = service.cancel(job["request_id"])

    assert (response.status_code, response.json()) == (400, {"status": "ALREADY_COMPLETED"})
    assert len(service.wakes) == 1


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_cancel_is_a_put(shared: Service, method: str) -> None:
    """Other methods are refused."""
    response = shared.client.request(method, f"{QUEUED}/{NOWHERE}/cancel", headers=AUTHORIZED)

    assert (response.status_code, response.headers["allow"]) == (405, "OPTIONS, PUT")


# ------------------------------------------------------------------ every route


ROUTES = [
    ("GET", "/status"),
    ("GET", "/status/stream"),
    ("GET", ""),
    ("GET", "/response"),
    ("PUT", "/cancel"),
]


@pytest.mark.parametrize(("method", "what"), ROUTES)
@pytest.mark.parametrize(
    "request_id", [NOWHERE, "nope", "1", f"{{{NOWHERE}}}", NOWHERE.replace("-", ""), "%00", "é"]
)
def test_unknown_requests_are_not_found(
    shared: Service, method: str, what: str, request_id: str
) -> None:
    """fal's word for it, and our usual shape of an error."""
    response = shared.client.request(method, f"{QUEUED}/{request_id}{what}", headers=AUTHORIZED)

    assert (response.status_code, response.json()["status"]) == (404, "NOT_FOUND")
    assert response.json()["error_type"] == response.headers["x-fal-error-type"] == "not_found"
    assert response.json()["detail"]


@pytest.mark.parametrize(("method", "what"), ROUTES)
def test_requests_of_another_key_are_not_found(service: Service, method: str, what: str) -> None:
    """Another key does not learn that it exists, and cannot stop it."""
    request_id = service.submit().json()["request_id"]
    service.add_key()
    headers = {"Authorization": f"Key {OTHER_KEY}"}

    response = service.client.request(method, f"{QUEUED}/{request_id}{what}", headers=headers)

    unknown = service.client.request(method, f"{QUEUED}/{NOWHERE}{what}", headers=headers)
    assert (response.status_code, response.json()) == (404, unknown.json())
    assert service.queued()[0]["state"] == JobState.QUEUED


@pytest.mark.parametrize(("method", "what"), [*ROUTES, ("POST", None)])
def test_every_route_needs_a_key(service: Service, method: str, what: str | None) -> None:
    """A stranger learns nothing, not even whether an id exists."""
    request_id = service.submit().json()["request_id"]
    path = SUBMIT if what is None else f"{QUEUED}/{request_id}{what}"

    assert service.client.request(method, path).status_code == 401
    assert len(service.queued()) == 1


@pytest.mark.parametrize(
    "start",
    [
        "/queue/fal-ai/florence-2-large",
        "/fal-ai/florence-2-large",
        "/queue/fal-ai/florence-2-large/caption",
        "/fal-ai/florence-2-large/caption",
        "/fal-ai/florence-2-large/region-proposal",
    ],
)
@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize(("method", "what"), ROUTES)
def test_requests_are_found_by_every_path(
    shared: Service, start: str, slash: str, method: str, what: str
) -> None:
    """With the prefix or without, with the task or without, with a slash at the end or without."""
    request_id = shared.submit().json()["request_id"]
    shared.cancel(request_id)
    expected = 400 if what == "/cancel" else 499 if what in ("", "/response") else 200

    path = f"{start}/requests/{request_id}{what}{slash}"
    response = shared.client.request(
        method, path, headers=AUTHORIZED | {"Content-Type": "application/json"}
    )

    assert response.status_code == expected
    if method == "GET":
        assert shared.client.head(path, headers=AUTHORIZED).status_code == expected


@pytest.mark.parametrize(("method", "what"), ROUTES)
def test_requests_are_found_through_the_proxy(shared: Service, method: str, what: str) -> None:
    """The label brings method, path and query."""
    request_id = shared.submit().json()["request_id"]
    shared.cancel(request_id)
    url = f"https://queue.fal.run/fal-ai/florence-2-large/requests/{request_id}{what}?logs=1"

    response = shared.client.request(
        method, "/api/fal/proxy", headers=AUTHORIZED | {"x-fal-target-url": url}
    )

    assert response.status_code in (200, 400, 499)
    if what.startswith("/status"):
        assert "cancelled" in response.text.split('"logs":')[1]


@pytest.mark.parametrize("start", ["/queue/fal-ai/florence-2-large", "/fal-ai/florence-2-large"])
def test_a_task_that_does_not_exist_has_no_requests(shared: Service, start: str) -> None:
    """The path must name a task, if it names something."""
    request_id = shared.submit().json()["request_id"]

    response = shared.get(f"{start}/nope/requests/{request_id}/status")

    assert response.status_code == 404
    assert "status" not in response.json()


def test_ids_are_found_in_any_case(shared: Service) -> None:
    """A UUID is the same in capitals."""
    request_id = shared.submit().json()["request_id"]

    assert shared.get(f"{QUEUED}/{request_id.upper()}/status").status_code == 202


def test_a_target_outside_the_proxy_is_ignored(service: Service) -> None:
    """fal's own proxy passes its header on to every route."""
    label = {"X_Fal_Target_URL": f"https://fal.run{CAPTION}"}
    job = service.submit(**label).json()

    assert service.get(job["status_url"], **label).status_code == 202
    assert service.runs == []


@pytest.mark.parametrize(("method", "what"), [*ROUTES, ("POST", None)])
def test_a_store_that_is_away_is_a_503(serve: Serve, method: str, what: str | None) -> None:
    """503 in fal's shape, to be tried again, and nothing of the store's is leaked."""
    service = serve(store=AwayStore())
    path = SUBMIT if what is None else f"{QUEUED}/{NOWHERE}{what}"

    response = service.client.request(method, path, json=INPUT, headers=AUTHORIZED)

    assert (response.status_code, response.json()["error_type"]) == (503, "store_unavailable")
    assert response.headers["x-fal-needs-retry"] == "1"
    assert response.headers["x-fal-request-id"]


def test_submits_are_counted_by_key(service: Service) -> None:
    """The metrics show which keys are busy."""
    service.submit()
    service.submit()

    assert "florence_ingress_key_requests_total" in METRICS
    assert f'key_requests_total{{key="{KEY_ID}"}} 2.0' in service.metrics()


# ---------------------------------------------------------------------------- any input

HEADERS = st.sampled_from(
    [
        "X-Fal-Queue-Priority",
        "X-Fal-Request-Timeout",
        "X-Fal-No-Retry",
        "X-Fal-Retry-Config",
        "X-Fal-Store-IO",
        "X-Fal-Object-Lifecycle-Preference",
        "Idempotency-Key",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "Host",
        "Accept",
    ]
)
NUMBERS = st.integers() | st.floats() | st.just(10**400)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
    lambda inner: st.dictionaries(
        st.sampled_from(["timeout", "server_error", "retries", "expiration_duration_seconds"]),
        inner,
        max_size=3,
    ),
    max_leaves=5,
).map(json.dumps)
VALUES = (
    st.text(st.characters(max_codepoint=255, blacklist_characters="\0\r\n"), max_size=300)
    | JSON
    | NUMBERS.map(str)
)
QUERY = st.dictionaries(
    st.sampled_from(["fal_webhook", "fal_max_queue_length", "logs", "x"]),
    st.text(max_size=50)
    | NUMBERS.map(str)
    | st.text(max_size=20).map("https://{}".format)
    | st.text(max_size=20).map("http://example.com:{}".format),
    max_size=3,
)
FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.slow
@FUZZ
@given(st.dictionaries(HEADERS, VALUES, max_size=4), QUERY)
def test_no_header_breaks_a_submit(
    shared: Service, headers: dict[str, str], query: dict[str, str]
) -> None:
    """Whatever they say, the job is queued or refused with a reason."""
    encoded = {k.encode(): v.encode("latin-1") for k, v in (headers | AUTHORIZED).items()}

    response = shared.client.post(SUBMIT, params=query, json=INPUT, headers=encoded)

    assert response.status_code in (200, 400, 429), response.text
    json.loads(response.text)


@pytest.mark.slow
@FUZZ
@given(
    st.sampled_from(["GET", "HEAD", "PUT", "POST"]),
    st.text(max_size=60),
    st.sampled_from([what for _, what in ROUTES] + ["/x", "//"]),
    QUERY,
)
def test_no_path_breaks_the_queue(
    shared: Service, method: str, request_id: str, what: str, query: dict[str, str]
) -> None:
    """Whatever is asked about, the answer is that it is not there."""
    path = f"{QUEUED}/{quote(request_id, safe='')}{what}"

    response = shared.client.request(method, path, params=query, headers=AUTHORIZED)

    assert response.status_code in (404, 405)
