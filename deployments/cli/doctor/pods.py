"""Do the pods run, and go on running?"""

import re
from collections.abc import Iterator

from deployments.cli.doctor.kubectl import Document
from deployments.cli.doctor.release import Release
from deployments.cli.doctor.verdict import Verdict, fail, ok, skip, warn

STUCK = re.compile(r"BackOff|Err|Invalid")
MANY = 3  # restarts


def pods(release: Release) -> Verdict:
    """Those of the cluster that serves."""
    stuck = [(pod, said) for pod in release.pods for said in troubles(pod)]
    restarted = [(pod, said) for pod in release.pods for said in restarts(pod)]
    space = release.kubectl.namespace
    if stuck:
        remedy = f"kubectl describe pod {name_of(stuck[0][0])} -n {space}"
        return fail("; ".join(said for _, said in stuck), remedy)
    if restarted:
        remedy = f"kubectl logs {name_of(restarted[0][0])} -n {space} --previous"
        return warn("; ".join(said for _, said in restarted), remedy)
    return ok(f"{len(release.pods)} run") if release.pods else skip("there is none")


def name_of(pod: Document) -> str:
    """A pod's name."""
    return str(pod["metadata"]["name"])


def troubles(pod: Document) -> Iterator[str]:
    """What keeps a pod from running."""
    status = pod.get("status", {})
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield f"{name_of(pod)} waits for a node: {condition.get('message', '')}"
    for container in containers(status):
        waiting = container.get("state", {}).get("waiting", {})
        if STUCK.search(waiting.get("reason", "")):
            yield f"{name_of(pod)}: {waiting['reason']} {waiting.get('message', '')}".strip()


def restarts(pod: Document) -> Iterator[str]:
    """Containers of it that have ended again and again."""
    for container in containers(pod.get("status", {})):
        if container.get("restartCount", 0) >= MANY:
            yield f"{name_of(pod)} has started {container['restartCount']} times again"


def containers(status: Document) -> Iterator[Document]:
    """How its containers are."""
    yield from status.get("initContainerStatuses") or ()
    yield from status.get("containerStatuses") or ()
