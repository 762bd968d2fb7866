"""Replicas find pods: Ray's autoscaler is asked what it would start for the rendered chart."""

import inspect
import sys

import pytest
from ray.autoscaler.v2.instance_manager.config import InstanceReconcileConfig

from tests.k8s.autoscaling import launched, least, most, node_types
from tests.k8s.rendered import NAMES, SINGLE, cluster, deployments

DEPLOYMENTS = deployments("ha-redis").items()
GROUPED = [name for name in NAMES if name not in SINGLE]


@pytest.mark.parametrize("name", [*GROUPED, "everything"])
def test_ray_reads_the_groups_as_they_are_meant(name: str) -> None:
    """Limits, idle time, labels, CPUs and GPUs; parts of GPUs too."""
    read = node_types(name)
    for group in cluster(name)["workerGroupSpecs"]:
        found = read[group["groupName"]]
        assert found["min_workers"] == group["minReplicas"]
        assert found["max_workers"] == group["maxReplicas"]
        assert found["idle_timeout_s"] == group["idleTimeoutSeconds"]
        assert found["labels"] == group["labels"]
        assert found["resources"]["GPU"] == (1 if group["labels"]["florence/pool"] == "gpu" else 0)
        asked = group["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"]
        assert found["resources"]["CPU"] == int(asked)


@pytest.mark.parametrize("name", GROUPED)
def test_the_least_replicas_fit_into_the_least_pods(name: str) -> None:
    """So that a fresh cluster answers without growing."""
    pods, unmet = launched(name, least(name))
    assert unmet == 0
    for group, found in node_types(name).items():
        assert pods[group] == found["min_workers"], group


@pytest.mark.parametrize("name", GROUPED)
def test_the_most_replicas_of_a_release_find_pods(name: str) -> None:
    """At the peak of the load, with old and new replicas together."""
    _, unmet = launched(name, most(name))
    assert unmet == 0


def test_replicas_that_keep_apart_find_as_many_pods() -> None:
    """Also while a release adds new ones."""
    pods = node_types("ha-redis")["cpu"]["max_workers"]
    apart = {
        n: deployment["max_replicas_per_node"]
        for n, deployment in DEPLOYMENTS
        if "max_replicas_per_node" in deployment
    }
    assert apart == {"Ingress": 1, "Dispatcher": 1}
    for name, each in apart.items():
        assert most("ha-redis")[name] <= pods * each, name


@pytest.mark.parametrize("replicas", [1, 3, 8])
def test_each_replica_of_the_model_brings_a_gpu_pod(replicas: int) -> None:
    """And no pod without a GPU."""
    pods, unmet = launched("groups", least("groups") | {"Inference": replicas})
    assert unmet == 0
    assert pods == {"cpu": 2, "gpu": replicas}


def test_deployments_without_a_model_bring_no_gpu_pod() -> None:
    """However many they are."""
    pods, unmet = launched("groups", {"Preprocess": 32, "Ingress": 20})
    assert unmet == 0
    assert pods == {"cpu": 13, "gpu": 1}  # which is always there


def test_without_the_label_they_would_sit_on_gpu_pods() -> None:
    """So that the test above can fail."""
    for deployment in deployments("one-gpu").values():
        assert "label_selector" not in deployment["ray_actor_options"]
    pods, _ = launched("one-gpu", least("one-gpu"))
    assert pods == {"gpu": 1}


def test_spot_pods_come_first() -> None:
    """Above the one on-demand pod that is always there."""
    pods, unmet = launched("spot-with-fallback", {"Inference": 5})
    assert unmet == 0
    assert pods == {"cpu": 2, "spot": 4, "on-demand": 1}


def test_on_demand_pods_come_when_there_is_no_spot() -> None:
    """The cloud had none when it was last asked."""
    pods, unmet = launched("spot-with-fallback", {"Inference": 3}, {"spot": 0.0})
    assert unmet == 0
    assert pods == {"cpu": 2, "on-demand": 3}


def test_a_pod_that_does_not_come_is_given_up_in_time() -> None:
    """By the variable that Ray's autoscaler reads; its own timeout of an hour is too long."""
    name = "RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S"
    code = inspect.getsource(sys.modules[InstanceReconcileConfig.__module__])
    assert f'"{name}"' in code
    for example, seconds in (("groups", "900"), ("spot-with-fallback", "300")):
        assert {"name": name, "value": seconds} in cluster(example)["autoscalerOptions"]["env"]


def test_more_than_there_may_be_waits() -> None:
    """Beyond `maxReplicas` nothing is started."""
    pods, unmet = launched("one-gpu", {"Inference": 3})
    assert pods == {"gpu": 1}
    assert unmet == 2


def test_one_pod_holds_all_of_the_demo() -> None:
    """Its CPUs are those that the head offers."""
    offered = int(cluster("cpu-demo")["headGroupSpec"]["rayStartParams"]["num-cpus"])
    asked = sum(
        deployment["ray_actor_options"]["num_cpus"]
        for deployment in deployments("cpu-demo").values()
    )
    assert asked <= offered
