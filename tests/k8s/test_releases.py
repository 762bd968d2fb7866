"""Second operations: Helm itself installs the chart, upgrades it, rolls it back and removes it.

Helm's own engine, on an API server that keeps who owns which field, as KubeRay's operator would
take them.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helm_python import Config, HelmError

from k8s.generate.helm import CHART
from k8s.generate.manifests import FOLDER
from tests.k8s.api_server import OPERATOR, ApiServer, discovery, kubeconfig, serving
from tests.k8s.rendered import NAMES, SINGLE, values_of

SERVICE = "/apis/ray.io/v1/namespaces/inference/rayservices/florence"
ALL = [*NAMES, "everything"]
GROUPED = [name for name in ALL if name not in SINGLE]
MANIFESTS = sorted(FOLDER.glob("*.yaml"))
pytestmark = pytest.mark.slow  # Helm takes a second for each operation


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """An empty cluster."""
    empty = ApiServer()
    empty.objects |= discovery() | {"/version": {"gitVersion": "v1.36.2"}}
    with serving(empty):
        yield empty


@pytest.fixture
def helm(server: ApiServer) -> Iterator[Config]:
    """Helm on it; releases are kept in Helm's memory."""
    access = kubeconfig(server, "inference")
    with Config(
        kubeconfig_content=access, namespace="inference", storage_driver="memory"
    ) as config:
        yield config


def names(server: ApiServer) -> set[str]:
    """The objects of the namespace."""
    return {path for path in server.objects if "/namespaces/inference/" in path}


@pytest.mark.parametrize("name", ALL)
def test_a_release_can_be_changed_and_taken_back(
    server: ApiServer, helm: Config, name: str
) -> None:
    """With the same values, with others, and back, after KubeRay has written the spec back."""
    values = values_of(name)
    helm.install(CHART, "florence", values)
    server.write_back(SERVICE)
    first = server.objects[SERVICE]["spec"]
    helm.upgrade(CHART, "florence", values)
    assert server.objects[SERVICE]["spec"] == first
    helm.upgrade(CHART, "florence", values | {"rolloutToken": "next", "drain": {"seconds": 60}})
    assert "next" in str(server.objects[SERVICE]["spec"])
    server.write_back(SERVICE)
    helm.rollback("florence", version=1)
    assert server.objects[SERVICE]["spec"] == first


@pytest.mark.parametrize("name", GROUPED)
def test_without_that_form_an_upgrade_conflicts(
    server: ApiServer, helm: Config, tmp_path: Path, name: str
) -> None:
    """With the operator, over the list of groups: so that the test above can fail."""
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart)
    template = chart / "templates" / "_cluster.tpl"
    template.write_text(template.read_text().replace("scaleStrategy: {}\n", ""))
    helm.install(chart, "florence", values_of(name))
    server.write_back(SERVICE)
    assert OPERATOR in server.owners[SERVICE].values()
    with pytest.raises(HelmError, match=rf'"{OPERATOR}": .spec.rayClusterConfig.workerGroupSpecs'):
        helm.upgrade(chart, "florence", values_of(name))


@pytest.mark.parametrize("name", ALL)
def test_a_release_leaves_what_it_says(server: ApiServer, helm: Config, name: str) -> None:
    """The claim with the weights, and with Redis the head's account, which its clean-up needs."""
    values = values_of(name)
    helm.install(CHART, "florence", values)
    assert SERVICE in names(server)
    helm.uninstall("florence")
    space = "/api/v1/namespaces/inference"
    left = set[str]()
    if values.get("model", {}).get("source") == "pvc":
        left.add(f"{space}/persistentvolumeclaims/florence-model")
    if values.get("gcs", {}).get("faultTolerance") == "redis":
        left.add(f"{space}/serviceaccounts/florence-head")
    assert names(server) == left
    helm.install(CHART, "florence", values)  # which takes them over again
    assert left < names(server)


@pytest.mark.skipif(not shutil.which("kubectl"), reason="needs kubectl on PATH")
@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.stem)
def test_manifests_can_be_applied_again(server: ApiServer, tmp_path: Path, file: Path) -> None:
    """By kubectl's server-side apply."""
    access = tmp_path / "kubeconfig"
    access.write_text(kubeconfig(server, "inference"))

    def apply() -> subprocess.CompletedProcess[str]:
        words = ["kubectl", f"--kubeconfig={access}", "apply", "--server-side", f"-f={file}"]
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)

    first = apply()
    assert (first.returncode, first.stderr) == (0, "")
    server.write_back(SERVICE)
    again = apply()
    assert (again.returncode, again.stderr) == (0, "")


def test_another_s_change_is_a_conflict_until_it_is_forced(server: ApiServer) -> None:
    """In the words that Kubernetes has for it."""
    wanted: dict[str, Any] = {
        "kind": "RayService",
        "metadata": {"name": "florence"},
        "spec": {"serveConfigV2": "a"},
    }
    server.apply(SERVICE, wanted, "helm")
    other = wanted | {"spec": {"serveConfigV2": "b"}}
    with pytest.raises(Exception, match=r'conflict: with "helm": \.spec\.serveConfigV2'):
        server.apply(SERVICE, other, "kubectl")
    server.apply(SERVICE, other, "kubectl", force=True)
    assert server.owners[SERVICE] == {("serveConfigV2",): "kubectl"}
