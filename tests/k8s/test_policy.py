"""What a careful operator asks of every pod: Kubernetes' `restricted` standard, and more."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from k8s.generate.helm import render
from tests.k8s.crds import schema_of, subresources_of
from tests.k8s.rendered import (
    GROUPS,
    NAMES,
    SINGLE,
    cluster,
    deployments,
    objects,
    one,
    ray_templates,
    serve_config,
    spec_of,
    templates,
)

ALL = [*NAMES, "everything"]
METADATA = [
    ip_network(each)
    for each in ("169.254.169.254/32", "168.63.129.16/32", "100.100.100.200/32", "fd00:ec2::254")
]
DEPRECATED = ("serviceUnhealthySecondThreshold", "deploymentUnhealthySecondThreshold")
GATED = ("networkPolicy", "tlsOptions", "historyServerOptions", "managedBy", "suspend")


def containers(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every container of ours, with the pod that it is in."""
    for which, template in templates(name):
        spec = template["spec"]
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            if container["name"] not in ("shipper", "warm"):  # the operator's own
                yield which, container


@pytest.mark.parametrize("name", ALL)
def test_pods_meet_the_restricted_standard(name: str) -> None:
    """So that a namespace may enforce it."""
    for which, template in templates(name):
        found = template["spec"]["securityContext"]
        assert found["runAsNonRoot"] is True, which
        assert found["runAsUser"] > 0
        assert found["seccompProfile"] == {"type": "RuntimeDefault"}
        kinds = {
            next(key for key in volume if key != "name") for volume in template["spec"]["volumes"]
        }
        assert kinds <= {"emptyDir", "secret", "configMap", "persistentVolumeClaim", "image"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(template["spec"])


@pytest.mark.parametrize("name", ALL)
def test_containers_gain_no_rights(name: str) -> None:
    """And cannot change the image."""
    own = [container for _, container in containers(name)]
    if name not in SINGLE:
        own.append(cluster(name)["autoscalerOptions"])
    for container in own:
        found = container["securityContext"]
        assert found["allowPrivilegeEscalation"] is False
        assert found["capabilities"] == {"drop": ["ALL"]}
        assert found["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("name", ALL)
def test_containers_ask_for_what_they_take(name: str) -> None:
    """CPU and memory; memory is bounded; a GPU is asked for and bounded alike."""
    for which, container in containers(name):
        asked, bounded = container["resources"]["requests"], container["resources"]["limits"]
        assert {"cpu", "memory"} <= set(asked), (which, container["name"])
        assert "memory" in bounded
        devices = {key for key in {*asked, *bounded} if "/" in key}
        assert {key: asked.get(key) for key in devices} == {
            key: bounded.get(key) for key in devices
        }


@pytest.mark.parametrize("name", ALL)
def test_images_are_named_exactly(name: str) -> None:
    """A version or a digest, never `latest`."""
    for _, container in containers(name):
        assert re.search(r"(:\d[^:/]*|@sha256:[0-9a-f]{64})$", container["image"])


@pytest.mark.parametrize("name", ALL)
def test_pods_live_longer_than_they_drain(name: str) -> None:
    """The pod's grace covers Ray's drain, which covers the deployments' own time to stop."""
    longest = max(
        deployment.get("graceful_shutdown_timeout_s", 20)
        for deployment in deployments(name).values()
    )
    for which, template in ray_templates(name):
        variables = {
            each["name"]: each.get("value") for each in template["spec"]["containers"][0]["env"]
        }
        drain = int(variables["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert template["spec"]["terminationGracePeriodSeconds"] >= drain + 10
        if name in SINGLE:  # nobody to leave requests to
            assert drain == 0
        elif which != "mig":  # whose drain is as short as its spot nodes'
            assert drain >= longest
        assert "lifecycle" not in template["spec"]["containers"][0]


@pytest.mark.parametrize("name", ALL)
def test_an_old_cluster_stays_as_long_as_its_requests(name: str) -> None:
    """Before KubeRay removes it after an upgrade."""
    longest = serve_config(name)["http_options"]["request_timeout_s"]
    assert spec_of("RayService", name)["rayClusterDeletionDelaySeconds"] >= longest


@pytest.mark.parametrize("name", [each for each in ALL if each not in SINGLE])
def test_workers_are_asked_over_http_whether_they_are_ready(name: str) -> None:
    """In place of KubeRay's shell command; with time to answer, and none that restarts them."""
    for group in cluster(name)["workerGroupSpecs"]:
        (container, *_) = group["template"]["spec"]["containers"]
        probe = container["readinessProbe"]
        assert probe["httpGet"] == {"path": "/-/healthz", "port": "serve"}
        assert probe["timeoutSeconds"] < probe["periodSeconds"]
        assert "livenessProbe" not in container


@pytest.mark.parametrize("name", ALL)
def test_ports_have_their_names(name: str) -> None:
    """By which KubeRay and the PodMonitor find them."""
    for _, template in ray_templates(name):
        ports = {
            each["name"]: each["containerPort"]
            for each in template["spec"]["containers"][0]["ports"]
        }
        assert ports["serve"] == serve_config(name)["http_options"]["port"] == 8000
        assert ports["metrics"] == 8080


@pytest.mark.parametrize("name", ALL)
def test_only_the_head_has_a_token_of_kubernetes(name: str) -> None:
    """For its autoscaler; by an account that the chart makes, as KubeRay wants one to be there."""
    accounts = {
        each["metadata"]["name"] for each in objects(name) if each["kind"] == "ServiceAccount"
    }
    for which, template in templates(name):
        assert template["spec"]["serviceAccountName"] in accounts | {"gpu-account"}
        assert template["spec"]["automountServiceAccountToken"] is (which == "head")


@pytest.mark.parametrize("name", ALL)
def test_shared_memory_is_the_pod_s_own(name: str) -> None:
    """Docker's 64 MB would send Ray's objects to disk."""
    for _, template in ray_templates(name):
        volumes = {each["name"]: each for each in template["spec"]["volumes"]}
        mounts = {
            each["mountPath"]: each["name"]
            for each in template["spec"]["containers"][0]["volumeMounts"]
        }
        shm = volumes[mounts["/dev/shm"]]["emptyDir"]
        assert shm["medium"] == "Memory"
        assert shm["sizeLimit"]


@pytest.mark.parametrize("name", ALL)
def test_what_is_written_goes_to_volumes(name: str) -> None:
    """As the image cannot be changed."""
    for which, template in templates(name):
        mounts = {each["mountPath"] for each in template["spec"]["containers"][0]["volumeMounts"]}
        expected = {"/tmp"} if which == "loader" else {"/tmp", "/home/ray", "/var/lib/florence"}
        assert expected <= mounts, which


def blocks(policy: dict[str, Any]) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    """Networks that a policy lets its pods reach, with the ports."""
    for rule in policy["spec"]["egress"]:
        for peer in rule.get("to", ()):
            if "ipBlock" in peer:
                yield peer["ipBlock"], rule.get("ports", [])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("ending", ["-head", "-worker"])
@pytest.mark.parametrize("metadata", METADATA, ids=str)
def test_no_pod_reaches_the_clouds_metadata(name: str, ending: str, metadata: Any) -> None:
    """An image's URL cannot ask for the node's credentials, whatever the service checks."""
    for block, ports in blocks(one("NetworkPolicy", name, ending)):
        if ports and not {each["port"] for each in ports} & {80, 443}:
            continue
        excepted = [ip_network(each) for each in block.get("except", ())]
        assert not holds(ip_network(block["cidr"]), metadata) or any(
            holds(each, metadata) for each in excepted
        ), block


def holds(network: Any, address: Any) -> bool:
    """Whether a network has another one in it."""
    return bool(network.version == address.version and address.subnet_of(network))


def test_only_the_service_is_open() -> None:
    """Workers take clients at 8000 and no other port; the head takes none at all."""
    for ending, open_ports in (("-worker", {8000}), ("-head", set())):
        rules = one("NetworkPolicy", "groups", ending)["spec"]["ingress"]
        free = [rule for rule in rules if "from" not in rule]
        assert {port["port"] for rule in free for port in rule["ports"]} == open_ports
    head = one("NetworkPolicy", "groups", "-head")["spec"]["ingress"]
    dashboards = [
        rule for rule in head if {"protocol": "TCP", "port": 8265} in rule.get("ports", ())
    ]
    (rule,) = dashboards
    assert "kuberay-operator" in str(rule["from"])


def test_named_clients_are_the_only_ones() -> None:
    """`networkPolicy.clients` closes the port to others."""
    rules = one("NetworkPolicy", "everything", "-worker")["spec"]["ingress"]
    clients = [rule for rule in rules if rule.get("ports") == [{"protocol": "TCP", "port": 8000}]]
    (rule,) = clients
    assert rule["from"] == [{"namespaceSelector": {}}]


def test_a_ray_cluster_has_no_scale() -> None:
    """So a budget with `maxUnavailable`, or with a share, allows no disruption at all."""
    assert "scale" not in subresources_of("rayclusters")
    assert "status" in subresources_of("rayclusters")


def allowed(budget: dict[str, Any], healthy: int) -> int:
    """Pods that may be evicted now: what Kubernetes reckons where their owner has no scale."""
    stay = budget.get("minAvailable")
    return max(0, healthy - stay) if isinstance(stay, int) and "maxUnavailable" not in budget else 0


@pytest.mark.parametrize("name", ALL)
def test_a_drain_takes_workers_one_by_one(name: str) -> None:
    """Also when there are as few as there may be. The head is not counted: it would be nailed to
    its node.
    """
    least = sum(group["minReplicas"] for group in cluster(name).get("workerGroupSpecs", ()))
    budgets = [each["spec"] for each in objects(name) if each["kind"] == "PodDisruptionBudget"]
    assert len(budgets) == (least > 2)  # a budget of one pod that stays blocks where the other
    for budget in budgets:  # has no replica, and so is never ready
        assert budget["selector"]["matchLabels"]["app.kubernetes.io/component"] == "worker"
        assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        assert allowed(budget, least) == 1
        assert allowed(budget, least - 1) == 0


def test_a_budget_by_share_would_block_drains() -> None:
    """What the reckoning says of it, so that the test above can fail."""
    assert allowed({"maxUnavailable": 1}, 10) == allowed({"minAvailable": "50%"}, 10) == 0


def test_the_autoscaler_hears_that_it_is_to_stop(tmp_path: Path) -> None:
    """Its shell passes SIGTERM on, and ends as it ended."""
    options = cluster()["autoscalerOptions"]
    ray = tmp_path / "ray"
    ray.write_text('#!/bin/sh\necho "$@" >"$0.called"\nexec sleep 60\n')
    ray.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    names = {"RAY_CLUSTER_NAME": "florence-abcde", "RAY_CLUSTER_NAMESPACE": "inference"}
    command = [*options["command"], *options["args"]]
    with subprocess.Popen(command, env={"PATH": path} | names) as shell:
        called = tmp_path / "ray.called"
        while not (called.exists() and called.read_text()):
            assert shell.poll() is None
            time.sleep(0.01)
        shell.terminate()
        assert shell.wait(5) == 128 + signal.SIGTERM
    assert called.read_text().split() == [
        *("kuberay-autoscaler", "--cluster-name", "florence-abcde"),
        *("--cluster-namespace", "inference"),
    ]


@pytest.mark.parametrize("name", ALL)
def test_no_field_is_deprecated_or_behind_a_gate(name: str) -> None:
    """Unless its value says that the operator's feature gate is on."""
    service = spec_of("RayService", name)
    for field in DEPRECATED:
        assert field in schema_of("rayservices")["properties"]["spec"]["properties"]
        assert field not in service
    assert not set(GATED) & set(service["rayClusterConfig"])
    backend = service["rayClusterConfig"].get("gcsFaultToleranceOptions", {}).get("backend")
    assert backend is None or name == "everything"


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_installed_or_fetched_at_run_time(name: str) -> None:
    """The image has the code; telemetry is off."""
    said = str(serve_config(name))
    assert "working_dir" not in said
    assert "'pip'" not in said
    for _, template in ray_templates(name):
        found = {
            each["name"]: each.get("value") for each in template["spec"]["containers"][0]["env"]
        }
        assert found["RAY_USAGE_STATS_ENABLED"] == "0"


def test_the_autoscaler_is_version_2_by_name() -> None:
    """Else KubeRay restarts containers in addition to the autoscaler."""
    for name in NAMES:
        if name not in SINGLE:
            assert cluster(name)["autoscalerOptions"]["version"] == "v2"


def test_an_operator_may_lay_shields_down() -> None:
    """By a value each, so that the tests above can fail."""
    values = GROUPS | {"security": {"readOnlyRootFilesystem": False}, "drain": {"seconds": 5}}
    service = next(each for each in render(values) if each["kind"] == "RayService")
    container = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"][
        "containers"
    ][0]
    assert container["securityContext"]["readOnlyRootFilesystem"] is False
