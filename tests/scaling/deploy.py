"""Deploys the service to a cluster, and prints its state until its input ends.

usage: deploy.py PROFILE   (a JSON file: settings, options of the deployments, http, a folder)

The cluster is RAY_ADDRESS; without it, a head and two nodes are started here, and for each line
of input one of those is killed.
Prints a line of JSON each half second: the nodes, and the model's replicas.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import ray
from ray import serve
from ray.cluster_utils import Cluster
from ray.exceptions import RayError
from ray.serve.schema import LoggingConfig

from deployments.app import assemble
from deployments.settings import parse, with_environment
from tests.scaling.cluster import HEAD, NODE, STORE_BYTES

EVERY_S = 0.5
ENVIRONMENT = {
    "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "1",
    "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "1",
}


def main(profile: dict[str, Any]) -> None:
    """Deploy, and remove a node for each line of input."""
    if "RAY_ADDRESS" in os.environ:
        deploy(profile)
        sys.stdin.read()
    else:
        with small_cluster(profile["folder"]) as cluster:
            deploy(profile)
            for _ in sys.stdin:
                cluster.remove_node(another_node(cluster), allow_graceful=False)
    os._exit(0)  # the cluster ends anyway; a graceful end would take its time


def deploy(profile: dict[str, Any]) -> None:
    """Run the application, and start the thread that prints its state."""
    ray.init(os.environ["RAY_ADDRESS"], log_to_driver=False)
    environment = {"runtime_env": {"env_vars": ENVIRONMENT}}
    http = profile["http"]
    serve.start(proxy_location="HeadOnly", http_options=http, controller_options=environment)
    application = assemble(with_environment(parse(profile["settings"])), profile["options"])
    quiet = LoggingConfig(log_level="WARNING")
    serve.run(application, name="florence", blocking=False, logging_config=quiet)
    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def small_cluster(folder: str) -> Iterator[Cluster]:
    """A head and two nodes of the same size, with their files in `folder`."""
    memory: dict[str, Any] = {"object_store_memory": STORE_BYTES}
    head = (
        memory
        | {"temp_dir": folder}
        | {"num_cpus": 4, "resources": {HEAD: 1}, "include_dashboard": False}
    )
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=4, resources={NODE: 1}, **memory)
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        yield cluster
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


def another_node(cluster: Cluster) -> Any:
    """A node other than this process's own, through which it sees the cluster."""
    own = ray.get_runtime_context().get_node_id()
    return next(node for node in cluster.worker_nodes if node.node_id != own)


def watch() -> None:
    """Print the state every half second."""
    while True:
        with suppress(RayError):  # the head has no time, as when a node has just been lost
            print(json.dumps(standing()), flush=True)  # noqa: T201, this is its output
        time.sleep(EVERY_S)


def standing() -> dict[str, float]:
    """The current numbers of nodes and replicas."""
    model = serve.status().applications["florence"].deployments["Inference"]
    replicas = cast(dict[str, int], model.replica_states)
    return {
        "at": time.time(),
        "nodes": sum(node["Alive"] for node in ray.nodes()),  # type: ignore[no-untyped-call]
        "running": replicas.get("RUNNING", 0),
        "wanted": sum(number for state, number in replicas.items() if state != "STOPPING"),
    }


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
