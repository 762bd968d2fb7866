"""What a release's pods wait for: a node, a volume, a Secret, an image."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from time import time
from typing import Any

from deployments.cli.doctor.check import Finding, Level

Object = dict[str, Any]  # of Kubernetes
NODE_MINUTES = 10.0  # a node that an autoscaler adds takes minutes
SHOWN = 3

# Reasons for which a container waits and does not start by itself; {pod}, {container} and {space}
# are its names.
REMEDIES = {
    "CreateContainerConfigError": "make the Secret or the ConfigMap that it names",
    "CreateContainerError": "kubectl describe pod {pod} -n {space}",
    "RunContainerError": "kubectl describe pod {pod} -n {space}",
    "ErrImagePull": "see image.* and imagePullSecrets in the values, and the node's way there",
    "InvalidImageName": "see image.* in the values",
    "ErrImageNeverPull": "load the image on the node, or set image.pullPolicy",
    "CrashLoopBackOff": "kubectl logs {pod} -c {container} -n {space} --previous",
}
REMEDIES["ImagePullBackOff"] = REMEDIES["ErrImagePull"]
LOGS = "kubectl logs {pod} -n {space} --all-containers"
NO_NODE = "see quota, taints and `kubectl describe node`: the node needs {requests}"
NO_CLAIM = "make the claim, or name another in the values"
CLAIM = "name a StorageClass that gives {modes}, see k8s/README.md; kubectl describe pvc {claim}"


@dataclass(frozen=True)
class PodFault:
    """Why a pod does not run: in one line, and with the remedy. `cluster` is its Ray cluster.

    `is_waiting`: it may still come by itself.
    """

    cluster: str
    said: str
    remedy: str
    is_waiting: bool = False


def pod_faults(pods: list[Object], find_claim: Callable[[str], Object | None]) -> list[PodFault]:
    """What is wrong with pods; `find_claim` gives a claim of their namespace by its name."""
    return [fault for pod in pods for fault in faults_of(pod, find_claim)]


def faults_of(pod: Object, find_claim: Callable[[str], Object | None]) -> Iterator[PodFault]:
    metadata, status = pod["metadata"], pod.get("status", {})
    if "deletionTimestamp" in metadata:
        return
    cluster = metadata.get("labels", {}).get("ray.io/cluster", "")
    names = {"pod": metadata["name"], "space": metadata["namespace"]}
    if status.get("phase") == "Failed":
        said = f"{names['pod']}: {reason_of_failure(status)}"
        yield PodFault(cluster, said, LOGS.format(**names))
        return
    for condition in status.get("conditions") or ():
        if (condition["type"], condition.get("reason")) == ("PodScheduled", "Unschedulable"):
            yield from placement_faults(pod, condition, cluster, find_claim)
            return
    for key in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(key) or ():
            waiting = container.get("state", {}).get("waiting", {})
            if (reason := waiting.get("reason", "")) in REMEDIES:
                text = f"{names['pod']}: {reason} {one_line(waiting.get('message', ''))}".strip()
                remedy = REMEDIES[reason].format(**names, container=container["name"])
                yield PodFault(cluster, text, remedy)


def placement_faults(
    pod: Object, condition: Object, cluster: str, find_claim: Callable[[str], Object | None]
) -> Iterator[PodFault]:
    """Why no node takes a pod: a claim that is missing or unbound, or no node that fits."""
    name = pod["metadata"]["name"]
    message = one_line(condition.get("message", ""))
    faults = list(claim_faults(pod, cluster, find_claim)) if "ersistent" in message else []
    if faults:
        yield from faults
        return
    asked = pod["spec"]["containers"][0].get("resources", {}).get("requests", {})
    requests = ", ".join(f"{key} {value}" for key, value in asked.items()) or "nothing special"
    waits = minutes_since(condition.get("lastTransitionTime", "")) < NODE_MINUTES
    said = f"{name}: Unschedulable {message}".strip()
    yield PodFault(cluster, said, NO_NODE.format(requests=requests), waits)


def claim_faults(
    pod: Object, cluster: str, find_claim: Callable[[str], Object | None]
) -> Iterator[PodFault]:
    """The claims of a pod that are missing or have no volume."""
    name = pod["metadata"]["name"]
    for volume in pod["spec"].get("volumes") or ():
        claim_name = volume.get("persistentVolumeClaim", {}).get("claimName")
        if not claim_name:
            continue
        claim = find_claim(claim_name)
        if claim is None:
            yield PodFault(cluster, f"{name}: there is no claim {claim_name}", NO_CLAIM)
        elif claim.get("status", {}).get("phase") != "Bound":
            modes = ", ".join(claim["spec"].get("accessModes", ()))
            kind = claim["spec"].get("storageClassName") or "the default class"
            said = f"{name}: the claim {claim_name} gets no volume ({modes} of {kind})"
            yield PodFault(cluster, said, CLAIM.format(modes=modes, claim=claim_name))


def reason_of_failure(status: Object) -> str:
    """Why a pod ended: evicted, or how its containers did."""
    if "reason" in status:
        return f"{status['reason']} {one_line(status.get('message', ''))}".strip()
    ended = [
        (each["name"], state)
        for each in status.get("containerStatuses") or ()
        if (state := each.get("state", {}).get("terminated", {})).get("exitCode")
    ]
    return "; ".join(
        f"{name} ended with {state.get('reason', 'Error')}, exit code {state['exitCode']}"
        for name, state in ended
    ) or ("it failed")


def one_line(text: str) -> str:
    return " ".join(text.split())


def minutes_since(timestamp: str) -> float:
    """The minutes since a time of Kubernetes; 0 for none."""
    return (time() - datetime.fromisoformat(timestamp).timestamp()) / 60 if timestamp else 0.0


def finding(faults: list[PodFault]) -> Finding:
    """Faults as one finding, which begins with those that do not mend themselves."""
    ordered = sorted(faults, key=lambda fault: fault.is_waiting)
    said = [fault.said for fault in ordered[:SHOWN]]
    if len(ordered) > SHOWN:
        said.append(f"{len(ordered) - SHOWN} more")
    remedies = dict.fromkeys(fault.remedy for fault in ordered[:SHOWN])
    level = Level.WARN if ordered[0].is_waiting else Level.FAIL
    return Finding(level, "; ".join(said), "; ".join(remedies))
