"""Ray's own autoscaler with simulated nodes: the service grows and shrinks with its queue."""

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.acceptance.caller import error_type, scene
from tests.acceptance.origin import Origin
from tests.jobs.postgres import postgres as postgres
from tests.scaling.cluster import HEAD, growing_cluster
from tests.scaling.service import Service, deployed, placed

BURST = 200
CLIENTS = 16  # the model's target twice
DOWNLOAD_S = 12.0
IMAGE = scene(0, (256, 256)).image
SCALING = {
    "min_replicas": 0,
    "max_replicas": 3,
    "target_ongoing_requests": 8,
    "metrics_interval_s": 1,
    "look_back_period_s": 5,
    "upscale_delay_s": 0.5,
    "downscale_delay_s": 5,
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


def test_nodes_follow_the_queue(postgres: str) -> None:
    """The model scales from no replica to three on three nodes and back, twice; no job is refused.

    Requests wait in the queue while there is no node that could answer them.
    """
    options = dict.fromkeys(ON_HEAD, placed(HEAD)) | {"Inference": ON_GPUS}
    origin = Origin(b"")
    origin.start()
    args = {
        "store": {"url": postgres},
        "preprocess": {
            "allowed_hosts": [f"127.0.0.1:{origin.port}"],
            "fetch_timeout_s": DOWNLOAD_S,
        },
    }
    with (
        tempfile.TemporaryDirectory(prefix="fl-") as short,
        growing_cluster(Path(short), max_workers=3) as access,
        deployed(access, Path(short), options, args) as service,
        ThreadPoolExecutor(CLIENTS) as threads,
    ):
        a_burst_brings_nodes(service, threads)
        service.observer.wait_for(lambda now: now["running"] == 0 and now["nodes"] == 1)
        what_comes_later_waits_for_a_node(service)
        downloads_bring_no_nodes(service, threads, f"{origin.url}/hangs")
    origin.stop()


def a_burst_brings_nodes(service: Service, threads: ThreadPoolExecutor) -> None:
    """All jobs are answered, by the most nodes."""
    seen = service.observer
    seen.wait_for(lambda now: now["nodes"] == 1 and now["running"] == 0)
    submitted_at = time.time()
    names = list(threads.map(service.submit, [IMAGE] * BURST))
    assert "IN_QUEUE" in set(map(service.status, names[-10:]))
    results = list(threads.map(service.result, names))

    assert [answer.text for answer in results if answer.status_code != 200] == []
    assert all(answer.json()["results"]["bboxes"] for answer in results)
    assert seen.most("nodes") == 4
    assert seen.most("wanted") == 3
    decided_s = next(now["at"] for now in seen.seen if now["wanted"]) - submitted_at
    print(f"decided {decided_s:.1f} s after the first submit")  # noqa: T201, with pytest -s


def what_comes_later_waits_for_a_node(service: Service) -> None:
    """A later job is answered by a new node."""
    late = service.submit(IMAGE)
    assert service.status(late) == "IN_QUEUE"
    assert service.result(late).status_code == 200


def downloads_bring_no_nodes(service: Service, threads: ThreadPoolExecutor, url: str) -> None:
    """A run whose image is being fetched does not scale the model, nor does a failed fetch.

    Ray's issues 59882 and 60624: replicas were started for such runs.
    """
    service.submit(IMAGE)  # so that there is a replica that they could be counted for
    service.observer.wait_for(lambda now: now["running"] == 1)
    begun = len(service.observer.seen)
    answers = list(threads.map(service.run, [url] * CLIENTS))

    assert {error_type(answer) for answer in answers} == {"file_download_error"}
    meanwhile = service.observer.seen[begun:]
    assert meanwhile[-1]["at"] - meanwhile[0]["at"] > DOWNLOAD_S - 1
    assert max(now["wanted"] for now in meanwhile) == 1
