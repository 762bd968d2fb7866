"""The Kubernetes manifests: they parse, fit together, and hold commands that exist."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from loadtest.__main__ import command_line
from loadtest.scenarios import SCENARIOS
from tests.k8s.rendered import one

FOLDER = Path(__file__).parents[2] / "k8s" / "loadtest"
DOCKERFILE = FOLDER.parent / "docker" / "Dockerfile"
DOCUMENTS = [
    document
    for file in sorted(FOLDER.glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text())
]
JOBS = {each["metadata"]["labels"]["role"]: each for each in DOCUMENTS if each["kind"] == "Job"}
each_job = pytest.mark.parametrize("role", ["master", "worker"])


def pod(role: str) -> dict[str, Any]:
    """The pod that a Job makes."""
    spec: dict[str, Any] = JOBS[role]["spec"]["template"]["spec"]
    return spec


def container(role: str) -> dict[str, Any]:
    """Its only container."""
    [found] = pod(role)["containers"]
    return dict(found)


def options(role: str) -> dict[str, Any]:
    """The arguments as the command's own parser reads them, with the pod's address filled in."""
    arguments = [each.replace("$(POD_IP)", "10.0.0.7") for each in container(role)["args"]]
    return vars(command_line().parse_args(arguments))


@each_job
def test_the_command_is_ours(role: str) -> None:
    """With arguments that it takes, and a scenario that there is."""
    assert container(role)["command"] == ["python", "-m", "loadtest"]
    assert options(role)["scenario"] in SCENARIOS


@each_job
def test_the_image_is_the_dockerfiles(role: str) -> None:
    """Whose head says how that one is built."""
    image = container(role)["image"]
    assert f" --target loadtest -t {image} ." in DOCKERFILE.read_text()


def test_the_service_is_the_charts() -> None:
    """The one that a release with the name of all examples makes."""
    service = one("RayService")["spec"]["serveService"]
    [port] = service["spec"]["ports"]

    assert options("master")["url"] == f"http://{service['metadata']['name']}:{port['port']}"


def test_the_master_expects_the_workers_that_there_are() -> None:
    spec = JOBS["worker"]["spec"]

    assert options("master")["expect"] == spec["completions"] == spec["parallelism"]


def test_workers_find_the_master() -> None:
    """By a Service that selects its pod, on the port where it listens."""
    [service] = [each for each in DOCUMENTS if each["kind"] == "Service"]
    labels = JOBS["master"]["spec"]["template"]["metadata"]["labels"]
    host, _, port = options("worker")["join"].partition(":")

    assert service["metadata"]["name"] == host
    assert service["spec"]["selector"].items() <= labels.items()
    assert [each["port"] for each in service["spec"]["ports"]] == [int(port)]
    assert options("master")["port"] == int(port)
    assert options("master")["bind"] == "0.0.0.0"


@each_job
def test_the_key_comes_from_a_secret(role: str) -> None:
    """And stands in no argument."""
    [key] = [each for each in container(role)["env"] if each["name"] == "FLORENCE_API_KEY"]

    assert key["valueFrom"]["secretKeyRef"]["name"] == "florence-api-key"
    assert not any(each.startswith("--key") for each in container(role)["args"])


@each_job
def test_pods_have_bounds_and_no_rights(role: str) -> None:
    assert pod(role)["securityContext"]["runAsNonRoot"] is True
    assert pod(role)["automountServiceAccountToken"] is False
    assert container(role)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= container(role)["resources"]["requests"].keys()
    assert "memory" in container(role)["resources"]["limits"]


def test_a_failed_verdict_is_not_tried_again() -> None:
    assert JOBS["master"]["spec"]["backoffLimit"] == 0
    assert pod("master")["restartPolicy"] == "Never"


def test_the_report_is_kept() -> None:
    """In the volume that the manifests claim."""
    mounted = {each["mountPath"]: each["name"] for each in container("master")["volumeMounts"]}
    volumes = {each["name"]: each for each in pod("master")["volumes"]}
    claims = [e["metadata"]["name"] for e in DOCUMENTS if e["kind"] == "PersistentVolumeClaim"]

    claim = volumes[mounted[str(options("master")["out"])]]["persistentVolumeClaim"]
    assert [claim["claimName"]] == claims
