"""Checks a release of the chart in a cluster, through the operator's own kubectl.

KubeRay's version, what the pods of a cluster that starts wait for, a stuck upgrade, and limits of
groups that KubeRay does not apply to a running cluster.
"""

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from deployments.cli.doctor.check import Check, CheckFailed, Finding, fail, ok, skip, warn
from deployments.cli.doctor.pods import PodFault, finding, minutes_since, pod_faults

RAY = "/apis/ray.io/v1"
OPERATOR = "app.kubernetes.io/name%3Dkuberay-operator"
OLDEST, TESTED = (1, 7), (1, 7)
INSTALL = "install KubeRay 1.7, see k8s/README.md"
INFO = "see --kubeconfig, --context and `kubectl cluster-info`"
TIMEOUT_S = 15.0
STUCK_MINUTES = 30.0  # a node with a GPU, its image and the weights take minutes
LIMITS = ("minReplicas", "maxReplicas")

Object = dict[str, Any]  # of Kubernetes


class NotAllowed(CheckFailed):
    """The account may not read it."""


@dataclass(frozen=True)
class HelmRelease:
    """The RayService called `name`, or that of the Helm release with this name.

    What is empty is kubectl's own choice.
    """

    name: str
    kubeconfig: Path | None = None
    context: str = ""
    given_namespace: str = ""

    @cached_property
    def namespace(self) -> str:
        """The one that was given, or the context's."""
        found = self.given_namespace or self._kubectl(
            "config", "view", "--minify", "-o", "jsonpath={..namespace}"
        )
        return found.strip() or "default"

    @cached_property
    def service(self) -> Object:
        """The RayService.

        Raises:
            CheckFailed: there is none.
        """
        path = f"{RAY}/namespaces/{self.namespace}/rayservices"
        labelled = f"{path}?labelSelector=app.kubernetes.io/instance%3D{self.name}"
        if found := self.get(f"{path}/{self.name}"):
            return found
        for found in (self.get(labelled) or {}).get("items") or ():
            return dict(found)
        raise CheckFailed(
            f"there is no RayService {self.name} in {self.namespace}",
            "give --namespace and --release: `kubectl get rayservices -A`",
        )

    def cluster(self, which: str) -> Object | None:
        """The Ray cluster of `activeServiceStatus` or `pendingServiceStatus`, if any."""
        name = self.service.get("status", {}).get(which, {}).get("rayClusterName")
        path = f"{RAY}/namespaces/{self.namespace}/rayclusters/{name}"
        return self.get(path) if name else None

    @cached_property
    def pods(self) -> list[Object]:
        """Those of the release: of every Ray cluster that it has now, and its Jobs'."""
        labels = self.service["metadata"].get("labels", {})
        instance = labels.get("app.kubernetes.io/instance", self.name)
        selector = f"app.kubernetes.io/instance%3D{instance}"
        path = f"/api/v1/namespaces/{self.namespace}/pods?labelSelector={selector}"
        return list((self.get(path) or {}).get("items") or ())

    @cached_property
    def pod_faults(self) -> list[PodFault]:
        """Why pods do not run."""
        claims = f"/api/v1/namespaces/{self.namespace}/persistentvolumeclaims"
        return pod_faults(self.pods, lambda name: self.get(f"{claims}/{name}"))

    def get(self, path: str) -> Object | None:
        """The object or the list at a path of the API; None for none.

        Raises:
            NotAllowed: the account may not read it.
            CheckFailed: kubectl is missing, or the API does not answer.
        """
        try:
            found: Object = json.loads(self._kubectl("get", "--raw", path))
        except LookupError:
            return None
        except ValueError:
            raise CheckFailed(f"{path} is answered with no JSON", INFO) from None
        return found

    def _kubectl(self, *words: str) -> str:
        if not shutil.which("kubectl"):
            raise CheckFailed("there is no kubectl on PATH", "install it, or go where it is")
        named = {"kubeconfig": self.kubeconfig, "context": self.context}
        given = [f"--{name}={value}" for name, value in named.items() if value]
        command = ["kubectl", *given, f"--request-timeout={TIMEOUT_S / 2:.0f}s", *words]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            said = f"no answer from the cluster within {TIMEOUT_S:.0f} s"
            raise CheckFailed(said, INFO) from None
        if done.returncode:
            raise kubectl_error(done.stderr)
        return done.stdout


def kubectl_error(stderr: str) -> Exception:
    """The error that kubectl printed: LookupError for an object that does not exist."""
    line = next((each for each in reversed(stderr.splitlines()) if each.strip()), "no word")
    if "(NotFound)" in line:
        return LookupError(line)
    if "(Forbidden)" in line:
        return NotAllowed(line, "ask for the right to read it")
    return CheckFailed(f"kubectl: {line}", INFO)


def cluster_checks(release: HelmRelease) -> list[Check]:
    """All checks of a release; what the account may not read is skipped."""
    checks = {
        "kuberay": check_kuberay,
        "ready": check_ready,
        "pods": check_pods,
        "limits": check_limits,
    }
    return [
        Check("cluster", partial(check_cluster, release)),
        *(
            Check(f"cluster-{name}", partial(where_allowed, check, release), after="cluster")
            for name, check in checks.items()
        ),
    ]


def where_allowed(check: Callable[[HelmRelease], Finding], release: HelmRelease) -> Finding:
    """The finding; what the account may not read is skipped."""
    try:
        return check(release)
    except NotAllowed as error:
        return skip(error.finding.said)


def check_cluster(release: HelmRelease) -> Finding:
    """Whether the cluster answers, knows RayServices, and has the release's."""
    server = release.get("/version")
    if server is None:
        return fail("what answers is no Kubernetes API", INFO)
    if release.get(RAY) is None:
        return fail("the cluster knows no RayService", INSTALL)
    name = release.service["metadata"]["name"]
    return ok(f"Kubernetes {server.get('gitVersion')}, RayService {name} in {release.namespace}")


def check_kuberay(release: HelmRelease) -> Finding:
    """Whether KubeRay's operator runs, in a version that this release was tested with."""
    found = release.get(f"/apis/apps/v1/deployments?labelSelector={OPERATOR}") or {}
    if not found.get("items"):
        return fail("no operator runs, so nothing follows a change", INSTALL)
    operator = found["items"][0]
    image = str(operator["spec"]["template"]["spec"]["containers"][0]["image"])
    if not operator.get("status", {}).get("readyReplicas"):
        return fail(f"{image} is not ready", "see `kubectl describe` of its pod")
    tag = re.search(r":v?(\d+)\.(\d+)[^/@]*", image)
    if tag is None:
        return warn(f"no version in {image}", "see that it is 1.7 or newer")
    version, said = (int(tag[1]), int(tag[2])), f"KubeRay {tag[0].lstrip(':v')}"
    if version < OLDEST:
        return fail(f"{said} is too old", "upgrade the operator to 1.7")
    return ok(said) if version <= TESTED else warn(said, "none: this release was tested with 1.7")


def check_ready(release: HelmRelease) -> Finding:
    """Whether the RayService serves, and a cluster that starts makes progress."""
    status = release.service.get("status", {})
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    name = release.service["metadata"]["name"]
    remedy = f"kubectl describe rayservice {name} -n {release.namespace}; k8s/README.md has more"
    active = [*application_faults(status, "activeServiceStatus")]
    starting = [*application_faults(status, "pendingServiceStatus")]
    ready = conditions.get("Ready", {"message": "KubeRay has not reported on it"})
    if ready.get("status") != "True":
        why = f"{ready.get('reason', '')} {ready.get('message', '')}".strip()
        return fail("; ".join([f"not ready: {why}", *active, *starting]), remedy)
    upgrade = conditions.get("UpgradeInProgress", {})
    if upgrade.get("status") != "True":
        return fail("; ".join(active), remedy) if active else ok("ready")
    minutes = minutes_since(upgrade.get("lastTransitionTime", ""))
    since = f"ready; an upgrade has been under way for {minutes:.0f} minutes"
    said = "; ".join([since, *active, *starting])
    if stuck := stuck_pods(release):
        return fail(f"{said}; {stuck[0].said}", stuck[0].remedy)
    if minutes > STUCK_MINUTES or any("DEPLOY_FAILED" in each for each in starting):
        return fail(said, stuck_remedy(release))
    return warn(said, "wait for its end")


def stuck_pods(release: HelmRelease) -> list[PodFault]:
    """Faults of the cluster that starts which do not mend themselves; none if not readable."""
    pending = release.service["status"].get("pendingServiceStatus", {}).get("rayClusterName")
    try:
        faults = release.pod_faults
    except NotAllowed:
        return []
    return [each for each in faults if each.cluster == pending and not each.is_waiting]


def application_faults(status: Object, which: str) -> Iterator[str]:
    """What Serve says of each application that does not run, in one line."""
    for name, state in (status.get(which, {}).get("applicationStatuses") or {}).items():
        if state.get("status") != "RUNNING":
            message = " ".join(str(state.get("message", "")).split())
            yield f"{name} is {state.get('status')} {message}".strip()


def stuck_remedy(release: HelmRelease) -> str:
    """How to find out what the new cluster waits for."""
    name = release.service["status"].get("pendingServiceStatus", {}).get("rayClusterName", "NAME")
    return (
        f"kubectl describe pods -l ray.io/cluster={name} -n {release.namespace}: "
        "it needs every GPU once more; `helm rollback` ends it"
    )


def check_pods(release: HelmRelease) -> Finding:
    """Whether each pod runs, or what it waits for."""
    if release.pod_faults:
        return finding(release.pod_faults)
    if not release.pods:
        return fail("there is none", "see whether KubeRay watches this namespace, k8s/README.md")
    phases = Counter(each.get("status", {}).get("phase", "Pending") for each in release.pods)
    return ok(", ".join(f"{count} {phase}" for phase, count in sorted(phases.items())))


def check_limits(release: HelmRelease) -> Finding:
    """Whether the running cluster has the limits of the RayService: KubeRay does not apply them."""
    cluster = release.cluster("activeServiceStatus")
    if cluster is None:
        return skip("no cluster serves")
    groups = cluster["spec"].get("workerGroupSpecs") or []
    wanted = release.service["spec"]["rayClusterConfig"].get("workerGroupSpecs") or []
    steps = [
        {"op": "replace", "path": f"/spec/workerGroupSpecs/{place}/{limit}", "value": want[limit]}
        for place, group in enumerate(groups)
        for want in wanted
        for limit in LIMITS
        if want["groupName"] == group["groupName"]
        and limit in want
        and group.get(limit) != want[limit]
    ]
    if not steps:
        return ok("the running cluster has those of the RayService")
    name = cluster["metadata"]["name"]
    patch = f"kubectl patch raycluster {name} -n {release.namespace} --type json"
    said = "the running cluster has others, and KubeRay leaves them"
    return fail(said, f"{patch} -p '{json.dumps(steps)}'")
