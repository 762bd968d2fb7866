"""Ray's own autoscaler with simulated nodes: the service grows and shrinks with its queue."""

import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import httpx2
import pytest

from tests.acceptance.caller import error_type, scene
from tests.acceptance.origin import Origin
from tests.jobs.postgres import postgres as postgres
from tests.scaling.cluster import HEAD, growing_cluster
from tests.scaling.service import TIMEOUT_S, Service, deployed, placed

NODES = 2
TARGET = 8  # requests for a replica
CLIENTS = 3 * TARGET
DOWNLOADS = 2 * TARGET
DOWNLOAD_S = 6.0  # in which a request would be counted, several times over
IMAGE = scene(0, (256, 256)).image
SCALING = {
    "min_replicas": 0,
    "max_replicas": NODES,
    "target_ongoing_requests": TARGET,
    "metrics_interval_s": 1,
    "look_back_period_s": 2,
    "upscale_delay_s": 0.5,
    "downscale_delay_s": 4,
    "policy": {
        "policy_function": "deployments.autoscaling:BacklogPolicy",
        "policy_kwargs": {"objective_s": 30, "stale_s": 30},
    },
}
ON_HEAD = ("Ingress", "Preprocess", "Postprocess", "Dispatcher")
ON_GPUS = {
    "num_replicas": None,
    "autoscaling_config": SCALING,
    "ray_actor_options": {"num_cpus": 0, "num_gpus": 1},
}


@pytest.fixture
def origin() -> Iterator[Origin]:
    """A web server that the service may fetch from."""
    server = Origin(b"")
    server.start()
    yield server
    server.stop()


def test_nodes_follow_the_queue(postgres: str, origin: Origin) -> None:
    """The model scales from no replica to one on each node and back, twice; no job is refused.

    Requests wait in the queue while there is no node that could answer them.
    """
    options = dict.fromkeys(ON_HEAD, placed(HEAD)) | {"Inference": ON_GPUS}
    args = {
        "store": {"url": postgres},
        "preprocess": {
            "allowed_hosts": [f"127.0.0.1:{origin.port}"],
            "fetch_timeout_s": DOWNLOAD_S,
        },
    }
    with (
        tempfile.TemporaryDirectory(prefix="fl-") as short,
        growing_cluster(Path(short), max_workers=NODES) as access,
        deployed(access, Path(short), options, args) as service,
        ThreadPoolExecutor(CLIENTS) as threads,
    ):
        a_burst_brings_nodes(service, threads)
        service.observer.wait_for(lambda now: now["running"] == 0 and now["nodes"] == 1)
        what_comes_later_waits_for_a_node(service)
        downloads_bring_no_nodes(service, threads, f"{origin.url}/hangs")


def a_burst_brings_nodes(service: Service, threads: ThreadPoolExecutor) -> None:
    """Jobs wait for a node, and so many bring all nodes; each is answered."""
    seen = service.observer
    seen.wait_for(lambda now: now["nodes"] == 1 and now["running"] == 0)
    first = service.submit(IMAGE)
    assert service.status(first) == "IN_QUEUE"
    results = [*chain(*threads.map(lambda _: jobs_until_all_nodes(service), range(CLIENTS)))]
    results.append(service.result(first))

    assert [answer.text for answer in results if answer.status_code != 200] == []
    assert all(answer.json()["results"]["bboxes"] for answer in results)
    assert seen.most("nodes") == 1 + NODES
    assert seen.most("wanted") == NODES


def jobs_until_all_nodes(service: Service) -> list[httpx2.Response]:
    """The results of one client's jobs, one after the other until every node is there."""
    deadline = time.monotonic() + TIMEOUT_S
    results = [service.result(service.submit(IMAGE))]
    while service.observer.most("nodes") < 1 + NODES:
        assert time.monotonic() < deadline, "there are not all nodes"
        results.append(service.result(service.submit(IMAGE)))
    return results


def what_comes_later_waits_for_a_node(service: Service) -> None:
    """A later job is answered by a new node."""
    later = service.submit(IMAGE)
    assert service.status(later) == "IN_QUEUE"
    assert service.result(later).status_code == 200


def downloads_bring_no_nodes(service: Service, threads: ThreadPoolExecutor, url: str) -> None:
    """A run whose image is being fetched does not scale the model, nor does a failed fetch.

    Ray's issues 59882 and 60624: replicas were started for such runs.
    """
    service.submit(IMAGE)  # so that there is a replica that they could be counted for
    service.observer.wait_for(lambda now: now["running"] == 1)
    begun = len(service.observer.seen)
    answers = list(threads.map(service.run, [url] * DOWNLOADS))

    assert {error_type(answer) for answer in answers} == {"file_download_error"}
    meanwhile = service.observer.seen[begun:]
    assert meanwhile[-1]["at"] - meanwhile[0]["at"] > DOWNLOAD_S - 1
    assert max(now["wanted"] for now in meanwhile) == 1
