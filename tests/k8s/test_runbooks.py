"""The commands of the runbooks do what they say, while a release has several clusters.

The real kubectl runs them against an API server with two clusters and their heads. What needs a
kubelet (`exec`, `logs`, `port-forward`) is not run: the pod and the container that it names must be
there, and the command inside must exist.
"""

import copy
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from k8s.generate.helm import CHART
from tests.k8s.api_server import ApiServer, discovery, kubeconfig, serving
from tests.k8s.rendered import objects
from tests.test_docs import options_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("kubectl"), reason="needs kubectl on PATH"),
]

K8S = CHART.parent
PAGES = [K8S / "README.md", *sorted((K8S / "runbooks").glob("*.md"))]
BLOCK = re.compile(r"^ *```sh\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
SPACE = "/api/v1/namespaces/inference"
ACTIVE, PENDING = "florence-old", "florence-new"
# A drain evicts, a wait watches, and the rest needs files that are not here.
NOT_RUN = re.compile(r"^(kubectl (drain|wait|create)|helm|docker|trivy|cosign|openssl|make|curl)\b")
# In place of kubectl: what a kubelet would do is printed, the rest is kubectl's.
SHELL = """
set -eu
kubectl() {
    case "$1" in
        exec|logs|port-forward) printf 'ASKED'; printf ' %q' "$@"; echo ;;
        *) command kubectl "$@" ;;
    esac
}
florence() { :; }
"""


def blocks() -> Iterator[Any]:
    """The blocks of commands that name kubectl, by their page."""
    for page in PAGES:
        for number, block in enumerate(BLOCK.findall(page.read_text())):
            lines = block.replace("\\\n", " ").splitlines()
            kept = [line.strip() for line in lines if not NOT_RUN.match(line.strip())]
            if any("kubectl" in line for line in kept):
                yield pytest.param("\n".join(kept), id=f"{page.stem}-{number}")


def cluster(name: str) -> Iterator[dict[str, Any]]:
    """A Ray cluster of the release, its head and a worker."""
    service = next(each for each in objects("ha-redis") if each["kind"] == "RayService")
    spec = copy.deepcopy(service["spec"]["rayClusterConfig"])
    yield {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": name, "namespace": "inference"},
        "spec": spec,
    }
    for kind in ("head", "worker"):
        labels = {
            "ray.io/cluster": name,
            "ray.io/node-type": kind,
            "app.kubernetes.io/instance": "florence",
        }
        yield {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"{name}-{kind}", "namespace": "inference", "labels": labels},
            "spec": {"containers": [{"name": f"ray-{kind}"}]},
        }


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """A release in the middle of an upgrade; `POD` is a worker, `NODE` a node."""
    filled = ApiServer([*cluster(ACTIVE), *cluster(PENDING)])
    filled.objects |= discovery() | {"/version": {"gitVersion": "v1.36.2"}}
    for each in copy.deepcopy(objects("ha-redis")):
        status = {
            "activeServiceStatus": {"rayClusterName": ACTIVE},
            "pendingServiceStatus": {"rayClusterName": PENDING},
        }
        filled.put(each | ({"status": status} if each["kind"] == "RayService" else {}))
    for kind, name in (("Service", "florence-serve-svc"), ("Pod", "pod")):
        metadata = {"name": name, "namespace": "inference"}
        filled.put({"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": {}})
    filled.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"}, "spec": {}})
    filled.objects[f"{SPACE}/pods/pod"]["spec"] = {"containers": [{"name": "ray-worker"}]}
    with serving(filled):
        yield filled


@pytest.mark.parametrize("block", list(blocks()))
def test_commands_run(block: str, server: ApiServer, tmp_path: Path) -> None:
    """Each of them, in the order of its block."""
    access = tmp_path / "kubeconfig"
    access.write_text(kubeconfig(server, "default"))
    script = SHELL + re.sub(r"\bPOD\b", "pod", re.sub(r"\bNODE\b", "node", block))
    done = subprocess.run(
        ["bash", "-c", script],
        env={"KUBECONFIG": str(access), "HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        if line.startswith("ASKED "):
            check(shlex.split(line)[1:], server)


def check(words: list[str], server: ApiServer) -> None:
    """That what a kubelet would be asked for is there, and is of the cluster that serves."""
    verb, *rest = words
    outside = rest[: rest.index("--")] if "--" in rest else rest
    inside = rest[len(outside) + 1 :]
    names = [word for word in outside if word.startswith(("pod", ACTIVE, PENDING, "service/"))]
    if verb == "logs":
        return
    (name,) = names
    if name.startswith("service/"):
        assert f"{SPACE}/services/{name.removeprefix('service/')}" in server.objects
        return
    assert PENDING not in name
    pod = server.objects[f"{SPACE}/pods/{name.removeprefix('pod/')}"]
    if "-c" in outside:
        container = outside[outside.index("-c") + 1]
        assert container in [each["name"] for each in pod["spec"]["containers"]]
    if inside[:1] == ["florence"]:
        given = {word.partition("=")[0] for word in inside if word.startswith("--")}
        assert given - options_of(inside[1:]) == set(), shlex.join(inside)


def test_limits_are_patched_in_the_cluster_that_serves(server: ApiServer, tmp_path: Path) -> None:
    """The other one has those of the values."""
    block = next(
        each.values[0] for each in blocks() if "kubectl patch raycluster" in each.values[0]
    )
    test_commands_run(block, server, tmp_path)
    root = "/apis/ray.io/v1/namespaces/inference/rayclusters"
    limits = [
        server.objects[f"{root}/{name}"]["spec"]["workerGroupSpecs"][1]["maxReplicas"]
        for name in (ACTIVE, PENDING)
    ]
    assert limits == [16, 10]


def test_every_runbook_has_commands() -> None:
    """So that the tests above are of something."""
    shown = {each.id.rpartition("-")[0] for each in blocks()}
    assert "README" in shown
    assert len(shown) > 10
