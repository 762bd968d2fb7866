"""Does KubeRay run the release as it was asked to?"""

import json
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from deployments.cli.doctor.kubectl import INFO, Document, Refused
from deployments.cli.doctor.release import RAY, Release
from deployments.cli.doctor.verdict import Verdict, fail, ok, skip, warn

OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}
OLDEST, TESTED = (1, 6), (1, 7)
INSTALL = "install KubeRay 1.7, see k8s/README.md"
DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
RAYS_DRAIN_S, GRACE_S = 30.0, 30.0  # Ray's and Kubernetes' own
LIMITS = ("minReplicas", "maxReplicas")


def found(release: Release) -> Verdict:
    """Whether the cluster answers, knows RayServices, and has the release's.

    Raises:
        Failed: it does not answer, or there is none.
    """
    server = release.kubectl.get("/version")
    if server is None:
        return fail("what answers is no Kubernetes API", INFO)
    if release.kubectl.get(RAY) is None:
        return fail("the cluster knows no RayService", INSTALL)
    name, space = release.service["metadata"]["name"], release.kubectl.namespace
    return ok(f"Kubernetes {server.get('gitVersion')}, RayService {name} in {space}")


def kuberay(release: Release) -> Verdict:
    """KubeRay's operator, and its version by the tag of its image."""
    try:
        operators = release.kubectl.items("/apis/apps/v1/deployments", OPERATOR)
    except Refused:
        return skip("this account may not look for the operator")
    if not operators:
        return fail("no operator runs, so nothing follows a change", INSTALL)
    image = str(operators[0]["spec"]["template"]["spec"]["containers"][0]["image"])
    if not operators[0].get("status", {}).get("readyReplicas"):
        return fail(f"{image} is not ready", "see `kubectl describe` of its pod")
    return of_image(image)


def of_image(image: str) -> Verdict:
    """What a version of the operator means."""
    tag = re.search(r":v?(\d+)\.(\d+)[^/@]*", image)
    if tag is None:
        return warn(f"no version in {image}", "see that it is 1.6 or newer")
    number, said = (int(tag[1]), int(tag[2])), f"KubeRay {tag[0].lstrip(':v')}"
    if number < OLDEST:
        return fail(f"{said} is too old", "upgrade the operator to 1.7")
    if number > TESTED:
        return warn(said, "none: this release was tested with 1.7")
    return ok(said)


def ready(release: Release) -> Verdict:
    """Whether the RayService serves, and what Serve says of the application."""
    status = release.service.get("status", {})
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    faults = list(complaints(status))
    remedy = f"kubectl describe {release.named}; k8s/README.md has what to do"
    if conditions.get("Ready", {}).get("status") != "True":
        return fail("; ".join([because(conditions.get("Ready")), *faults]), remedy)
    if faults:
        return fail("; ".join(faults), remedy)
    if conditions.get("UpgradeInProgress", {}).get("status") == "True":
        return warn("ready, and changing over to a new cluster", "wait for its end")
    return ok("ready")


def because(condition: Mapping[str, Any] | None) -> str:
    """Why the RayService is not ready."""
    if condition is None:
        return "not ready: KubeRay has said nothing of it"
    return f"not ready: {condition.get('reason', '')} {condition.get('message', '')}".strip()


def complaints(status: Document) -> Iterator[str]:
    """What Serve says of each application that does not run, in one line."""
    for which in ("activeServiceStatus", "pendingServiceStatus"):
        for name, state in (status.get(which, {}).get("applicationStatuses") or {}).items():
            if state.get("status") != "RUNNING":
                told = " ".join(str(state.get("message", "")).split())
                yield f"{name} is {state.get('status')} {told}".strip()


def limits(release: Release) -> Verdict:
    """Whether the running cluster has the limits asked for, which KubeRay does not see to."""
    if release.cluster is None:
        return skip("no cluster serves")
    running = release.cluster["spec"].get("workerGroupSpecs") or []
    steps = [
        step for place, group in enumerate(running) for step in of_group(release, place, group)
    ]
    if not steps:
        return ok("the running cluster has those of the RayService")
    return fail("the running cluster has others, and KubeRay leaves them", patch(release, steps))


def of_group(release: Release, place: int, group: Document) -> Iterator[Document]:
    """What to change of a group in the running cluster, as steps of a JSON patch."""
    for want in release.wanted.get("workerGroupSpecs") or ():
        if want["groupName"] == group["groupName"]:
            for limit in LIMITS:
                if limit in want and group.get(limit) != want[limit]:
                    path = f"/spec/workerGroupSpecs/{place}/{limit}"
                    yield {"op": "replace", "path": path, "value": want[limit]}


def patch(release: Release, steps: list[Document]) -> str:
    """The command that gives the running cluster its limits."""
    assert release.cluster is not None
    name, space = release.cluster["metadata"]["name"], release.kubectl.namespace
    return f"kubectl patch raycluster {name} -n {space} --type json -p '{json.dumps(steps)}'"


def ray(release: Release) -> Verdict:
    """Whether KubeRay is told the Ray of this release, by which it chooses probes and more."""
    told, ours = str(release.wanted.get("rayVersion", "")), version("ray")
    if told == ours:
        return ok(f"Ray {told}")
    return fail(f"rayVersion is {told or 'not given'}, not {ours}", "take rayVersion out of values")


def autoscaler(release: Release) -> Verdict:
    """Whether pods come and go by Ray's second autoscaler."""
    if not release.wanted.get("enableInTreeAutoscaling"):
        return skip("there is none")
    if release.wanted.get("autoscalerOptions", {}).get("version") == "v2":
        return ok("v2")
    remedy = "set autoscalerOptions.version to v2: else KubeRay restarts the pods that Ray ends"
    return fail("its version is not given", remedy)


def token(release: Release) -> Verdict:
    """Whether Ray's dashboard and jobs ask for a token."""
    if release.wanted.get("authOptions", {}).get("mode") == "token":
        return ok("Ray asks for it")
    return fail("Ray asks for none: who reaches its dashboard runs code", "set rayAuth.enabled")


def grace(release: Release) -> Verdict:
    """Whether a pod that stops has the time to drain."""
    short = [name for name, template in release.templates() if not has_time(template["spec"])]
    if not short:
        return ok("every pod lives longer than it drains")
    said = f"pods of {', '.join(short)} are killed while they drain"
    return fail(said, f"give them a terminationGracePeriodSeconds above {DRAIN}")


def has_time(spec: Document) -> bool:
    """Whether a pod's time to end is longer than Ray drains."""
    told = {each["name"]: each.get("value") for each in spec["containers"][0].get("env") or ()}
    drain_s = float(told.get(DRAIN) or RAYS_DRAIN_S)
    return float(spec.get("terminationGracePeriodSeconds", GRACE_S)) > drain_s
