"""What the running service exports, and what `florence top` makes of it."""

import json
import os
import pty
import re
import select
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from deployments.cli.top import samples_in
from deployments.local.launch import metrics_targets
from deployments.local.state import StateFolder
from deployments.ray_compat import exporter_addresses
from deployments.telemetry.metrics import METRICS
from k8s.generate.panels import ROWS
from tests.acceptance.caller import APP, PROPOSAL, Caller, load, scene, uri, wait_for
from tests.acceptance.command import FLORENCE, florence
from tests.acceptance.origin import Origin
from tests.acceptance.receiver import Receiver
from tests.acceptance.replicas import kill, replicas, wait_until_idle
from tests.k8s.promtool import alerts, exported_names

SOON_S = 90.0
REPORT_S = 5.0  # deployments report to Ray every two seconds
IMAGE = uri(scene(0, (256, 256)).image)

# What does not happen here, and the tests in which it does.
ELSEWHERE = {
    "florence_preprocess_shared_total": "no URL is asked for twice; tests/test_deployments.py",
    "florence_postprocess_pictures_lost_total": "no picture is lost; tests/files/test_pictures.py",
    "florence_postprocess_shapes_dropped_total": "the demo draws none; tests/test_deployments.py",
    "florence_queue_key_running": "nothing runs any more; but see `used`",
    "florence_dispatcher_rescued_total": "no worker dies; tests/jobs/test_maintenance.py",
    "florence_store_errors_total": "the store is there; tests/jobs/test_instrumented.py",
}
# What the dashboard and the alerts name, and an installation on one machine does not have.
ON_A_CLUSTER = {
    "ray_florence_autoscaling_reading_age_seconds": "no policy here; tests/test_autoscaling.py",
    "ray_florence_autoscaling_stale": "no policy here; tests/test_autoscaling.py",
    "ray_florence_autoscaling_wanted_replicas": "no policy here; tests/test_autoscaling.py",
}
# Gauges that may stand at zero when they are looked at.
LEVELS = {name for name, metric in METRICS.items() if metric.kind == "gauge"} - {
    "florence_inference_slots", "florence_store_up", "florence_store_bytes",
    "florence_store_free_bytes",
}  # fmt: skip


def exported() -> Mapping[str, float]:
    """Each metric that Ray's exporter has, all its series added up; of a histogram the count."""
    found: dict[str, float] = defaultdict(float)
    for target, text in exporters_say():
        for (name, _), value in samples_in(text, target).items():
            found[name.removesuffix("_count")] += value
    return found


def exporters_say() -> Iterator[tuple[str, str]]:
    """Each of Ray's exporters, and its whole text."""
    for target in exporter_addresses():
        yield target, httpx2.get(f"http://{target}/metrics", trust_env=False, timeout=30).text


def asked_for() -> set[str]:
    """The metrics that alerts and dashboard name, but for those of what happens elsewhere."""
    panels = [query.expr for row in ROWS for panel in row.panels for query in panel.queries]
    names = exported_names([*panels, *(alert["expr"] for alert in alerts())])
    return names - ON_A_CLUSTER.keys() - {f"ray_{name}" for name in ELSEWHERE}


def named() -> set[str]:
    """The name of every sample that is exported, Ray's own among them."""
    lines = (line for _, text in exporters_say() for line in text.splitlines())
    return {re.split(r"[{ ]", line, maxsplit=1)[0] for line in lines if not line.startswith("#")}


@pytest.fixture(scope="module")
def used(
    caller: Caller, origin: Origin, receiver: Receiver, state: StateFolder
) -> Mapping[str, float]:
    """Use every part of the service, and wait for the next report to Ray; the metrics then."""
    refuse(caller, state)
    path = f"/hooks/{uuid4()}"

    def run_long() -> None:
        submit(caller, f"{origin.url}/hangs", 1, receiver.url(path))

    run_long()
    until_moved("florence_queue_key_running", run_long)
    with load(caller, 6) as answers:
        until_moved("florence_ingress_retries_total", lambda: die_under_runs(answers))
        until_moved("florence_dispatcher_retries_total", lambda: die_under_jobs(caller, answers))
    assert {answer.status_code for answer in answers} <= {200, 429}
    assert receiver.deliveries(path)
    cut = caller.post({"image_url": IMAGE, "max_new_tokens": 2}, PROPOSAL)
    assert cut.json()["truncated"]
    deadline = time.monotonic() + SOON_S
    while missing(found := exported()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def refuse(caller: Caller, state: StateFolder) -> None:
    """Ask more often than a key may."""
    made = florence(
        "keys", "create", "--name", "slow", "--rate", "1/h", "--state", str(state.folder), "--json"
    )
    slow = Caller(caller.url, json.loads(made.stdout)["key"], caller.http)
    statuses = []
    while 429 not in statuses:
        statuses.append(slow.send(IMAGE).status_code)
        assert len(statuses) < 30


def submit(caller: Caller, image_url: str, number: int, webhook_url: str = "") -> list[str]:
    """Submit jobs at the same time; their ids."""
    hook = {"fal_webhook": webhook_url} if webhook_url else {}

    def ask(_: int) -> str:
        answer = caller.post({"image_url": image_url}, f"/queue{PROPOSAL}", params=hook)
        return str(answer.json()["request_id"])

    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(ask, range(number)))


def die_under_runs(answers: list[httpx2.Response]) -> None:
    """Kill the model while runs wait for it."""
    for replica in replicas("Inference"):
        replica.suspend()
    wait_until_idle([*replicas("Ingress"), *replicas("Preprocess")])
    kill("Inference")
    wait_for(answers, 12)


def die_under_jobs(caller: Caller, answers: list[httpx2.Response]) -> None:
    """Kill the model while jobs are with it."""
    wait_until_begun(caller, submit(caller, IMAGE, 48)[-1])
    kill("Inference")
    wait_for(answers, 12)


def until_moved(name: str, step: Callable[[], None]) -> None:
    """Take a step until a metric has moved: what it counts is likely then, and not certain."""
    deadline = time.monotonic() + 2 * SOON_S  # for some steps, each of which restarts the model
    while not has_moved(name, exported()):
        assert time.monotonic() < deadline, f"{name} does not move"
        step()
        wait_for_ray(name)


def wait_for_ray(name: str) -> None:
    """Wait until a metric has moved, for as long as exporting it may take."""
    deadline = time.monotonic() + REPORT_S
    while not has_moved(name, exported()) and time.monotonic() < deadline:
        time.sleep(0.2)


def wait_until_begun(caller: Caller, request_id: str) -> None:
    """Wait until a Dispatcher has claimed a request."""
    url = f"{caller.url}/queue{APP}/requests/{request_id}/status"
    deadline = time.monotonic() + SOON_S
    while caller.http.get(url, headers=caller.authorization).json()["status"] == "IN_QUEUE":
        assert time.monotonic() < deadline


def missing(found: Mapping[str, float]) -> set[str]:
    """The metrics that should have appeared or moved, and have not."""
    return {
        name
        for name in METRICS.keys() - ELSEWHERE.keys()
        if name not in found or (name not in LEVELS and not has_moved(name, found))
    }


def has_moved(name: str, found: Mapping[str, float]) -> bool:
    """It is above zero, where a service begins that has not been used."""
    return found.get(name, 0.0) > 0


def test_every_metric_is_exported_and_moves(used: Mapping[str, float]) -> None:
    """All that are declared, but those that are about what does not happen here."""
    assert missing(used) == set()
    assert not set(ELSEWHERE) - set(METRICS)


def test_what_alerts_and_dashboard_ask_for_is_exported(used: Mapping[str, float]) -> None:
    """Under the very name, which for Ray's own nothing else holds to."""
    lacking, deadline = asked_for(), time.monotonic() + SOON_S
    while lacking and time.monotonic() < deadline:
        lacking -= named()  # a gauge of Serve's is missing now and then
    assert lacking == set()
    assert len(asked_for()) > 40


def test_the_pages_of_the_ingress_have_the_queue(caller: Caller, used: Mapping[str, float]) -> None:
    """`/metrics` alone says what waits, without Ray."""
    text = caller.http.get(f"{caller.url}/metrics").text
    assert "florence_store_up 1.0" in text
    assert 'florence_queue_requests{state="queued"}' in text
    assert 'florence_webhooks{state="delivered"}' in text


@pytest.fixture
def known(caller: Caller, state: StateFolder) -> Iterator[Path]:
    """The state folder of a service that says where its metrics are, as `florence serve` does."""
    with metrics_targets(state):
        yield state.folder


def test_top_finds_the_service_by_itself(caller: Caller, known: Path) -> None:
    """Its numbers are those of the load; nothing but the state folder is given."""
    deadline = time.monotonic() + SOON_S
    with load(caller, 4):
        while not all(rates(seen := seen_by_top(known))):  # no report to Ray lay between
            assert time.monotonic() < deadline, seen
    assert all(rate > 0 for rate in rates(seen))
    assert seen["engine"]["busy"] <= 1
    assert seen["engine"]["fill"] <= 1
    assert seen["engine"]["replicas"] == 1
    assert seen["store"]["is_up"]


def seen_by_top(state: Path) -> dict[str, Any]:
    """What `florence top` says of a few seconds."""
    done = florence("top", "--json", "--window", "4", "--state", str(state))
    assert (done.returncode, done.stderr) == (0, "")
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def rates(seen: dict[str, Any]) -> list[float]:
    """What is above zero under load: responses per second, shares of the model, seconds."""
    return [
        seen["traffic"]["by_status_per_s"].get("200", 0.0),
        seen["engine"]["busy"],
        seen["engine"]["fill"],
        seen["stages"]["model"]["p95_s"],
        seen["cpu"]["inference"]["per_image_s"],
    ]


def test_top_draws_on_a_terminal_until_it_is_interrupted(caller: Caller, known: Path) -> None:
    """A picture every so often; Ctrl-C leaves the terminal as it was, and is no failure."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*FLORENCE, "top", "--every", "0.5", "--state", str(known)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"COLUMNS": "80", "LINES": "24", "TERM": "xterm"},
        start_new_session=True,
    )
    os.close(theirs)
    text = b""
    try:
        text = read_until(ours, lambda text: text.count(b"florence top") >= 3)
    finally:
        process.send_signal(2)
        text += read_until(ours, lambda _: process.poll() is not None)
        os.close(ours)
    assert process.wait(60) == 0
    assert b"Traceback" not in text
    assert b"\x1b[?1049h" in text
    assert b"\x1b[?1049l" in text


def read_until(terminal: int, is_enough: Callable[[bytes], bool]) -> bytes:
    """What is written to a terminal until it is enough, or the writer has left."""
    text, deadline = b"", time.monotonic() + SOON_S
    while not is_enough(text):
        assert time.monotonic() < deadline, text.decode(errors="replace")
        if select.select([terminal], [], [], 0.2)[0]:
            with suppress(OSError):  # the other side has closed it
                text += os.read(terminal, 65536)
    return text
