"""What clients see when a part dies, or when too much is asked."""

import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import psutil
import pytest

from tests.acceptance.caller import PROPOSAL, Caller, error_type, scene, uri
from tests.acceptance.origin import Origin


def processes(deployment: str) -> list[psutil.Process]:
    """The replicas of a deployment."""
    title = f"ray::ServeReplica:florence:{deployment}"
    members = psutil.Process().children(recursive=True)
    found = [member for member in members if "".join(member.cmdline()).startswith(title)]
    assert found, f"no process is called {title}"
    return found


def kill(deployment: str) -> None:
    """Kill every replica of a deployment, as the kernel does when memory runs out."""
    for replica in processes(deployment):
        replica.kill()


@contextmanager
def load(caller: Caller, concurrency: int) -> Iterator[list[httpx2.Response]]:
    """Clients that ask again and again while the block runs; yields what they were answered."""
    image_url = uri(scene(0, (256, 256)).image)
    answers: list[httpx2.Response] = []
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            answers.append(caller.send(image_url))

    with ThreadPoolExecutor(concurrency) as threads:
        clients = [threads.submit(client) for _ in range(concurrency)]
        try:
            yield answers
        finally:
            stop.set()
            for asking in clients:
                asking.result()


def wait_for(answers: list[httpx2.Response], more: int) -> None:
    """Wait until `more` further answers have come, for at most a minute."""
    goal, deadline = len(answers) + more, time.monotonic() + 60
    while len(answers) < goal:
        assert time.monotonic() < deadline, "no more answers"
        time.sleep(0.05)


@pytest.mark.parametrize("deployment", ["Inference", "Preprocess", "Postprocess"])
def test_a_killed_replica_is_no_error_for_a_client(caller: Caller, deployment: str) -> None:
    """A replica dies under eight clients, and every one of their requests is answered."""
    with load(caller, 8) as answers:
        wait_for(answers, 16)
        kill(deployment)
        wait_for(answers, 32)

    assert [answer.text for answer in answers if answer.status_code != 200] == []


def test_the_service_is_ready_again_after_a_death(caller: Caller) -> None:
    """/ready fails until every deployment answers; /health stays good."""
    kill("Inference")
    deadline = time.monotonic() + 60
    while caller.http.get(f"{caller.url}/ready").status_code != 200:
        assert caller.http.get(f"{caller.url}/health").status_code == 200
        assert time.monotonic() < deadline, "not ready again"
        time.sleep(0.2)

    assert caller.send(scene(0).image).status_code == 200


@contextmanager
def frozen(deployment: str) -> Iterator[None]:
    """A deployment that does nothing while the block runs."""
    for replica in processes(deployment):
        replica.suspend()
    try:
        yield
    finally:
        for replica in processes(deployment):
            replica.resume()


def test_overload_is_429_with_retry_after(caller: Caller) -> None:
    """What cannot wait is refused, and says when to come again; the rest is answered."""
    image_url = uri(scene(0, (256, 256)).image)
    with ThreadPoolExecutor(60) as threads:
        with frozen("Inference"):
            asking = [threads.submit(caller.send, image_url) for _ in range(60)]
            time.sleep(2)  # all of them wait for the model now
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


def num_answered(caller: Caller, status: int) -> float:
    """How many runs ended with this status, as /metrics says."""
    text = caller.http.get(f"{caller.url}/metrics").text
    line = rf'^florence_ingress_requests_total{{.*region-proposal.*"{status}"}} (\S+)'
    return sum(map(float, re.findall(line, text, re.MULTILINE)))


def hang_up(caller: Caller, origin: Origin, after_s: float) -> None:
    """Begin a run that hangs, leave, and wait until the run is counted as cancelled."""
    before = num_answered(caller, 499)
    impatient = httpx2.Client(timeout=after_s, trust_env=False)
    with impatient, pytest.raises(httpx2.ReadTimeout):
        Caller(caller.url, caller.key, impatient).send(f"{origin.url}/hangs")
    deadline = time.monotonic() + 10
    while num_answered(caller, 499) == before:
        assert time.monotonic() < deadline, "the disconnect was not noticed"
        time.sleep(0.1)


def test_a_disconnect_cancels_the_run(caller: Caller, origin: Origin) -> None:
    """A run whose caller has left is cancelled and counted as such, and others are served."""
    hang_up(caller, origin, after_s=0.3)

    assert caller.send(scene(0).image).status_code == 200
