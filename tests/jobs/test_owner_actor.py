"""An embedded store serves one node: a cluster of several is refused at the start."""

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.alone]

# In a process of its own, because a test session has one Ray already.
SCRIPT = """
import ray
from ray.cluster_utils import Cluster
from deployments.errors import SetupError
from deployments.jobs.sqlite.owner_actor import refuse_many_nodes
from deployments.settings import StoreSettings

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
refuse_many_nodes(StoreSettings())
print("one node: fine")
cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
refuse_many_nodes(StoreSettings(url="postgresql://database/florence"))
print("PostgreSQL: fine")
for url in ("sqlite:///queue.db", "memory:"):
    try:
        refuse_many_nodes(StoreSettings(url=url))
    except SetupError as error:
        print(error)
ray.shutdown()
cluster.shutdown()
"""


def test_two_nodes_need_postgresql() -> None:
    """The message says what to give instead."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, timeout=120
    )

    assert [line for line in done.stdout.splitlines() if "Ray" not in line] == [
        "one node: fine",
        "PostgreSQL: fine",
        "setting store.url: sqlite:///queue.db serves one node, and this cluster has 2: "
        "give postgresql://… as FLORENCE_STORE",
        "setting store.url: memory: serves one node, and this cluster has 2: "
        "give postgresql://… as FLORENCE_STORE",
    ], done.stderr
