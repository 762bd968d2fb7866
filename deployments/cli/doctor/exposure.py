"""What of the release can be reached from outside the cluster, and from other pods?"""

from collections.abc import Iterator, Mapping
from typing import Any

from deployments.cli.doctor.kubectl import Document
from deployments.cli.doctor.release import Release
from deployments.cli.doctor.verdict import Verdict, fail, ok, skip, warn

SERVED = (8000, "serve")  # the one port for clients
OUTSIDE = ("LoadBalancer", "NodePort")
NETWORKING, GATEWAY = "/apis/networking.k8s.io/v1", "/apis/gateway.networking.k8s.io/v1"


def exposed(release: Release) -> Verdict:
    """Whether any port but the service's leaves the cluster.

    Raises:
        Refused: this account may not read Services, Ingresses or routes.
    """
    services = {each["metadata"]["name"]: each for each in own_services(release)}
    faults = [said for each in services.values() for said in opened(each)]
    for kind, name, port in (*ingresses(release), *routes(release)):
        if name in services and port not in SERVED:
            faults.append(f"{kind} leads to port {port} of {name}")
    if faults:
        return fail("; ".join(faults), "let only port 8000 leave the cluster: Ray's run code")
    return ok("only the service's port leaves the cluster, if any")


def own_services(release: Release) -> Iterator[Document]:
    """The Services that lead to its pods."""
    for service in release.kubectl.items(release.path("services")):
        selector = service["spec"].get("selector") or {}
        if any(selector and selector.items() <= labels(pod).items() for pod in release.pods):
            yield service


def opened(service: Document) -> Iterator[str]:
    """Ports of a Service that machines outside reach and should not."""
    spec = service["spec"]
    for port in spec.get("ports") or () if spec.get("type") in OUTSIDE else ():
        if port.get("targetPort", port["port"]) not in SERVED:
            yield f"Service {service['metadata']['name']} ({spec['type']}) opens {port['port']}"


def ingresses(release: Release) -> Iterator[tuple[str, str, Any]]:
    """Where Ingresses lead: what is named, the Service, and its port."""
    for ingress in release.kubectl.items(release.path("ingresses", NETWORKING)):
        spec = ingress["spec"]
        paths = [path for rule in spec.get("rules") or () for path in rule_paths(rule)]
        for backend in (spec.get("defaultBackend"), *(path.get("backend") for path in paths)):
            if service := (backend or {}).get("service"):
                port = service.get("port", {})
                yield (
                    f"Ingress {ingress['metadata']['name']}",
                    service["name"],
                    port.get("number") or port.get("name"),
                )


def rule_paths(rule: Document) -> list[Document]:
    """The paths of a rule."""
    return list((rule.get("http") or {}).get("paths") or ())


def routes(release: Release) -> Iterator[tuple[str, str, Any]]:
    """Where HTTPRoutes lead, likewise."""
    for route in release.kubectl.items(release.path("httproutes", GATEWAY)):
        for rule in route["spec"].get("rules") or ():
            for backend in rule.get("backendRefs") or ():
                named = f"HTTPRoute {route['metadata']['name']}"
                yield named, backend["name"], backend.get("port")


def policies(release: Release) -> Verdict:
    """Whether a NetworkPolicy stands before every pod.

    Raises:
        Refused: this account may not read them.
    """
    if not release.pods:
        return skip("there is no pod")
    selectors = [
        policy["spec"].get("podSelector") or {}
        for policy in release.kubectl.items(release.path("networkpolicies", NETWORKING))
        if "Ingress" in policy["spec"].get("policyTypes", ["Ingress"])
    ]
    bare = [pod for pod in release.pods if not any(selects(each, pod) for each in selectors)]
    if bare:
        said = f"none guards {bare[0]['metadata']['name']}: any pod may connect to all its ports"
        return warn(said, "set networkPolicy.enabled, and use a network plugin that heeds it")
    return ok("every pod has one")


def selects(selector: Document, pod: Document) -> bool:
    """Whether a selector means a pod."""
    found = labels(pod)
    if not (selector.get("matchLabels") or {}).items() <= found.items():
        return False
    return all(holds(each, found) for each in selector.get("matchExpressions") or ())


def holds(expression: Document, found: Mapping[str, str]) -> bool:
    """Whether a pod's labels are as an expression wants them."""
    value, values = found.get(expression["key"]), expression.get("values") or ()
    return {
        "In": value in values,
        "NotIn": value not in values,
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }[expression["operator"]]


def labels(pod: Document) -> dict[str, str]:
    """A pod's labels."""
    return pod["metadata"].get("labels") or {}
