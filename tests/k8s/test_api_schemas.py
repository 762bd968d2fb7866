"""The API server would take every object, say KubeRay's definitions and Kubernetes' schemas."""

from typing import Any

import kubernetes_validate
import pytest
import yaml

from k8s.generate.helm import CHART, load
from tests.k8s.crds import faults
from tests.k8s.rendered import NAMES, manifests, objects, one, pod, templates

ALL = [*NAMES, "everything"]
VERSIONS = [f"1.{minor}" for minor in range(30, 38)]
CASES = [  # image volumes came with 1.31
    (name, version)
    for name in ALL
    for version in VERSIONS
    if (name, version) != ("airgapped", "1.30")
]
OTHERS = {"RayService", "HTTPRoute", "PodMonitor", "PrometheusRule"}  # of other API groups
LOADTEST = manifests(CHART.parent / "loadtest")


def refused(document: dict[str, Any], version: str) -> str:
    """Why Kubernetes would not take an object of its own; empty when it would."""
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{document['kind']} {'.'.join(map(str, error.path))}: {error.message[:300]}"
    return ""


@pytest.mark.parametrize("name", ALL)
def test_kuberay_s_definition_takes_the_ray_service(name: str) -> None:
    """Down to the last field of its pods' templates."""
    assert faults(one("RayService", name)) == []


def test_a_misspelt_field_is_seen() -> None:
    """Wherever it is, so that the test above can fail."""
    service = load(
        CHART.parent.joinpath("manifests", "one-gpu.yaml").read_text().split("---\n")[-1]
    )
    assert service["kind"] == "RayService"
    group = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    group["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    assert "readinesProbe" in faults(service)[0]
    del group["minReplicas"]
    assert len(faults(service)) == 2


@pytest.mark.parametrize(("name", "version"), CASES)
def test_kubernetes_takes_its_own_kinds(name: str, version: str) -> None:
    """Strictly: unknown fields are refused."""
    own = [each for each in objects(name) if each["kind"] not in OTHERS]
    assert own
    assert [said for each in own if (said := refused(each, version))] == []


@pytest.mark.parametrize(("name", "version"), CASES)
def test_kubernetes_takes_the_pods_inside_a_ray_service(name: str, version: str) -> None:
    """Each template as a Pod."""
    found = [pod(template, which) for which, template in templates(name)]
    assert [said for each in found if (said := refused(each, version))] == []


def test_kubernetes_sees_a_misspelt_field() -> None:
    """So that the tests above can fail."""
    template = dict(templates("groups"))["cpu"]
    broken = pod(template) | {"spec": template["spec"] | {"terminationGracePeriod": 1}}
    assert "terminationGracePeriod" in refused(broken, VERSIONS[0])


@pytest.mark.parametrize("file", LOADTEST, ids=lambda file: file.name)
def test_kubernetes_takes_the_load_test(file: Any) -> None:
    """The Jobs of k8s/loadtest."""
    found = list(yaml.safe_load_all(file.read_text()))
    assert [said for each in found if (said := refused(each, VERSIONS[-1]))] == []
