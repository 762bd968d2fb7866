"""A release of the chart in a cluster, read by the real kubectl over the real API's paths."""

import copy
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.cli.doctor.command import CLUSTER
from deployments.cli.doctor.verdict import Kind, Verdict
from tests.cli.doctor.conftest import Doctor
from tests.k8s.api_server import ApiServer, Document, path_of, serving
from tests.k8s.rendered import objects

pytestmark = [
    pytest.mark.slow,  # kubectl takes a tenth of a second, and is asked five hundred times
    pytest.mark.skipif(not shutil.which("kubectl"), reason="needs kubectl on PATH"),
]

EXAMPLE, SPACE, CLUSTER_NAME = "autoscaled-l4", "inference", "florence-abcde"
CORE = f"/api/v1/namespaces/{SPACE}"
SERVICE = f"/apis/ray.io/v1/namespaces/{SPACE}/rayservices/florence"
RUNNING = f"/apis/ray.io/v1/namespaces/{SPACE}/rayclusters/{CLUSTER_NAME}"
OPERATOR = "/apis/apps/v1/namespaces/kuberay/deployments/kuberay-operator"
HEAD, WORKER = f"{CORE}/pods/head-0", f"{CORE}/pods/worker-0"
HEAD_SERVICE = f"{CORE}/services/florence-head-svc"
SECRETS = {
    "florence-database": ["url"],
    "florence-api-key": ["key"],
    "florence-webhook-keys": ["first.pem", "next.pem"],
}
Change = Callable[[Document], object]
Look = Callable[..., dict[str, Verdict]]


def a(version_: str, kind: str, name: str, space: str = SPACE, **more: Any) -> Document:
    """An object."""
    metadata = {"name": name, "namespace": space} | more.pop("metadata", {})
    return {"apiVersion": version_, "kind": kind, "metadata": metadata, **more}


def pod(kind: str, template: Document) -> Document:
    """A running pod of the cluster, with the labels of its template and KubeRay's."""
    rays = {"ray.io/cluster": CLUSTER_NAME, "ray.io/node-type": kind}
    labels = template["metadata"]["labels"] | rays
    state = {"name": f"ray-{kind}", "state": {"running": {}}, "ready": True, "restartCount": 0}
    status = {"phase": "Running", "containerStatuses": [state]}
    return a("v1", "Pod", f"{kind}-0", metadata={"labels": labels}, status=status)


def service(name: str, kind: str, port: int) -> Document:
    """A Service as KubeRay makes it."""
    spec = {
        "type": "ClusterIP",
        "selector": {"ray.io/cluster": CLUSTER_NAME, "ray.io/node-type": kind},
        "ports": [{"name": "p", "port": port, "targetPort": port}],
    }
    return a("v1", "Service", name, spec=spec)


def healthy() -> Iterator[Document]:
    """The chart's objects, and what KubeRay and the operator of the cluster add to them."""
    for each in copy.deepcopy(objects(EXAMPLE)):
        if each["kind"] == "RayService":
            state = {"applicationStatuses": {"florence": {"status": "RUNNING", "message": ""}}}
            ready = {"type": "Ready", "status": "True", "reason": "NonZeroServeEndpoints"}
            active = state | {"rayClusterName": CLUSTER_NAME}
            yield each | {"status": {"conditions": [ready], "activeServiceStatus": active}}
            spec = copy.deepcopy(each["spec"]["rayClusterConfig"])
            yield a("ray.io/v1", "RayCluster", CLUSTER_NAME, spec=spec)
            yield pod("head", spec["headGroupSpec"]["template"])
            yield pod("worker", spec["workerGroupSpecs"][1]["template"])
        elif each["kind"] == "NetworkPolicy":
            yield each
    yield service("florence-head-svc", "head", 8265)
    yield service("florence-serve-svc", "worker", 8000)
    image = {"containers": [{"name": "o", "image": "quay.io/kuberay/operator:v1.7.0"}]}
    yield a(
        "apps/v1",
        "Deployment",
        "kuberay-operator",
        "kuberay",
        metadata={"labels": {"app.kubernetes.io/name": "kuberay-operator"}},
        spec={"template": {"spec": image}},
        status={"readyReplicas": 1},
    )
    for name, keys in SECRETS.items():
        yield a("v1", "Secret", name, data=dict.fromkeys(keys, "c2VjcmV0"))


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """A cluster in which all is well."""
    filled = ApiServer(healthy())
    filled.objects["/version"] = {"gitVersion": "v1.36.2"}
    filled.objects["/apis/ray.io/v1"] = {"kind": "APIResourceList"}
    with serving(filled):
        yield filled


@pytest.fixture
def kubeconfig(server: ApiServer, tmp_path: Path) -> Path:
    """kubectl's access to it."""
    context = {"cluster": "c", "user": "u", "namespace": SPACE}
    file = tmp_path / "kubeconfig"
    file.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": server.url}}],
                "users": [{"name": "u", "user": {}}],
                "contexts": [{"name": "test", "context": context}],
                "current-context": "test",
            }
        )
    )
    return file


@pytest.fixture
def look(doctor: Doctor, kubeconfig: Path) -> Look:
    """Runs the doctor on the cluster; what it says of each check, by the name of the check."""

    def call(*words: str) -> dict[str, Verdict]:
        left = doctor("--kubeconfig", str(kubeconfig), *words)
        assert left.code == int(any(each.kind is Kind.FAIL for each in left.found.values()))
        return {name.removeprefix("cluster-"): each for name, each in left.found.items()}

    return call


def test_a_good_release_is_fine(look: Look) -> None:
    """Every check; the namespace is the context's."""
    found = look()
    assert list(found) == ["cluster", *CLUSTER]
    assert {name: each.said for name, each in found.items() if each.kind is not Kind.OK} == {}
    assert found["cluster"].said == f"Kubernetes v1.36.2, RayService florence in {SPACE}"


def drop(path: str) -> Change:
    """Takes an entry away: `spec.a.b`, numbers for places of a list."""

    def change(document: Document) -> None:
        *way, last = path.split(".")
        del walked(document, way)[last]

    return change


def put(path: str, value: Any) -> Change:
    """Puts a value in the place of an entry."""

    def change(document: Document) -> None:
        *way, last = path.split(".")
        found = walked(document, way)
        found[int(last) if isinstance(found, list) else last] = value

    return change


def walked(document: Any, way: list[str]) -> Any:
    """What is at the end of a way."""
    for step in way:
        document = document[int(step) if isinstance(document, list) else step]
    return document


WAITING = {
    "name": "ray-worker",
    "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}},
}
AGAIN = {"name": "ray-worker", "state": {"running": {}}, "restartCount": 7}
UNSCHEDULED = [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes: no GPU"}]
NOT_READY = [{"type": "Ready", "status": "False", "reason": "Initializing", "message": "wait"}]
UPGRADING = [
    {"type": "Ready", "status": "True"},
    {"type": "UpgradeInProgress", "status": "True"},
]
FAILED = {"florence": {"status": "DEPLOY_FAILED", "message": "setting model.path:\nno folder"}}
CONFIG = "spec.rayClusterConfig"
POD = "headGroupSpec.template.spec"
WRONG: list[tuple[str, str, Change, Kind, str, str]] = [
    (
        "kuberay",
        OPERATOR,
        put("spec.template.spec.containers.0.image", "kuberay/operator:v1.5.1"),
        Kind.FAIL,
        "KubeRay 1.5.1 is too old",
        "upgrade the operator",
    ),
    (
        "kuberay",
        OPERATOR,
        put("spec.template.spec.containers.0.image", "registry:5000/operator:v1.9.0@sha256:ab"),
        Kind.WARN,
        "KubeRay 1.9.0",
        "tested with 1.7",
    ),
    (
        "kuberay",
        OPERATOR,
        put("spec.template.spec.containers.0.image", "registry:5000/operator@sha256:ab"),
        Kind.WARN,
        "no version in",
        "1.6 or newer",
    ),
    ("kuberay", OPERATOR, put("status", {}), Kind.FAIL, "is not ready", "kubectl describe"),
    (
        "ready",
        SERVICE,
        put("status.conditions", NOT_READY),
        Kind.FAIL,
        "not ready: Initializing wait",
        "kubectl describe rayservice florence -n inference",
    ),
    ("ready", SERVICE, put("status.conditions", []), Kind.FAIL, "has said nothing", "k8s/README"),
    (
        "ready",
        SERVICE,
        put("status.activeServiceStatus.applicationStatuses", FAILED),
        Kind.FAIL,
        "florence is DEPLOY_FAILED setting model.path: no folder",
        "kubectl describe",
    ),
    ("ready", SERVICE, put("status.conditions", UPGRADING), Kind.WARN, "changing over", "wait"),
    (
        "ray",
        SERVICE,
        put(f"{CONFIG}.rayVersion", "2.59.0"),
        Kind.FAIL,
        f"rayVersion is 2.59.0, not {version('ray')}",
        "rayVersion",
    ),
    (
        "autoscaler",
        SERVICE,
        drop(f"{CONFIG}.autoscalerOptions.version"),
        Kind.FAIL,
        "not given",
        "autoscalerOptions.version to v2",
    ),
    (
        "ray-token",
        SERVICE,
        drop(f"{CONFIG}.authOptions"),
        Kind.FAIL,
        "runs code",
        "rayAuth.enabled",
    ),
    (
        "grace",
        SERVICE,
        drop(f"{CONFIG}.{POD}.terminationGracePeriodSeconds"),
        Kind.FAIL,
        "pods of head are killed",
        "terminationGracePeriodSeconds",
    ),
    (
        "secrets",
        SERVICE,
        put(f"{CONFIG}.authOptions.secretName", "ray-token"),
        Kind.FAIL,
        "there is no Secret ray-token with auth_token",
        "kubectl create secret generic",
    ),
    (
        "secrets",
        f"{CORE}/secrets/florence-database",
        drop("data.url"),
        Kind.FAIL,
        "Secret florence-database has no url",
        "kubectl create secret generic",
    ),
    (
        "exposed",
        HEAD_SERVICE,
        put("spec.type", "LoadBalancer"),
        Kind.FAIL,
        "Service florence-head-svc (LoadBalancer) opens 8265",
        "only port 8000",
    ),
    (
        "policies",
        WORKER,
        put("metadata.labels", {"ray.io/cluster": CLUSTER_NAME}),
        Kind.WARN,
        "none guards worker-0",
        "networkPolicy.enabled",
    ),
    (
        "pods",
        WORKER,
        put("status.containerStatuses", [WAITING]),
        Kind.FAIL,
        "worker-0: ImagePullBackOff no such image",
        "kubectl describe pod worker-0 -n inference",
    ),
    (
        "pods",
        WORKER,
        put("status", {"conditions": UNSCHEDULED}),
        Kind.FAIL,
        "worker-0 waits for a node: 0/3 nodes: no GPU",
        "kubectl describe pod",
    ),
    (
        "pods",
        WORKER,
        put("status.containerStatuses", [AGAIN]),
        Kind.WARN,
        "worker-0 has started 7 times again",
        "kubectl logs worker-0 -n inference --previous",
    ),
]


@pytest.mark.parametrize(
    ("check", "path", "change", "kind", "said", "remedy"), WRONG, ids=[w[0] for w in WRONG]
)
def test_what_is_wrong_is_found(
    look: Look,
    server: ApiServer,
    check: str,
    path: str,
    change: Change,
    kind: Kind,
    said: str,
    remedy: str,
) -> None:
    """By its own check alone, and with what to do."""
    document = copy.deepcopy(server.objects[path])
    change(document)
    server.put(document)
    found = look()
    assert found[check].kind is kind
    assert said in found[check].said
    assert remedy in found[check].remedy
    assert {name for name, each in found.items() if each.kind is not Kind.OK} == {check}


def backend(name: str, port: Any) -> Document:
    """A way of an Ingress."""
    return {"service": {"name": name, "port": port}}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (
            a(
                "networking.k8s.io/v1",
                "Ingress",
                "dashboard",
                spec={
                    "defaultBackend": backend("photos", {"number": 80}),
                    "rules": [
                        {
                            "http": {
                                "paths": [
                                    {"backend": backend("florence-serve-svc", {"name": "serve"})},
                                    {"backend": backend("florence-head-svc", {"number": 8265})},
                                ]
                            }
                        }
                    ],
                },
            ),
            "Ingress dashboard leads to port 8265 of florence-head-svc",
        ),
        (
            a(
                "gateway.networking.k8s.io/v1",
                "HTTPRoute",
                "jobs",
                spec={"rules": [{"backendRefs": [{"name": "florence-head-svc", "port": 8265}]}]},
            ),
            "HTTPRoute jobs leads to port 8265 of florence-head-svc",
        ),
    ],
    ids=["ingress", "route"],
)
def test_a_way_to_the_dashboard_is_found(
    look: Look, server: ApiServer, document: Document, said: str
) -> None:
    """And that alone: what leads to the service, or to others, is fine."""
    server.put(document)
    found = look()["exposed"]
    assert (found.kind, found.said) == (Kind.FAIL, said)


def test_the_remedy_for_limits_can_be_pasted(
    look: Look, server: ApiServer, kubeconfig: Path
) -> None:
    """KubeRay leaves a running cluster's limits alone; the patch changes them."""
    wanted = copy.deepcopy(server.objects[SERVICE])
    wanted["spec"]["rayClusterConfig"]["workerGroupSpecs"][1]["maxReplicas"] = 16
    server.put(wanted)
    found = look()["limits"]
    assert found.kind is Kind.FAIL
    step = {"op": "replace", "path": "/spec/workerGroupSpecs/1/maxReplicas", "value": 16}
    assert found.remedy == (
        f"kubectl patch raycluster {CLUSTER_NAME} -n {SPACE} --type json -p '{json.dumps([step])}'"
    )
    server.patch(RUNNING, json.loads(found.remedy.split("'")[1]))
    assert look()["limits"].kind is Kind.OK


def test_a_release_is_found_by_helms_name_too(look: Look, server: ApiServer) -> None:
    """The chart appends its own where the release does not have it."""
    other = copy.deepcopy(server.objects[SERVICE])
    other["metadata"] |= {"name": "prod-florence", "labels": {"app.kubernetes.io/instance": "prod"}}
    server.put(other)
    assert "RayService prod-florence in" in look("--release", "prod")["cluster"].said


def test_a_release_that_is_not_there_is_one_failure(look: Look) -> None:
    """The rest rests on it."""
    found = look("--release", "nothing", "--namespace", "elsewhere")
    assert found["cluster"].said == "there is no RayService nothing in elsewhere"
    assert "kubectl get rayservices -A" in found["cluster"].remedy
    assert {found[name].kind for name in CLUSTER} == {Kind.SKIP}


def test_without_kuberay_there_is_no_release(look: Look, server: ApiServer) -> None:
    """It is KubeRay that is to be installed."""
    server.delete("/apis/ray.io/v1")
    assert look()["cluster"].said == "the cluster knows no RayService"


def test_an_operator_that_is_gone_is_missed(look: Look, server: ApiServer) -> None:
    """Everything runs on without it, and nothing changes."""
    server.delete(OPERATOR)
    assert look()["kuberay"].said == "no operator runs, so nothing follows a change"


def test_before_it_serves_there_is_little_to_see(look: Look, server: ApiServer) -> None:
    """No cluster, no pods."""
    fresh = copy.deepcopy(server.objects[SERVICE])
    del fresh["status"]
    server.put(fresh)
    found = look()
    assert found["ready"].kind is Kind.FAIL
    assert {found[name].kind for name in ("limits", "policies", "pods")} == {Kind.SKIP}


def test_what_may_not_be_read_is_not_known(look: Look, server: ApiServer) -> None:
    """Few accounts may read Secrets, or look into another namespace."""
    server.forbidden |= {f"{CORE}/secrets/florence-api-key", "/apis/apps/v1/deployments"}
    found = look()
    assert {found[name].kind for name in ("secrets", "kuberay")} == {Kind.SKIP}
    assert "Forbidden" in found["secrets"].said
    server.forbidden |= {SERVICE}
    found = look()
    assert (found["cluster"].kind, "Forbidden" in found["cluster"].said) == (Kind.FAIL, True)


def test_no_value_of_a_secret_is_shown(look: Look) -> None:
    """Only names."""
    assert "c2VjcmV0" not in str(look())


def test_a_context_that_is_not_there_is_one_failure(look: Look) -> None:
    """In kubectl's own words."""
    found = look("--context", "nowhere")["cluster"]
    assert (found.kind, "--context" in found.remedy) == (Kind.FAIL, True)


def test_a_cluster_that_does_not_answer_is_one_failure(
    doctor: Doctor, server: ApiServer, kubeconfig: Path
) -> None:
    """Not one for each check."""
    kubeconfig.write_text(kubeconfig.read_text().replace(server.url, "http://127.0.0.1:1"))
    left = doctor("--kubeconfig", str(kubeconfig))
    assert left.code == 1
    assert left.found["cluster"].kind is Kind.FAIL
    assert sum(each.kind is Kind.FAIL for each in left.found.values()) == 1


def test_the_server_is_one_for_kubectl(kubeconfig: Path, server: ApiServer) -> None:
    """What it says of a namespace it says of all of them, and of what is not there."""

    def ask(path: str) -> subprocess.CompletedProcess[str]:
        command = ["kubectl", f"--kubeconfig={kubeconfig}", "get", "--raw", path]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)

    everywhere = json.loads(ask("/apis/apps/v1/deployments").stdout)["items"]
    assert [path_of(each) for each in everywhere] == [OPERATOR]
    assert "(NotFound)" in ask(f"{CORE}/pods/nobody").stderr
    server.forbidden.add(HEAD)
    assert "(Forbidden)" in ask(HEAD).stderr
