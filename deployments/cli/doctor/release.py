"""A release of the chart as the cluster has it: its RayService, its Ray cluster, its pods."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from deployments.cli.doctor.kubectl import Document, Kubectl
from deployments.cli.doctor.verdict import Failed

RAY = "/apis/ray.io/v1"


@dataclass(frozen=True)
class Release:
    """The RayService called `name`, or that of the Helm release called so."""

    access: Kubectl
    name: str

    @cached_property
    def kubectl(self) -> Kubectl:
        """The access, to the namespace that is given or the context's.

        Raises:
            Failed: kubectl is missing, or has no such context.
        """
        return self.access.with_namespace()

    @cached_property
    def service(self) -> Document:
        """The RayService.

        Raises:
            Failed: there is none.
        """
        path = self.path("rayservices", RAY)
        found = self.kubectl.get(f"{path}/{self.name}")
        released = found or next(
            iter(self.kubectl.items(path, {"app.kubernetes.io/instance": self.name})), None
        )
        if released is None:
            raise Failed(
                f"there is no RayService {self.name} in {self.kubectl.namespace}",
                "give --namespace and --release: `kubectl get rayservices -A`",
            )
        return released

    @cached_property
    def cluster(self) -> Document | None:
        """The Ray cluster that serves; None while there is none."""
        active = self.service.get("status", {}).get("activeServiceStatus", {})
        name = active.get("rayClusterName")
        return self.kubectl.get(f"{self.path('rayclusters', RAY)}/{name}") if name else None

    @cached_property
    def pods(self) -> list[Document]:
        """The pods of that cluster."""
        if self.cluster is None:
            return []
        labels = {"ray.io/cluster": self.cluster["metadata"]["name"]}
        return self.kubectl.items(self.path("pods"), labels)

    @property
    def wanted(self) -> Document:
        """The Ray cluster as the RayService wants it."""
        spec: Document = self.service["spec"]["rayClusterConfig"]
        return spec

    @property
    def named(self) -> str:
        """The RayService in kubectl's words."""
        name = self.service["metadata"]["name"]
        return f"rayservice {name} -n {self.kubectl.namespace}"

    def templates(self) -> Iterator[tuple[str, Document]]:
        """The templates of its pods: the head's, and each group's by its name."""
        yield "head", self.wanted["headGroupSpec"]["template"]
        for group in self.wanted.get("workerGroupSpecs") or ():
            yield group["groupName"], group["template"]

    def path(self, plural: str, api: str = "/api/v1") -> str:
        """Where objects of a kind are, in this release's namespace."""
        return f"{api}/namespaces/{self.kubectl.namespace}/{plural}"
