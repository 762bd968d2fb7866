"""What the chart makes of its defaults and of each example."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from k8s.generate.helm import CHART, Document, load, render

GROUPS: dict[str, Any] = {  # the least that an installation of several pods says
    "database": {"existingSecret": "florence-database"},
    "model": {"source": "hub"},
    "cpuGroups": [{"name": "cpu"}],
    "gpuGroups": [{"name": "gpu"}],
}
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
SINGLE = ("defaults", "cpu-demo")  # the head is the whole service
NAMES = ("defaults", "groups", *(file.stem for file in EXAMPLES))
EVERYTHING: dict[str, Any] = {
    "database": {"existingSecret": "florence-database"},
    "cpuGroups": [{"name": "cpu", "minReplicas": 3}],
    "auth": {"existingSecret": "florence-api-key"},
    "webhooks": {"existingSecret": "florence-webhook-keys"},
    "files": {"existingClaim": "florence-files", "existingSecret": "florence-bucket"},
    "model": {"source": "pvc", "hubToken": {"existingSecret": "hub"}},
    "image": {"registry": "registry.example.com:5000", "digest": f"sha256:{'a' * 64}"},
    "imagePullSecrets": ["pull"],
    "rolloutToken": "2",
    "rayAuth": {"existingSecret": "ray-token"},
    "gcs": {"faultTolerance": "rocksdb", "rocksdb": {"featureGateEnabled": True}},
    "ingress": {"enabled": True, "hosts": ["florence.example.com"]},
    "httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}], "hostnames": ["f.org"]},
    "podMonitor": {"enabled": True},
    "prometheusRule": {"enabled": True, "alertLabels": {"team": "vision"}},
    "dashboard": {"enabled": True},
    "serviceAccount": {"workerAnnotations": {"a": "b"}, "headAnnotations": {"c": "d"}},
    "service": {"type": "LoadBalancer", "annotations": {"e": "f"}},
    "networkPolicy": {"clients": [{"namespaceSelector": {}}]},
    "commonLabels": {"team": "vision"},
    "commonAnnotations": {"owner": "vision"},
    "schedulerName": "volcano",
    "extra": {
        "env": [{"name": "X", "value": "1"}],
        "envFrom": [{"configMapRef": {"name": "more"}}],
        "volumes": [{"name": "more", "emptyDir": {}}],
        "volumeMounts": [{"name": "more", "mountPath": "/more"}],
        "containers": [{"name": "shipper", "image": "shipper:1.0"}],
    },
    "gpuGroups": [
        {
            "name": "mig",
            "gpuResource": "nvidia.com/mig-1g.10gb",
            "runtimeClassName": "nvidia",
            "priorityClassName": "high",
            "minReplicas": 0,
            "priority": 5,
            "drainSeconds": 20,
            "accelerator": "A100",
            "annotations": {"g": "h"},
            "labels": {"queue": "vision"},
            "serviceAccountName": "gpu-account",
            "initContainers": [{"name": "warm", "image": "warm:1.0"}],
            "topologySpreadConstraints": [
                {
                    "topologyKey": "kubernetes.io/hostname",
                    "maxSkew": 1,
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": {"queue": "vision"}},
                }
            ],
            "env": [{"name": "Y", "value": "2"}],
        }
    ],
}


def values_of(name: str) -> dict[str, Any]:
    """The values of an example; `defaults` has none, `groups` groups of pods, `everything` all."""
    known = {"defaults": {}, "groups": GROUPS, "everything": EVERYTHING}
    if name in known:
        return known[name]
    found: dict[str, Any] = load((CHART / "examples" / f"{name}.yaml").read_text())
    return found


@cache
def objects(name: str) -> tuple[Document, ...]:
    """Its objects."""
    return tuple(render(values_of(name)))


def one(kind: str, name: str = "groups", ending: str = "") -> Document:
    """Its only object of a kind, or the one whose name ends so."""
    found = [
        each
        for each in objects(name)
        if each["kind"] == kind and each["metadata"]["name"].endswith(ending)
    ]
    assert len(found) == 1, (kind, name, [each["metadata"]["name"] for each in found])
    return found[0]


def spec_of(kind: str, name: str = "groups", ending: str = "") -> Document:
    """The `spec` of that."""
    found: Document = one(kind, name, ending)["spec"]
    return found


def cluster(name: str = "groups") -> Document:
    """The `spec` of its Ray cluster."""
    found: Document = spec_of("RayService", name)["rayClusterConfig"]
    return found


def serve_config(name: str = "groups") -> Document:
    """What it gives Ray Serve."""
    found: Document = yaml.safe_load(spec_of("RayService", name)["serveConfigV2"])
    return found


def deployments(name: str = "groups") -> dict[str, Document]:
    """Its Serve deployments, by name."""
    return {
        deployment["name"]: deployment
        for deployment in serve_config(name)["applications"][0]["deployments"]
    }


def templates(name: str) -> Iterator[tuple[str, Document]]:
    """The templates of its pods by name: the head's, each group's, the Job's and the test's."""
    yield "head", cluster(name)["headGroupSpec"]["template"]
    for group in cluster(name).get("workerGroupSpecs", ()):
        yield group["groupName"], group["template"]
    for each in objects(name):
        if each["kind"] == "Job":
            yield "loader", each["spec"]["template"]
        if each["kind"] == "Pod":
            yield "test", each


def ray_templates(name: str) -> Iterator[tuple[str, Document]]:
    """Those of Ray's pods."""
    return ((which, pod) for which, pod in templates(name) if which not in ("loader", "test"))


def pod(template: Document, name: str = "pod") -> Document:
    """A template as a Pod of its own, which tools know that do not know RayService."""
    metadata = {"name": name, "namespace": "inference"} | template.get("metadata", {})
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def manifests(folder: Path) -> list[Path]:
    """The YAML files below a folder that are not templates of Helm."""
    return sorted(file for file in folder.rglob("*.yaml") if "templates" not in file.parts)
