"""The synchronous run, from the request to the response."""

import asyncio
import json
import math
import time
from typing import Any

import pytest
from starlette.requests import Request as HttpRequest
from starlette.types import Message

from deployments.api.deadline import cancel_on_disconnect
from deployments.api.hints import hint_of_path
from deployments.errors import (
    ClientDisconnected,
    FileDownloadError,
    GenerationError,
    Overloaded,
    RunnerDisconnected,
    ServiceError,
    StartTimeout,
)
from deployments.florence.messages import Finished, Request
from deployments.florence.tasks import TASKS
from deployments.jobs.api_key import ApiKey
from deployments.settings import hash_key
from tests.florence.questions import body_of

from .service import (
    ANSWER,
    AUTHORIZED,
    CAPTION,
    KEY,
    KEY_ID,
    MAX_NEW_TOKENS,
    MODEL,
    NUM_BEAMS,
    OTHER_KEY,
    AwayStore,
    Serve,
    Service,
    do,
)

KEY_REFUSED = "florence_ingress_key_refused_total"
INPUT = {"image_url": "https://example.com/car.jpg"}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("path", ["/{}", "/{}/", "/run/{}", "/run/{}/"])
def test_every_path_leads_to_the_run(shared: Service, task: str, path: str) -> None:
    """Each task runs at the bare path and under /run, with and without a slash at the end."""
    response = shared.post(body_of(TASKS[task]), path.format(TASKS[task].endpoint))

    assert (response.status_code, response.json()) == (200, ANSWER.output)
    assert shared.runs[-1].task == task


def test_output_is_sent_as_it_is(serve: Serve) -> None:
    """The output arrives as compact JSON with every character and digit of the model's."""
    output = {"results": {"bboxes": [{"x": 0.1 + 0.2, "label": "né 猫 </a>"}]}, "image": None}

    async def run(given: Request) -> Finished:
        return Finished(output, ANSWER.stages)

    response = serve(run).post(INPUT)

    expected = (
        '{"results":{"bboxes":[{"x":0.30000000000000004,"label":"né 猫 </a>"}]},"image":null}'
    )
    assert response.content == expected.encode()
    assert response.headers["content-type"] == "application/json"


def test_response_says_where_the_time_went(shared: Service) -> None:
    """Server-Timing names every stage with its milliseconds."""
    response = shared.post(INPUT)

    assert response.headers["server-timing"] == (
        "fetch;dur=100.0, decode;dur=20.0, queue;dur=3.0, model;dur=250.0, postprocess;dur=0.5, "
        "tokens;desc=12"
    )


def test_response_says_that_the_answer_was_cut(serve: Serve) -> None:
    """At the end of Server-Timing."""

    async def run(_: Request) -> Finished:
        return Finished({"results": ""}, ANSWER.stages.with_(truncated=1))

    assert serve(run).post(INPUT).headers["server-timing"].endswith("tokens;desc=12, truncated")


@pytest.mark.parametrize(("image_hits", "said"), [(0, "miss"), (1, "hit")])
def test_response_says_whether_the_image_was_known(
    serve: Serve, image_hits: int, said: str
) -> None:
    """A page may read it, too."""

    async def run(_: Request) -> Finished:
        return Finished({"results": ""}, ANSWER.stages.with_(image_hits=image_hits))

    response = serve(run).post(INPUT, Origin="https://example.org")

    assert response.headers["x-florence-image-cache"] == said
    assert "x-florence-image-cache" in response.headers["access-control-expose-headers"]


def test_response_says_who_answered(shared: Service) -> None:
    """In the words of the replica that did."""
    assert shared.post(INPUT).headers["x-florence-model"] == MODEL


def test_run_carries_the_request(shared: Service) -> None:
    """The run has the response's id, the image, a deadline and no other wish by default."""
    before = time.time()
    response = shared.post(INPUT)
    after = time.time()

    run = shared.runs[-1]
    assert run.id == response.headers["x-fal-request-id"]
    assert run.input.image_url == INPUT["image_url"]
    assert before + 120 <= run.deadline <= after + 120
    assert (run.start_by, run.priority) == (math.inf, 0)


def test_start_timeout_header_sets_start_by(shared: Service) -> None:
    """X-Fal-Request-Timeout is a number of seconds from now."""
    before = time.time()
    shared.post(INPUT, X_Fal_Request_Timeout="5.5")

    assert before + 5.5 <= shared.runs[-1].start_by <= time.time() + 5.5


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf", "1e999", "soon", "", "5s"])
def test_start_timeout_header_must_be_positive(shared: Service, timeout: str) -> None:
    """A timeout that is no positive number is a bad request, and nothing runs."""
    response = shared.post(INPUT, X_Fal_Request_Timeout=timeout)

    assert (response.status_code, response.json()["error_type"]) == (400, "bad_request")
    assert shared.runs == []


@pytest.mark.parametrize(
    ("header", "priority"), [("low", 1), ("normal", 0), (" LOW ", 1), ("urgent", 0)]
)
def test_priority_header(shared: Service, header: str, priority: int) -> None:
    """A run of low priority has the higher number; a word that is not known is normal."""
    shared.post(INPUT, X_Fal_Queue_Priority=header)

    assert shared.runs[-1].priority == priority


@pytest.mark.parametrize("num_beams", [None, 1, NUM_BEAMS])
def test_beams_up_to_the_deployments(shared: Service, num_beams: int | None) -> None:
    """A run may ask for fewer than there are, or say nothing."""
    response = shared.post(INPUT | {"num_beams": num_beams})

    assert (response.status_code, shared.runs[-1].input.num_beams) == (200, num_beams)


@pytest.mark.parametrize(
    ("asked", "type_"),
    [
        ({"max_new_tokens": MAX_NEW_TOKENS + 1}, "less_than_equal"),
        ({"max_new_tokens": 0}, "greater_than_equal"),
        ({"no_repeat_ngram_size": 33}, "less_than_equal"),
        ({"no_repeat_ngram_size": -1}, "greater_than_equal"),
        ({"scores": "yes"}, "bool_type"),
        ({"min_score": 1.5}, "less_than_equal"),
        ({"min_score": "0.5"}, "float_type"),
    ],
)
def test_what_may_be_asked_of_an_answer(shared: Service, asked: dict[str, Any], type_: str) -> None:
    """Anything else is a 422 that names the field."""
    response = shared.post(INPUT | asked)

    [found] = response.json()["detail"]
    assert (response.status_code, shared.runs) == (422, [])
    assert (found["loc"], found["type"]) == (["body", *asked], type_)


def test_the_most_that_may_be_asked_of_an_answer(shared: Service) -> None:
    """All of it reaches the run."""
    asked = {
        "max_new_tokens": MAX_NEW_TOKENS,
        "no_repeat_ngram_size": 0,
        "scores": True,
        "min_score": 1,
    }
    assert shared.post(INPUT | asked).status_code == 200
    assert asked.items() <= shared.runs[-1].input.model_dump().items()


@pytest.mark.parametrize("path", [CAPTION, f"{CAPTION}/stream"])
def test_beams_beyond_the_deployments(shared: Service, path: str) -> None:
    """More than the deployment has is a 422 that says how many there are."""
    response = shared.post(INPUT | {"num_beams": NUM_BEAMS + 1}, path)

    assert (response.status_code, shared.runs) == (422, [])
    assert response.json() == {
        "detail": [
            {
                "loc": ["body", "num_beams"],
                "msg": "Input should be less than or equal to 3, the number of beams of this "
                "deployment",
                "type": "less_than_equal",
                "url": "https://docs.fal.ai/errors/#less_than_equal",
                "ctx": {"le": 3},
            }
        ]
    }


@pytest.mark.parametrize(
    ("num_beams", "type_"),
    [(0, "greater_than_equal"), (-1, "greater_than_equal"), (10**30, "less_than_equal")]
    + [(wrong, "int_type") for wrong in ("1", 1.5, 1.0, True, [1])],
)
def test_beams_are_a_whole_number(shared: Service, num_beams: Any, type_: str) -> None:
    """All faults of an input are reported at once."""
    response = shared.post({"num_beams": num_beams})

    assert response.status_code == 422
    assert [fault["type"] for fault in response.json()["detail"]] == ["missing", type_]


def test_unknown_fal_headers_are_ignored(shared: Service) -> None:
    """Headers that are not served, and a target outside the proxy, change nothing."""
    response = shared.post(
        INPUT,
        X_Fal_Runner_Hint="h1",
        X_Fal_Store_IO="0",
        X_Fal_Target_URL="https://queue.fal.run/elsewhere",
        X_Fal_Request_Id="mine",
    )

    assert response.status_code == 200
    assert response.headers["x-fal-request-id"] != "mine"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD"])
def test_other_methods_are_refused(shared: Service, method: str) -> None:
    """A run is only a POST; other methods get 405 in JSON that says which are allowed."""
    response = shared.client.request(method, CAPTION, headers=AUTHORIZED)

    assert response.status_code == 405
    assert response.headers["allow"] == "OPTIONS, POST"
    assert response.headers["x-fal-error-type"] == "method_not_allowed"
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", ["nope", "caption/streams", "caption/requests", ""])
def test_unknown_tasks_are_not_found(shared: Service, path: str) -> None:
    """What is no task is a 404 in JSON."""
    response = shared.post(INPUT, f"/fal-ai/florence-2-large/{path}")

    assert response.status_code == 404
    assert response.json() == {
        "detail": "Nothing is served at this path.",
        "error_type": "not_found",
        "hint": hint_of_path(f"/run/fal-ai/florence-2-large/{path}"),
    }


@pytest.mark.parametrize(
    "error",
    [FileDownloadError(), GenerationError(), RunnerDisconnected(), StartTimeout(), Overloaded()],
)
def test_errors_of_the_pipeline_reach_the_client(serve: Serve, error: ServiceError) -> None:
    """A ServiceError is answered with its status, its body and its headers."""

    async def run(given: Request) -> Finished:
        raise error

    response = serve(run).post(INPUT)

    assert (response.status_code, response.json()) == (error.status, error.body())
    for name, value in error.headers().items():
        assert response.headers[name] == value


def test_output_that_is_no_json_is_our_fault(serve: Serve) -> None:
    """An output with NaN is a 500, never invalid JSON."""

    async def run(given: Request) -> Finished:
        return Finished({"x": math.nan}, ANSWER.stages)

    response = serve(run).post(INPUT)

    assert (response.status_code, response.json()["error_type"]) == (500, "internal_error")


def test_run_is_given_up_at_its_deadline(serve: Serve) -> None:
    """A run that takes longer than the deadline is cancelled, and answered with 504."""
    cancelled = []

    async def run(given: Request) -> Finished:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(given)
            raise
        return ANSWER

    response = serve(run, ingress={"deadline_s": 0.02}).post(INPUT)

    assert (response.status_code, response.json()["error_type"]) == (504, "request_timeout")
    assert len(cancelled) == 1


def test_timeout_inside_a_run_is_our_fault(serve: Serve) -> None:
    """A TimeoutError of the pipeline's own is not mistaken for the deadline."""

    async def run(given: Request) -> Finished:
        raise TimeoutError

    assert serve(run).post(INPUT).status_code == 500


def test_no_more_runs_than_the_limit(serve: Serve) -> None:
    """The run beyond `max_running` gets 429 with Retry-After, and runs once others have ended."""

    async def scenario() -> list[int]:
        full, release = asyncio.Event(), asyncio.Event()

        async def run(given: Request) -> Finished:
            if len(service.runs) == 2:
                full.set()
            await release.wait()
            return ANSWER

        service = serve(run, ingress={"max_running": 2})
        first = [asyncio.create_task(call(service)) for _ in range(2)]
        await full.wait()
        refused = await call(service)
        release.set()
        statuses = [status_of(await task) for task in first]
        headers = dict(refused[0]["headers"])
        assert headers[b"retry-after"] == b"1"  # nothing has ended yet to judge by
        assert headers[b"x-fal-error-type"] == b"concurrent_requests_limit"
        return [status_of(refused), *statuses, status_of(await call(service))]

    assert asyncio.run(scenario()) == [429, 200, 200, 200]


def test_a_key_has_no_more_runs_than_it_may(serve: Serve) -> None:
    """The run beyond the key's concurrency gets 429, as long as the others run or are queued."""

    async def scenario() -> list[int]:
        full, release = asyncio.Event(), asyncio.Event()

        async def run(given: Request) -> Finished:
            full.set()
            await release.wait()
            return ANSWER

        service = serve(run)
        await service.store.add_key(api_key(concurrency=1))
        first = asyncio.create_task(call(service, key=OTHER_KEY))
        await full.wait()
        refused = await call(service, key=OTHER_KEY)
        another = asyncio.create_task(call(service))
        release.set()
        statuses = [status_of(await task) for task in (first, another)]
        headers = dict(refused[0]["headers"])
        assert headers[b"retry-after"] == b"1"
        assert headers[b"x-fal-error-type"] == b"concurrent_requests_limit"
        return [status_of(refused), *statuses, status_of(await call(service, key=OTHER_KEY))]

    assert asyncio.run(scenario()) == [429, 200, 200, 200]


def test_jobs_and_runs_share_the_limit_of_a_key(service: Service) -> None:
    """A job that runs counts as a run does."""
    key = {"Authorization": f"Key {OTHER_KEY}"}
    service.add_key(concurrency=1)
    assert service.client.post(f"/queue{CAPTION}", json=INPUT, headers=key).status_code == 200
    service.claim()

    response = service.client.post(CAPTION, json=INPUT, headers=key)

    assert (response.status_code, service.runs) == (429, [])
    assert f'{KEY_REFUSED}{{key="other",limit="concurrency"}} 1.0' in service.metrics()


@pytest.mark.parametrize("is_hung_up", [True, False])
def test_the_slot_of_a_key_is_given_back(serve: Serve, is_hung_up: bool) -> None:
    """Whether the caller disconnects or the run fails, the key may run again."""

    async def scenario() -> int:
        async def run(given: Request) -> Finished:
            if len(service.runs) > 1:
                return ANSWER
            if is_hung_up:
                await asyncio.Event().wait()
            raise GenerationError

        service = serve(run)
        await service.store.add_key(api_key(concurrency=1))
        await call(service, key=OTHER_KEY, hang_up=is_hung_up)
        return status_of(await call(service, key=OTHER_KEY))

    assert asyncio.run(scenario()) == 200


def test_a_run_that_is_cancelled_gives_its_slot_back(serve: Serve) -> None:
    """The server may end a request from outside, too."""

    async def scenario() -> bool:
        began = asyncio.Event()

        async def run(given: Request) -> Finished:
            began.set()
            await asyncio.Event().wait()
            return ANSWER

        service = serve(run)
        await service.store.add_key(api_key(concurrency=1))
        running = asyncio.create_task(call(service, key=OTHER_KEY))
        await began.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return await service.store.acquire_slot("other", "next", 1.0)

    assert asyncio.run(scenario())


def test_a_result_is_not_lost_when_the_slot_cannot_be_given_back(serve: Serve) -> None:
    """The store may go away within a run; the slot frees itself after the deadline."""
    store = AwayStore()

    async def run(given: Request) -> Finished:
        store.is_away = True
        return ANSWER

    store.is_away = False
    service = serve(run, store=store)
    service.add_key(concurrency=1)
    key = {"Authorization": f"Key {OTHER_KEY}"}

    assert service.client.post(CAPTION, json=INPUT, headers=key).status_code == 200


def test_a_key_begins_no_faster_than_it_may(serve: Serve) -> None:
    """Beyond its burst a key gets 429 with the time to wait, for runs and submits alike."""
    service = serve(keys={"hashes": [], "rate_burst": 2})
    service.add_key(rate=0.1)
    key = {"Authorization": f"Key {OTHER_KEY}"}

    first = service.client.post(CAPTION, json=INPUT, headers=key)
    second = service.client.post(f"/queue{CAPTION}", json=INPUT, headers=key)
    refused = [
        service.client.post(path, json=INPUT, headers=key) for path in (CAPTION, f"/queue{CAPTION}")
    ]

    assert [first.status_code, second.status_code] == [200, 200]
    assert [response.status_code for response in refused] == [429, 429]
    assert refused[0].json()["error_type"] == "rate_limit_exceeded"
    assert 9 <= int(refused[0].headers["retry-after"]) <= 10
    assert (len(service.runs), len(service.queued())) == (1, 1)
    assert f'{KEY_REFUSED}{{key="other",limit="rate"}} 2.0' in service.metrics()


def test_a_key_without_limits_needs_no_store(serve: Serve) -> None:
    """A key of the settings runs as long as the pipeline does, whatever the store does."""
    service = serve(store=AwayStore())

    assert service.post(INPUT).status_code == 200
    assert service.runs[0].picture_key == ""  # its picture is stored before it is answered


def test_a_key_with_limits_needs_the_store(serve: Serve) -> None:
    """What cannot be counted is not begun: 503, to be tried again."""
    store = AwayStore()
    store.is_away = False
    service = serve(store=store)
    service.add_key(rate=1.0)
    key = {"Authorization": f"Key {OTHER_KEY}"}
    assert service.client.post(CAPTION, json=INPUT, headers=key).status_code == 200
    store.is_away = True

    response = service.client.post(CAPTION, json=INPUT, headers=key)

    assert (response.status_code, response.json()["error_type"]) == (503, "store_unavailable")
    assert response.headers["x-fal-needs-retry"] == "1"


@pytest.mark.parametrize(
    ("preference", "expected"),
    [(None, None), ('{"expiration_duration_seconds": 60}', 60.0), ("{}", None)],
)
def test_files_are_kept_as_long_as_the_caller_wants(
    shared: Service, preference: str | None, expected: float | None
) -> None:
    """The lifecycle header says how long the picture of a run is wanted."""
    headers = {"X_Fal_Object_Lifecycle_Preference": preference} if preference else {}

    assert shared.post(INPUT, **headers).status_code == 200
    assert shared.runs[-1].files_ttl_s == expected


def test_a_lifecycle_that_is_not_understood_is_refused(shared: Service) -> None:
    """A picture that is kept too long, or not long enough, would be noticed too late."""
    response = shared.post(INPUT, X_Fal_Object_Lifecycle_Preference="soon")

    assert (response.status_code, response.json()["error_type"]) == (400, "bad_request")


def test_what_a_key_uses_is_counted(serve: Serve) -> None:
    """Each run that begins counts, an image for each result, and its share of the model's time."""

    async def run(given: Request) -> Finished:
        if given.input.image_url == "broken":
            raise FileDownloadError
        return ANSWER

    service = serve(run)
    with service.client:
        service.post(INPUT)
        service.post({"image_url": "broken"})
        service.post({})

    [used] = do(service.store.usage())
    assert (used.key_id, used.path) == (KEY_ID, "caption")
    assert (used.requests, used.images, used.model_s) == (2, 1, 0.0625)
    text = service.metrics()
    assert f'florence_ingress_key_requests_total{{key="{KEY_ID}"}} 2.0' in text
    assert f'florence_ingress_key_model_seconds_total{{key="{KEY_ID}"}} 0.0625' in text


def test_run_is_cancelled_on_disconnect(serve: Serve) -> None:
    """A caller that disconnects costs no more work; the attempt is counted as 499."""

    async def scenario() -> str:
        cancelled = asyncio.Event()

        async def run(given: Request) -> Finished:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return ANSWER

        service = serve(run)
        sent = await call(service, hang_up=True)
        assert cancelled.is_set()
        assert status_of(sent) == 499
        return service.metrics()

    counted = 'requests_total{endpoint="fal-ai/florence-2-large/caption",status="499"} 1.0'
    assert counted in asyncio.run(scenario())


def test_failing_connection_is_no_disconnect() -> None:
    """An error while waiting for the caller surfaces as itself."""

    async def broken() -> Message:
        raise OSError("broken")

    async def forever() -> Finished:
        await asyncio.Event().wait()
        return ANSWER

    with pytest.raises(OSError, match="broken"):
        asyncio.run(cancel_on_disconnect(HttpRequest({"type": "http"}, broken), forever()))


def test_disconnect_within_the_body(serve: Serve) -> None:
    """A caller that disconnects before the body is complete starts no run."""
    service = serve()

    sent = asyncio.run(call(service, body=[b'{"image'], more=True, hang_up=True))

    assert status_of(sent) == ClientDisconnected.status
    assert service.runs == []


def test_a_run_is_measured(service: Service) -> None:
    """Every stage of a run that succeeded shows in the metrics."""
    service.post(INPUT)
    text = service.metrics()

    assert 'florence_ingress_run_seconds_count{endpoint="fal-ai/florence-2-large/caption"} 1.0' in (
        text
    )
    assert "florence_ingress_running 0.0" in text
    assert "florence_preprocess_fetch_seconds_sum 0.1" in text
    assert "florence_preprocess_decode_seconds_sum 0.02" in text
    assert "florence_inference_queue_wait_seconds_sum 0.003" in text
    assert "florence_inference_model_seconds_sum 0.25" in text
    assert "florence_inference_batch_size_sum 4.0" in text
    assert "florence_inference_batches_total 0.25" in text
    assert "florence_inference_tokens_sum 12.0" in text
    assert "florence_postprocess_seconds_sum 0.0005" in text


async def call(
    service: Service,
    body: list[bytes] | None = None,
    more: bool = False,
    hang_up: bool = False,
    key: str = KEY,
) -> list[Message]:
    """The messages that answer a run whose body comes in pieces, and may stay incomplete."""
    pieces = body or [json.dumps(INPUT).encode()]
    waiting: list[Message] = [
        {"type": "http.request", "body": piece, "more_body": more or index < len(pieces) - 1}
        for index, piece in enumerate(pieces)
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        if waiting:
            return waiting.pop(0)
        if not hang_up:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await service.app(post_scope(key), receive, send)
    return sent


def api_key(**limits: Any) -> ApiKey:
    """A stored key."""
    return ApiKey(id="other", hash=hash_key(OTHER_KEY), **limits)


def post_scope(key: str = KEY) -> dict[str, Any]:
    """The ASGI scope of a run."""
    return {
        "type": "http",
        "method": "POST",
        "path": CAPTION,
        "scheme": "http",
        "query_string": b"",
        "headers": [(b"authorization", f"Key {key}".encode())],
    }


def status_of(messages: list[Message]) -> int:
    """The status that was sent."""
    return int(messages[0]["status"])
