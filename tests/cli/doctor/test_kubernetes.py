"""A release of the chart in a cluster, read by the real kubectl over the real API's paths."""

import copy
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from deployments.cli.doctor.check import Finding, Level
from tests.cli.doctor.conftest import Doctor
from tests.k8s.api_server import ApiServer, Document, path_of, serving
from tests.k8s.api_server import kubeconfig as access_to
from tests.k8s.crds import faults
from tests.k8s.rendered import objects

pytestmark = [
    pytest.mark.slow,  # kubectl takes a tenth of a second, and is asked five hundred times
    pytest.mark.skipif(not shutil.which("kubectl"), reason="needs kubectl on PATH"),
]

EXAMPLE, SPACE, CLUSTER_NAME = "autoscaled-l4", "inference", "florence-abcde"
SERVICE = f"/apis/ray.io/v1/namespaces/{SPACE}/rayservices/florence"
RUNNING = f"/apis/ray.io/v1/namespaces/{SPACE}/rayclusters/{CLUSTER_NAME}"
OPERATOR = "/apis/apps/v1/namespaces/kuberay/deployments/kuberay-operator"
CHECKS = ["cluster", "kuberay", "ready", "pods", "limits"]
Change = Callable[[Document], object]
Examine = Callable[..., dict[str, Finding]]


def a(version_: str, kind: str, name: str, space: str = SPACE, **more: Any) -> Document:
    """An object."""
    metadata = {"name": name, "namespace": space} | more.pop("metadata", {})
    return {"apiVersion": version_, "kind": kind, "metadata": metadata, **more}


def pod(name: str, cluster: str = CLUSTER_NAME, **status: Any) -> Document:
    """A pod of the release, which runs unless `status` says something else."""
    labels = {"app.kubernetes.io/instance": "florence", "ray.io/cluster": cluster}
    template = next(
        each["spec"]["rayClusterConfig"]["workerGroupSpecs"][1]["template"]
        for each in objects(EXAMPLE)
        if each["kind"] == "RayService"
    )
    return a(
        "v1",
        "Pod",
        name,
        metadata={"labels": labels},
        spec=copy.deepcopy(template["spec"]),
        status=status or {"phase": "Running"},
    )


def healthy() -> Iterator[Document]:
    """The chart's objects, and what KubeRay and the operator of the cluster add to them."""
    for each in copy.deepcopy(objects(EXAMPLE)):
        if each["kind"] == "PersistentVolumeClaim":
            yield each
        if each["kind"] == "RayService":
            state = {"applicationStatuses": {"florence": {"status": "RUNNING", "message": ""}}}
            ready = {"type": "Ready", "status": "True", "reason": "NonZeroServeEndpoints"}
            active = state | {"rayClusterName": CLUSTER_NAME}
            yield each | {"status": {"conditions": [ready], "activeServiceStatus": active}}
            spec = copy.deepcopy(each["spec"]["rayClusterConfig"])
            yield a("ray.io/v1", "RayCluster", CLUSTER_NAME, spec=spec)
    yield pod("florence-abcde-head")
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


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """A cluster without faults."""
    filled = ApiServer(healthy())
    filled.objects["/version"] = {"gitVersion": "v1.36.2"}
    filled.objects["/apis/ray.io/v1"] = {"kind": "APIResourceList"}
    with serving(filled):
        yield filled


@pytest.fixture
def kubeconfig(server: ApiServer, tmp_path: Path) -> Path:
    """kubectl's access to it."""
    file = tmp_path / "kubeconfig"
    file.write_text(access_to(server, SPACE))
    return file


@pytest.fixture
def examine(doctor: Doctor, kubeconfig: Path) -> Examine:
    """Runs the doctor on the cluster; what it says of each check, by the name of the check."""

    def call(*words: str) -> dict[str, Finding]:
        left = doctor("--kubeconfig", str(kubeconfig), *words)
        assert left.code == int(any(each.level is Level.FAIL for each in left.found.values()))
        return {name.removeprefix("cluster-"): each for name, each in left.found.items()}

    return call


def test_a_good_release_is_fine(examine: Examine) -> None:
    """Every check; the namespace is the context's."""
    found = examine()
    assert list(found) == CHECKS
    assert {name: each.said for name, each in found.items() if each.level is not Level.OK} == {}
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


NOT_READY = [{"type": "Ready", "status": "False", "reason": "Initializing", "message": "wait"}]
UPGRADING = [
    {"type": "Ready", "status": "True"},
    {"type": "UpgradeInProgress", "status": "True"},
]
FAILED = {"florence": {"status": "DEPLOY_FAILED", "message": "setting model.path:\nno folder"}}
WRONG: list[tuple[str, str, Change, Level, str, str]] = [
    (
        "kuberay",
        OPERATOR,
        put("spec.template.spec.containers.0.image", "kuberay/operator:v1.6.1"),
        Level.FAIL,
        "KubeRay 1.6.1 is too old",
        "upgrade the operator",
    ),
    (
        "kuberay",
        OPERATOR,
        put("spec.template.spec.containers.0.image", "registry:5000/operator:v1.9.0@sha256:ab"),
        Level.WARN,
        "KubeRay 1.9.0",
        "tested with 1.7",
    ),
    (
        "kuberay",
        OPERATOR,
        put("spec.template.spec.containers.0.image", "registry:5000/operator@sha256:ab"),
        Level.WARN,
        "no version in",
        "1.7 or newer",
    ),
    ("kuberay", OPERATOR, put("status", {}), Level.FAIL, "is not ready", "kubectl describe"),
    (
        "ready",
        SERVICE,
        put("status.conditions", NOT_READY),
        Level.FAIL,
        "not ready: Initializing wait",
        "kubectl describe rayservice florence -n inference",
    ),
    ("ready", SERVICE, put("status.conditions", []), Level.FAIL, "has not reported", "k8s/README"),
    (
        "ready",
        SERVICE,
        put("status.activeServiceStatus.applicationStatuses", FAILED),
        Level.FAIL,
        "florence is DEPLOY_FAILED setting model.path: no folder",
        "kubectl describe",
    ),
    (
        "ready",
        SERVICE,
        put("status.conditions", UPGRADING),
        Level.WARN,
        "upgrade has been under way",
        "wait",
    ),
]


@pytest.mark.parametrize(
    ("check", "path", "change", "level", "said", "remedy"), WRONG, ids=[w[0] for w in WRONG]
)
def test_what_is_wrong_is_found(
    examine: Examine,
    server: ApiServer,
    check: str,
    path: str,
    change: Change,
    level: Level,
    said: str,
    remedy: str,
) -> None:
    """By its own check alone, and with what to do."""
    document = copy.deepcopy(server.objects[path])
    change(document)
    server.put(document)
    found = examine()
    assert found[check].level is level
    assert said in found[check].said
    assert remedy in found[check].remedy
    assert {name for name, each in found.items() if each.level is not Level.OK} == {check}


def test_the_remedy_for_limits_can_be_pasted(
    examine: Examine, server: ApiServer, kubeconfig: Path
) -> None:
    """KubeRay leaves a running cluster's limits alone; the patch changes them."""
    wanted = copy.deepcopy(server.objects[SERVICE])
    wanted["spec"]["rayClusterConfig"]["workerGroupSpecs"][1]["maxReplicas"] = 16
    server.put(wanted)
    found = examine()["limits"]
    assert found.level is Level.FAIL
    step = {"op": "replace", "path": "/spec/workerGroupSpecs/1/maxReplicas", "value": 16}
    assert found.remedy == (
        f"kubectl patch raycluster {CLUSTER_NAME} -n {SPACE} --type json -p '{json.dumps([step])}'"
    )
    server.patch(RUNNING, json.loads(found.remedy.split("'")[1]))
    assert examine()["limits"].level is Level.OK


def test_a_release_is_found_by_helms_name_too(examine: Examine, server: ApiServer) -> None:
    """The chart appends its own where the release does not have it."""
    other = copy.deepcopy(server.objects[SERVICE])
    other["metadata"] |= {"name": "prod-florence", "labels": {"app.kubernetes.io/instance": "prod"}}
    server.put(other)
    assert "RayService prod-florence in" in examine("--release", "prod")["cluster"].said


def test_a_release_that_is_not_there_is_one_failure(examine: Examine) -> None:
    """The other checks need it."""
    found = examine("--release", "nothing", "--namespace", "elsewhere")
    assert found["cluster"].said == "there is no RayService nothing in elsewhere"
    assert "kubectl get rayservices -A" in found["cluster"].remedy
    assert {found[name].level for name in CHECKS[1:]} == {Level.SKIP}


def test_without_kuberay_there_is_no_release(examine: Examine, server: ApiServer) -> None:
    """It is KubeRay that is to be installed."""
    server.delete("/apis/ray.io/v1")
    assert examine()["cluster"].said == "the cluster knows no RayService"


def test_an_operator_that_is_gone_is_missed(examine: Examine, server: ApiServer) -> None:
    """Everything runs on without it, and nothing changes."""
    server.delete(OPERATOR)
    assert examine()["kuberay"].said == "no operator runs, so nothing follows a change"


def test_before_it_serves_there_is_little_to_see(examine: Examine, server: ApiServer) -> None:
    """No cluster, no limits."""
    fresh = copy.deepcopy(server.objects[SERVICE])
    del fresh["status"]
    server.put(fresh)
    found = examine()
    assert (found["ready"].level, found["limits"].level) == (Level.FAIL, Level.SKIP)


def test_what_may_not_be_read_is_not_known(examine: Examine, server: ApiServer) -> None:
    """Few accounts may read another namespace."""
    server.forbidden |= {"/apis/apps/v1/deployments"}
    found = examine()["kuberay"]
    assert (found.level, "Forbidden" in found.said) == (Level.SKIP, True)
    server.forbidden |= {SERVICE}
    found = examine()["cluster"]
    assert (found.level, "Forbidden" in found.said) == (Level.FAIL, True)


def test_an_upgrade_that_does_not_end_is_stuck(examine: Examine, server: ApiServer) -> None:
    """The remedy names the new cluster; a short one is a warning."""
    upgrading = copy.deepcopy(server.objects[SERVICE])
    waiting = {"florence": {"status": "DEPLOYING", "message": "waits for a GPU"}}
    upgrading["status"]["pendingServiceStatus"] = {
        "rayClusterName": "florence-new",
        "applicationStatuses": waiting,
    }
    for minutes, level in ((5, Level.WARN), (45, Level.FAIL)):
        since = datetime.now(UTC) - timedelta(minutes=minutes)
        upgrade = UPGRADING[1] | {"lastTransitionTime": f"{since:%Y-%m-%dT%H:%M:%SZ}"}
        upgrading["status"]["conditions"] = [UPGRADING[0], upgrade]
        server.put(upgrading)
        found = examine()["ready"]
        assert found.level is level
        assert f"under way for {minutes} minutes; florence is DEPLOYING waits" in found.said
    assert "-l ray.io/cluster=florence-new -n inference" in found.remedy
    assert "helm rollback" in found.remedy


def test_a_context_that_is_not_there_is_one_failure(examine: Examine) -> None:
    """In kubectl's own words."""
    found = examine("--context", "nowhere")["cluster"]
    assert (found.level, "--context" in found.remedy) == (Level.FAIL, True)


def test_a_cluster_that_does_not_answer_is_one_failure(
    doctor: Doctor, server: ApiServer, kubeconfig: Path
) -> None:
    """Not one for each check."""
    kubeconfig.write_text(kubeconfig.read_text().replace(server.url, "http://127.0.0.1:1"))
    left = doctor("--kubeconfig", str(kubeconfig))
    assert left.code == 1
    assert left.found["cluster"].level is Level.FAIL
    assert sum(each.level is Level.FAIL for each in left.found.values()) == 1


def test_the_server_is_one_for_kubectl(kubeconfig: Path, server: ApiServer) -> None:
    """What it says of a namespace it says of all of them, and of what is not there."""

    def ask(path: str) -> subprocess.CompletedProcess[str]:
        command = ["kubectl", f"--kubeconfig={kubeconfig}", "get", "--raw", path]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)

    everywhere = json.loads(ask("/apis/apps/v1/deployments").stdout)["items"]
    assert [path_of(each) for each in everywhere] == [OPERATOR]
    assert "(NotFound)" in ask(f"{SERVICE}-2").stderr
    server.forbidden.add(RUNNING)
    assert "(Forbidden)" in ask(RUNNING).stderr


def waits(reason: str, message: str, key: str = "containerStatuses") -> Document:
    """The status of a pod whose container waits."""
    container = {
        "name": "ray-worker",
        "state": {"waiting": {"reason": reason, "message": message}},
        "ready": False,
        "restartCount": 0,
        "image": "florence-serve:0.3.0",
        "imageID": "",
    }
    return {"phase": "Pending", key: [container]}


def unplaced(message: str, minutes: float = 0) -> Document:
    """The status of a pod that no node takes."""
    since = datetime.now(UTC) - timedelta(minutes=minutes)
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
        "lastTransitionTime": f"{since:%Y-%m-%dT%H:%M:%SZ}",
    }
    return {"phase": "Pending", "conditions": [condition]}


NO_GPU = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
UNBOUND = "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims."
NO_SECRET = 'secret "florence-database" not found'
ENDED = {
    "phase": "Failed",
    "containerStatuses": [
        {
            "name": "ray-worker",
            "state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}},
            "ready": False,
            "restartCount": 0,
            "image": "florence-serve:0.3.0",
            "imageID": "",
        }
    ],
}
STATES: dict[str, tuple[Document, Level, str, str]] = {
    "secret": (
        waits("CreateContainerConfigError", NO_SECRET),
        Level.FAIL,
        f"florence-new-gpu: CreateContainerConfigError {NO_SECRET}",
        "make the Secret",
    ),
    "image": (
        waits("ImagePullBackOff", "Back-off pulling image"),
        Level.FAIL,
        "florence-new-gpu: ImagePullBackOff Back-off pulling image",
        "imagePullSecrets",
    ),
    "image-of-init": (
        waits("ErrImagePull", "not found", "initContainerStatuses"),
        Level.FAIL,
        "florence-new-gpu: ErrImagePull not found",
        "image.*",
    ),
    "crash": (
        waits("CrashLoopBackOff", "back-off 5m0s"),
        Level.FAIL,
        "CrashLoopBackOff",
        "kubectl logs florence-new-gpu -c ray-worker -n inference --previous",
    ),
    "no-node-yet": (
        unplaced(NO_GPU),
        Level.WARN,
        f"florence-new-gpu: Unschedulable {NO_GPU}",
        "the node needs cpu 6, memory 24Gi, nvidia.com/gpu 1",
    ),
    "no-node": (unplaced(NO_GPU, 20), Level.FAIL, "Insufficient nvidia.com/gpu", "quota"),
    "claim": (
        unplaced(UNBOUND),
        Level.FAIL,
        "the claim florence-model gets no volume (ReadWriteMany of standard-rwx)",
        "name a StorageClass that gives ReadWriteMany",
    ),
    "killed": (
        ENDED,
        Level.FAIL,
        "florence-new-gpu: ray-worker ended with OOMKilled, exit code 137",
        "kubectl logs florence-new-gpu",
    ),
    "evicted": (
        {"phase": "Failed", "reason": "Evicted", "message": "low on resource: ephemeral-storage"},
        Level.FAIL,
        "florence-new-gpu: Evicted low on resource: ephemeral-storage",
        "kubectl logs",
    ),
    "fine": ({"phase": "Running"}, Level.OK, "2 Running", ""),
}


def starting(server: ApiServer, upgrade: bool) -> None:
    """A release whose cluster `florence-new` starts, alone or beside the one that serves."""
    service = copy.deepcopy(server.objects[SERVICE])
    since = datetime.now(UTC) - timedelta(minutes=2)
    pending = {"rayClusterName": "florence-new", "applicationStatuses": {}}
    status: Document = {"pendingServiceStatus": pending, "conditions": NOT_READY}
    if upgrade:
        status = service["status"] | status | {"conditions": UPGRADING}
    complete = {"message": "", "lastTransitionTime": f"{since:%Y-%m-%dT%H:%M:%SZ}"}
    status["conditions"] = [
        complete | {"reason": each["type"]} | each for each in status["conditions"]
    ]
    server.put(service | {"status": status})


@pytest.mark.parametrize("upgrade", [False, True], ids=["first", "upgrade"])
@pytest.mark.parametrize("state", STATES)
def test_what_a_cluster_that_starts_waits_for(
    examine: Examine, server: ApiServer, state: str, upgrade: bool
) -> None:
    """The pod, the reason and the remedy; an upgrade is waited for only while it makes progress."""
    status, level, said, remedy = STATES[state]
    starting(server, upgrade)
    new = pod("florence-new-gpu", "florence-new", **status)
    described = new | {"metadata": new["metadata"] | {"namespace": SPACE}}
    kubernetes_validate.validate(described, "1.36", strict=True)
    server.put(new)
    found = examine()
    assert found["pods"].level is level
    assert said in found["pods"].said
    assert remedy in found["pods"].remedy
    if upgrade:
        assert found["ready"].level is (Level.FAIL if level is Level.FAIL else Level.WARN)
        assert (found["ready"].remedy == "wait for its end") == (level is not Level.FAIL)
    else:
        assert found["ready"].level is Level.FAIL
        assert found["ready"].said.startswith("not ready: Initializing")


def test_a_claim_that_is_not_there_is_named(examine: Examine, server: ApiServer) -> None:
    """It is the values that name it."""
    server.delete(f"/api/v1/namespaces/{SPACE}/persistentvolumeclaims/florence-model")
    server.put(
        pod("florence-new-gpu", **unplaced("persistentvolumeclaim florence-model not found"))
    )
    found = examine()["pods"]
    assert found.said == "florence-new-gpu: there is no claim florence-model"
    assert found.level is Level.FAIL


def test_what_serve_says_of_the_new_cluster_is_shown(examine: Examine, server: ApiServer) -> None:
    """A wrong setting ends a first start, and an upgrade at once."""
    for upgrade in (False, True):
        starting(server, upgrade)
        service = copy.deepcopy(server.objects[SERVICE])
        service["status"]["pendingServiceStatus"]["applicationStatuses"] = FAILED
        server.put(service)
        found = examine()["ready"]
        assert found.level is Level.FAIL
        assert "florence is DEPLOY_FAILED setting model.path: no folder" in found.said


def test_a_release_without_pods_is_told(examine: Examine, server: ApiServer) -> None:
    """KubeRay may not watch the namespace. Pods that go are no fault."""
    path = f"/api/v1/namespaces/{SPACE}/pods/florence-abcde-head"
    going = copy.deepcopy(server.objects[path]) | {"status": {"phase": "Failed"}}
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    server.put(going)
    assert examine()["pods"].level is Level.OK
    server.delete(path)
    assert examine()["pods"].said == "there is none"


def test_states_are_what_the_definition_allows(server: ApiServer) -> None:
    """Of the RayService that the tests above make up."""
    for upgrade in (False, True):
        starting(server, upgrade)
        assert faults(server.objects[SERVICE]) == []
