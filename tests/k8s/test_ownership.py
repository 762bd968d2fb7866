"""A second apply of the chart finds what the first one wrote: KubeRay takes no field of it."""

from typing import Any

import pytest

from k8s.generate.helm import render
from tests.k8s.crds import schema_of
from tests.k8s.ownership import defaulted, fields, quantity, written_back
from tests.k8s.rendered import EVERYTHING, GROUPS, NAMES, values_of

NUMBERS: dict[str, Any] = EVERYTHING | {
    "scratch": {"sizeLimit": "40960Mi"},
    "head": {"resources": {"requests": {"cpu": 0.5, "memory": 2000000000}}},
    "gcs": {
        "faultTolerance": "rocksdb",
        "rocksdb": {"featureGateEnabled": True, "size": "1024Mi"},
    },
    "autoscaler": {"resources": {"requests": {"cpu": 1}, "limits": {"memory": "1024Mi"}}},
    "cpuGroups": [
        {
            "name": "cpu",
            "shmSize": "4096Mi",
            "resources": {
                "requests": {"cpu": 4, "memory": "1.5Gi"},
                "limits": {"memory": "12000M"},
            },
            "affinity": {"podAntiAffinity": {}},
            "env": [{"name": "EMPTY", "value": ""}],
            "tolerations": [{"key": "a", "operator": "Exists", "value": ""}],
        }
    ],
    "extra": {
        "containers": [
            {
                "name": "shipper",
                "image": "shipper:1.0",
                "tty": False,
                "args": [],
                "volumeMounts": [{"name": "scratch", "mountPath": "/tmp", "readOnly": False}],
                "livenessProbe": {"httpGet": {"port": 80}, "initialDelaySeconds": 0},
            },
            {"name": "second", "image": "second:1.0", "resources": {"limits": {}}},
        ],
        "volumes": [{"name": "more", "emptyDir": {"sizeLimit": 1024}}],
    },
}
SETS = {name: values_of(name) for name in (*NAMES, "everything")} | {"numbers": NUMBERS}


def ray_service(values: dict[str, Any]) -> dict[str, Any]:
    """The spec of the RayService that values make."""
    found: dict[str, Any] = next(e for e in render(values) if e["kind"] == "RayService")["spec"]
    return found


def taken(spec: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    """The fields that the operator would own after it wrote the spec back, in its form."""
    schema = schema_of("rayservices")["properties"]["spec"]
    live = defaulted(spec, schema)
    before = dict(fields(live, schema))
    after = dict(fields(written_back(live, schema), schema))
    applied = dict(fields(spec, schema))
    return {path: after.get(path) for path in applied if after.get(path) != before[path]}


@pytest.mark.parametrize("name", SETS)
def test_what_the_operator_writes_back_is_what_was_applied(name: str) -> None:
    """So that it owns no field of ours, and an upgrade conflicts with nothing."""
    assert taken(ray_service(SETS[name])) == {}


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda group, pod: group.pop("scaleStrategy"), "workerGroupSpecs"),
        (lambda group, pod: pod["resources"]["requests"].update(cpu=4), "workerGroupSpecs"),
        (lambda group, pod: pod["env"].append({"name": "E", "value": ""}), "workerGroupSpecs"),
        (lambda group, pod: pod.pop("resources"), "workerGroupSpecs"),
        (lambda group, pod: pod["resources"]["limits"].update(memory="1024Mi"), "workerGroupSpecs"),
    ],
    ids=["structure", "number", "empty", "container", "unit"],
)
def test_another_form_would_be_the_operator_s(change: Any, path: str) -> None:
    """The whole list of groups, so that the test above can fail."""
    spec = ray_service(GROUPS)
    group = spec["rayClusterConfig"]["workerGroupSpecs"][1]
    change(group, group["template"]["spec"]["containers"][0])
    assert list(taken(spec)) == [("rayClusterConfig", path)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (4, "4"),
        ("4", "4"),
        (0.5, "500m"),
        ("0.25", "250m"),
        ("1000m", "1"),
        ("1500m", "1500m"),
        ("1.5Gi", "1536Mi"),
        ("1024Mi", "1Gi"),
        ("0Gi", "0"),
        ("08Gi", "8Gi"),
        (1024, "1024"),
        (3000, "3k"),
        ("12000M", "12G"),
        (12884901888, "12884901888"),
        (0, "0"),
    ],
)
def test_quantities_have_kubernetes_form(given: Any, expected: str) -> None:
    """In the chart as in the reckoning of the test above."""
    assert quantity(str(given)) == expected
    head = {"resources": {"requests": {"cpu": 2, "memory": given}}}
    pod = ray_service(GROUPS | {"head": head})["rayClusterConfig"]["headGroupSpec"]["template"]
    assert pod["spec"]["containers"][0]["resources"]["requests"]["memory"] == expected
