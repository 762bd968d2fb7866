"""Ray's own autoscaler on the rendered chart: the pods that a demand would bring.

The pods of a running cluster are as Ray's KubeRay provider would see them.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.common_pb2 import LabelSelectorOperator  # type: ignore[attr-defined]

from tests.k8s.rendered import cluster, deployments

Document = dict[str, Any]


def ray_cluster(name: str) -> Document:
    """The RayCluster that KubeRay makes of an example's RayService."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": "florence-abcde", "namespace": "inference", "resourceVersion": "1"},
        "spec": cluster(name),
    }


def config(name: str) -> AutoscalingConfig:
    """What Ray's autoscaler reads of it."""
    derived = _derive_autoscaling_config_from_ray_cr(ray_cluster(name))
    return AutoscalingConfig(derived, skip_content_hash=True)


def node_types(name: str) -> dict[str, Document]:
    """The kinds of pods that it knows, without the head."""
    found: dict[str, Document] = dict(config(name).get_config("available_node_types"))
    del found["headgroup"]
    return found


def least(name: str) -> Counter[str]:
    """Replicas of each deployment that are always there."""
    return Counter(
        {which: limits(deployment)[0] for which, deployment in deployments(name).items()}
    )


def most(name: str) -> Counter[str]:
    """Replicas of each deployment at most, with those that a release adds."""
    found = Counter[str]()
    for which, deployment in deployments(name).items():
        top = limits(deployment)[1]
        found[which] = top + -(-top * deployment.get("max_surge_percent", 0) // 100)
    return found


def limits(deployment: Document) -> tuple[int, int]:
    """Least and most replicas of a deployment."""
    if "num_replicas" in deployment:
        return deployment["num_replicas"], deployment["num_replicas"]
    scaling = deployment["autoscaling_config"]
    return scaling["min_replicas"], scaling["max_replicas"]


def launched(
    name: str, replicas: Mapping[str, int], missing: Mapping[str, float] | None = None
) -> tuple[Counter[str], int]:
    """Pods by group that come for these replicas in an empty cluster, and replicas without one.

    `missing` names groups of which the cloud had none when it was last asked, as 0.
    """
    scaling = config(name)
    asked = [
        request(deployments(name)[deployment])
        for deployment, count in replicas.items()
        for _ in range(count)
    ]
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=scaling.get_node_type_configs(),
            max_num_nodes=scaling.get_max_num_nodes(),
            resource_requests=ResourceRequestUtil.group_by_count(asked),
            recoverable_resource_availabilities=dict(missing or {}),
        )
    )
    pods = Counter({each.instance_type: each.count for each in reply.to_launch})
    del pods["headgroup"]
    return pods, len(reply.infeasible_resource_requests)


def request(deployment: Document) -> Any:
    """What one replica asks Ray for."""
    options = deployment["ray_actor_options"]
    asked = {"CPU": options["num_cpus"], "GPU": options.get("num_gpus", 0)}
    selector = [
        (key, LabelSelectorOperator.LABEL_OPERATOR_IN, [value])
        for key, value in options.get("label_selector", {}).items()
    ]
    return ResourceRequestUtil.make(
        {resource: count for resource, count in asked.items() if count},
        label_selectors=[selector] if selector else None,
    )
