"""What clients see when a part dies, or when too much is asked."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx2
import pytest

from tests.acceptance.caller import PROPOSAL, Caller, error_type, load, scene, uri, wait_for
from tests.acceptance.origin import Origin
from tests.acceptance.replicas import frozen, kill, replicas, wait_until_idle

READY_S = 60.0


@dataclass(frozen=True)
class Death:
    """What clients saw of a replica's death: answers to runs, statuses of /health until ready."""

    answers: list[httpx2.Response]
    health: set[int]


@pytest.fixture(scope="module", params=["Inference", "Preprocess", "Postprocess"])
def death(caller: Caller, request: pytest.FixtureRequest) -> Death:
    """A replica dies under eight clients, who go on until the service is ready again."""
    health = set()
    with load(caller, 8) as answers:
        wait_for(answers, 16)
        kill(request.param)
        deadline, ready = time.monotonic() + READY_S, False
        while not ready:
            assert time.monotonic() < deadline, "not ready again"
            health.add(status(caller, "/health"))
            ready = status(caller, "/ready") == 200
        wait_for(answers, 32)
    return Death(answers, health)


def status(caller: Caller, path: str) -> int:
    return caller.http.get(caller.url + path).status_code


def test_a_killed_replica_is_no_error_for_a_client(death: Death) -> None:
    """Every one of their requests is answered."""
    assert [answer.text for answer in death.answers if answer.status_code != 200] == []


def test_health_stays_good_while_the_service_is_not_ready(death: Death) -> None:
    """/ready fails until every deployment answers."""
    assert death.health == {200}


def test_overload_is_429_with_retry_after(caller: Caller) -> None:
    """What cannot wait is refused, and says when to come again; the rest is answered."""
    image_url = uri(scene(0, (256, 256)).image)
    with ThreadPoolExecutor(60) as threads:
        with frozen("Inference"):
            asking = [threads.submit(caller.send, image_url) for _ in range(60)]
            wait_until_idle([*replicas("Ingress"), *replicas("Preprocess")])
        answers = [future.result() for future in asking]
    refused = [answer for answer in answers if answer.status_code != 200]

    assert {answer.status_code for answer in answers} == {200, 429}
    assert {error_type(answer) for answer in refused} == {"concurrent_requests_limit"}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)


def test_the_callers_own_timeout(caller: Caller) -> None:
    """A run that cannot start within X-Fal-Request-Timeout gets a 504 that is not retried."""
    headers = caller.authorization | {"X-Fal-Request-Timeout": "0.001"}
    body = {"image_url": uri(scene(0).image)}
    response = caller.http.post(caller.url + PROPOSAL, json=body, headers=headers)

    assert (response.status_code, error_type(response)) == (504, "request_timeout")
    assert response.headers["x-fal-request-timeout-type"] == "user"


def test_a_disconnect_cancels_the_run(caller: Caller, origin: Origin) -> None:
    """A run whose caller has left is cancelled and counted as such, and others are served."""
    before = caller.num_ended(499)
    impatient = httpx2.Client(timeout=0.3, trust_env=False)
    with impatient, pytest.raises(httpx2.ReadTimeout):
        Caller(caller.url, caller.key, impatient).send(f"{origin.url}/hangs")
    deadline = time.monotonic() + 10
    while caller.num_ended(499) == before:
        assert time.monotonic() < deadline, "the disconnect was not noticed"
        time.sleep(0.1)

    assert caller.send(scene(0).image).status_code == 200
