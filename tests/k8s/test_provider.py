"""Ray's autoscaler and the chart's cluster get on: its real provider, over a real API.

The provider patches the RayCluster; `reconcile` does what KubeRay's operator then does with pods.
"""

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from ray.autoscaler._private.kuberay.node_provider import IKubernetesHttpApiClient
from ray.autoscaler.v2.instance_manager.cloud_providers.kuberay.cloud_provider import (
    KubeRayProvider,
)
from ray.autoscaler.v2.instance_manager.node_provider import CloudInstance, LaunchNodeError
from ray.core.generated.instance_manager_pb2 import NodeKind  # type: ignore[attr-defined]

from tests.k8s.api_server import ApiServer, path_of, serving
from tests.k8s.autoscaling import ray_cluster

NAME = "spot-with-fallback"
PODS = "/api/v1/namespaces/inference/pods"


class Client(IKubernetesHttpApiClient):
    """Ray's own client, but for the place of the API and the account."""

    def __init__(self, url: str) -> None:
        self._http = httpx2.Client(base_url=url)

    def get(self, path: str) -> dict[str, Any]:
        """An object or a list."""
        return self._answer(self._http.get(self._url(path)))

    def patch(
        self, path: str, payload: Any, content_type: str = "application/json-patch+json"
    ) -> dict[str, Any]:
        """A changed object."""
        headers = {"Content-Type": content_type}
        return self._answer(self._http.patch(self._url(path), json=payload, headers=headers))

    def delete(self, path: str) -> dict[str, Any]:
        """Not needed: KubeRay deletes pods."""
        raise NotImplementedError(path)

    def _url(self, path: str) -> str:
        group = "/api/v1" if path.startswith("pods") else "/apis/ray.io/v1"
        return f"{group}/namespaces/inference/{path}"

    def _answer(self, response: httpx2.Response) -> dict[str, Any]:
        response.raise_for_status()
        found: dict[str, Any] = response.json()
        return found


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """The API with the chart's cluster and its first pods."""
    cluster = copy.deepcopy(ray_cluster(NAME))
    for group in cluster["spec"]["workerGroupSpecs"]:
        group["scaleStrategy"] = {}  # which the operator writes even when it is empty
    with serving(ApiServer([cluster])) as server:
        reconcile(server)
        yield server


@pytest.fixture
def provider(server: ApiServer) -> KubeRayProvider:
    """Ray's provider on it."""
    return KubeRayProvider(
        "florence-abcde",
        {"namespace": "inference", "head_node_type": "headgroup"},
        gcs_client=None,  # only pods that are resized in place need Ray itself
        k8s_api_client=Client(server.url),
    )


def reconcile(server: ApiServer) -> None:
    """Pods as the cluster's groups say: deleted ones go, missing ones come."""
    cluster = server.get(path_of(ray_cluster(NAME)))
    assert cluster is not None
    if not server.below(PODS, "ray.io/node-type=head")["items"]:
        server.put(pod("head", "headgroup", 0))
    for group in cluster["spec"]["workerGroupSpecs"]:
        for name in group.get("scaleStrategy", {}).get("workersToDelete", ()):
            if server.get(f"{PODS}/{name}"):
                server.delete(f"{PODS}/{name}")
        here = server.below(PODS, f"ray.io/group={group['groupName']}")["items"]
        for number in range(len(here), max(group["replicas"], group["minReplicas"])):
            server.put(pod("worker", group["groupName"], number))


def pod(kind: str, group: str, number: int) -> dict[str, Any]:
    """A pod as KubeRay labels it, with Ray running in it."""
    labels = {"ray.io/cluster": "florence-abcde", "ray.io/node-type": kind, "ray.io/group": group}
    state = {"name": f"ray-{kind}", "state": {"running": {}}, "ready": True}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{group}-{number}", "namespace": "inference", "labels": labels},
        "spec": {"containers": [{"name": f"ray-{kind}"}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [state]},
    }


def workers(provider: KubeRayProvider) -> Counter[str]:
    """The workers that it sees, by group."""
    found: list[CloudInstance] = list(provider.get_non_terminated().values())
    return Counter(each.node_type for each in found if each.node_kind == NodeKind.WORKER)


def group_of(server: ApiServer, name: str) -> dict[str, Any]:
    """A group of the cluster as it is now."""
    cluster = server.get(path_of(ray_cluster(NAME)))
    assert cluster is not None
    return next(each for each in cluster["spec"]["workerGroupSpecs"] if each["groupName"] == name)


def test_it_sees_the_first_pods(provider: KubeRayProvider) -> None:
    """As many as each group's least."""
    assert workers(provider) == {"cpu": 2, "on-demand": 1}


def test_it_adds_pods(server: ApiServer, provider: KubeRayProvider) -> None:
    """By `replicas` of their group; the same request twice adds them once."""
    provider.launch({"spot": 3}, "first")
    provider.launch({"spot": 3}, "first")
    assert provider.poll_errors() == []
    assert group_of(server, "spot")["replicas"] == 3
    reconcile(server)
    assert workers(provider) == {"cpu": 2, "on-demand": 1, "spot": 3}


def test_it_adds_no_more_than_there_may_be(server: ApiServer, provider: KubeRayProvider) -> None:
    """And says how many it could not."""
    provider.launch({"on-demand": 5}, "first")
    assert group_of(server, "on-demand")["replicas"] == 4
    (error,) = provider.poll_errors()
    assert isinstance(error, LaunchNodeError)
    assert "maxReplicas" in str(error)
    assert error.count == 2


def test_it_takes_the_pods_that_it_names(server: ApiServer, provider: KubeRayProvider) -> None:
    """By `workersToDelete`, which it clears when they are gone."""
    provider.launch({"spot": 3}, "first")
    reconcile(server)
    provider.get_non_terminated()
    provider.terminate(["spot-1"], "second")
    assert group_of(server, "spot")["scaleStrategy"]["workersToDelete"] == ["spot-1"]
    assert group_of(server, "spot")["replicas"] == 2
    reconcile(server)
    assert workers(provider) == {"cpu": 2, "on-demand": 1, "spot": 2}
    provider.launch({"cpu": 1}, "third")
    assert group_of(server, "spot")["scaleStrategy"]["workersToDelete"] == []


def test_it_never_takes_the_head(server: ApiServer, provider: KubeRayProvider) -> None:
    """Whatever it is asked."""
    provider.terminate(["headgroup-0"], "first")
    reconcile(server)
    assert server.get(f"{PODS}/headgroup-0") is not None
