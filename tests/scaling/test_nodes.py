"""Ray's real autoscaler over pretended nodes: the service grows with its queue and shrinks."""

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.acceptance.caller import scene
from tests.queueing.postgres import postgres as postgres
from tests.scaling.cluster import HEAD, growing_cluster
from tests.scaling.service import deployed, placed

pytestmark = pytest.mark.slow

BURST = 200
SCALING = {
    "min_replicas": 0,
    "max_replicas": 3,
    "target_ongoing_requests": 8,
    "look_back_period_s": 12,
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
    """From no replica of the model to three on three nodes and back, twice; nothing is refused.

    Requests wait in the queue while there is no node that could answer them.
    """
    options = {box: placed(HEAD) for box in ON_HEAD} | {"Inference": ON_GPUS}
    image = scene(0, (256, 256)).image
    with (
        tempfile.TemporaryDirectory(prefix="fl-") as short,
        growing_cluster(Path(short), max_workers=3) as access,
        deployed(access, Path(short), postgres, options) as service,
        ThreadPoolExecutor(8) as threads,
    ):
        seen = service.observer
        seen.wait_for(lambda now: now["nodes"] == 1 and now["running"] == 0)
        submitted_at = time.time()
        names = list(threads.map(service.submit, [image] * BURST))
        assert "IN_QUEUE" in set(map(service.status, names[-10:]))
        results = list(threads.map(service.result, names))

        assert [answer.text for answer in results if answer.status_code != 200] == []
        assert all(answer.json()["results"]["bboxes"] for answer in results)
        assert seen.most("nodes") == 4
        assert seen.most("wanted") == 3
        decided_s = next(now["at"] for now in seen.seen if now["wanted"]) - submitted_at
        print(f"decided {decided_s:.1f} s after the first submit")  # noqa: T201, with pytest -s

        seen.wait_for(lambda now: now["running"] == 0 and now["nodes"] == 1)
        late = service.submit(image)
        assert service.status(late) == "IN_QUEUE"
        assert service.result(late).status_code == 200
