"""KubeRay's operator would take it: the rules that it checks after the API server has.

Restated of ValidateRayServiceMetadata, ValidateRayServiceSpec and ValidateRayClusterSpec of KubeRay
1.7 (ray-operator/controllers/ray/utils/validation.go).
"""

import re
from typing import Any

import pytest

from tests.k8s.rendered import NAMES, cluster, one, ray_templates, spec_of

ALL = [*NAMES, "everything"]
LABEL_KEY = re.compile(r"^([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")
LABEL_VALUE = re.compile(r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$")
RESOURCES = {"num-cpus", "num-gpus", "memory", "resources"}
RESERVED = {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME", "RAY_enable_autoscaler_v2"}


def groups(name: str) -> list[dict[str, Any]]:
    """The head's group and the workers'."""
    spec = cluster(name)
    return [spec["headGroupSpec"], *spec.get("workerGroupSpecs", ())]


@pytest.mark.parametrize("name", ALL)
def test_the_name_is_a_dns_label(name: str) -> None:
    """At most 47 characters, and no other annotations that it would read."""
    metadata = one("RayService", name)["metadata"]
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", metadata["name"])
    assert len(metadata["name"]) <= 47
    annotations = metadata.get("annotations", {})
    assert not [key for key in annotations if key.startswith("ray.io/")]


@pytest.mark.parametrize("name", ALL)
def test_resources_are_given_in_one_way(name: str) -> None:
    """By `rayStartParams`, and so not by `resources` of the group."""
    for group in groups(name):
        assert RESOURCES & set(group["rayStartParams"])
        assert not group.get("resources")
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


@pytest.mark.parametrize("name", ALL)
def test_labels_are_fields_and_well_formed(name: str) -> None:
    """And not start parameters."""
    for group in groups(name):
        assert "labels" not in group["rayStartParams"]
        for key, value in group.get("labels", {}).items():
            assert LABEL_KEY.match(key)
            assert LABEL_VALUE.match(value)


@pytest.mark.parametrize("name", ALL)
def test_ray_is_the_first_container(name: str) -> None:
    """KubeRay starts Ray in that one."""
    for which, template in ray_templates(name):
        first = template["spec"]["containers"][0]
        assert first["name"] == ("ray-head" if which == "head" else "ray-worker")
        assert "command" not in first
        assert "args" not in first


@pytest.mark.parametrize("name", ALL)
def test_restarts_are_left_to_kuberay(name: str) -> None:
    """With version 2 of the autoscaler it wants Never, or nothing."""
    for _, template in ray_templates(name):
        assert "restartPolicy" not in template["spec"]


@pytest.mark.parametrize("name", ALL)
def test_the_environment_leaves_to_kuberay_what_is_its_own(name: str) -> None:
    """Redis and the autoscaler are fields."""
    for _, template in ray_templates(name):
        names = {each["name"] for each in template["spec"]["containers"][0]["env"]}
        assert not names & RESERVED
        assert len(names) == len(template["spec"]["containers"][0]["env"])


@pytest.mark.parametrize("name", ALL)
def test_a_token_needs_a_version_of_ray(name: str) -> None:
    """2.52 or newer."""
    spec = cluster(name)
    assert spec["authOptions"]["mode"] == "token"
    assert tuple(map(int, spec["rayVersion"].split("."))) >= (2, 52, 0)
    assert "enableK8sTokenAuth" not in spec["authOptions"]


@pytest.mark.parametrize("name", ALL)
def test_the_upgrade_strategy_is_whole(name: str) -> None:
    """The incremental one needs the autoscaler and all of its options."""
    service = spec_of("RayService", name)
    strategy = service["upgradeStrategy"]
    assert strategy["type"] in ("NewCluster", "NewClusterWithIncrementalUpgrade", "None")
    if strategy["type"] != "NewClusterWithIncrementalUpgrade":
        assert "clusterUpgradeOptions" not in strategy
        return
    options = strategy["clusterUpgradeOptions"]
    assert service["rayClusterConfig"]["enableInTreeAutoscaling"] is True
    assert options["gatewayClassName"]
    assert 0 <= options["stepSizePercent"] <= options["maxSurgePercent"] <= 100
    assert options["intervalSeconds"] > 0


@pytest.mark.parametrize("name", ALL)
def test_limits_of_groups_are_both_given(name: str) -> None:
    """The definition asks for them, and Ray's autoscaler reads `replicas` without a default."""
    for group in groups(name)[1:]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert "suspend" not in group


@pytest.mark.parametrize("name", ALL)
def test_ray_s_state_gets_a_place_of_its_own_in_each_cluster(name: str) -> None:
    """A name shared by the old and the new cluster breaks upgrades."""
    options = cluster(name).get("gcsFaultToleranceOptions", {})
    assert "externalStorageNamespace" not in options
    if "redisAddress" in options:
        assert re.match(r"^(rediss?://)?[^/]+:\d+$", options["redisAddress"])
