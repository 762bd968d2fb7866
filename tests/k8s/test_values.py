"""A wrong value fails at install with what to change, and no key is undocumented."""

from typing import Any

import pytest

from deployments import __version__
from deployments.local.config import serve_config
from deployments.settings import Settings
from k8s.generate.files import files
from k8s.generate.helm import CHART, Refused, load, render
from k8s.generate.values import leaves, read_keys
from tests.k8s.rendered import GROUPS

GROUP = {"name": "gpu"}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"imag": {"tag": "1"}}, "imag"),
    ({"image": {"tags": "1"}}, "tags"),
    ({"image": {"digest": "sha256:1"}}, "digest"),
    ({"drain": {"seconds": "90"}}, "seconds"),
    ({"model": {"source": "s3"}}, "source"),
    ({"upgrade": {"strategy": "Incremental"}}, "strategy"),
    ({"gcs": {"faultTolerance": "etcd"}}, "faultTolerance"),
    ({"settings": {"inference": {"max_batch": 4}}}, "max_batch"),
    ({"settings": {"inference": {"max_batch_size": "4"}}}, "max_batch_size"),
    ({"settings": {"queue": {"drain_s": -1}}}, "drain_s"),
    ({"serve": {"deployments": {"Inferense": {}}}}, "Inferense"),
    ({"serve": {"deployments": {"Inference": {"max_ongoin": 4}}}}, "max_ongoin"),
    ({"serve": {"deployments": {"Inference": {"autoscaling_config": {"max": 4}}}}}, "max"),
    ({"serve": {"deployments": {"Inference": {"ray_actor_options": {"gpus": 1}}}}}, "gpus"),
    ({"gpuGroups": [{"minReplicas": 1}]}, "name"),
    ({"gpuGroups": [{**GROUP, "maxReplica": 1}]}, "maxReplica"),
    ({"gpuGroups": [{"name": "A10"}]}, "name"),
    ({"gpuGroups": [{**GROUP, "minReplicas": -1}]}, "minReplicas"),
    ({"cpuGroups": [{"name": "cpu", "gpus": 1}]}, "gpus"),
    ({"files": {"url": "http://bucket"}}, "url"),
    ({"fullnameOverride": "x" * 48}, "fullnameOverride"),
    ({"commonAnnotations": {"a": True}}, "got boolean, want string"),
    ({"ingress": {"annotations": {"a": True}}}, "got boolean, want string"),
    ({"head": {"nodeSelector": {"gpu": True}}}, "got boolean, want string"),
    ({"gpuGroups": [{**GROUP, "labels": {"a": 1}}]}, "got number, want string"),
    ({"extra": {"env": [{"name": "A", "value": 1}]}}, "got number, want string"),
    ({"gpuGroups": [{**GROUP, "env": [{"name": "A", "value": 1}]}]}, "got number, want string"),
    ({"podDisruptionBudget": {"maxUnavailable": "25%"}}, "got string, want integer"),
]
UNFIT: list[tuple[dict[str, Any], str]] = [
    ({"database": {"existingSecret": ""}}, "database.existingSecret is needed"),
    (
        {"serve": {"deployments": {"Inference": {"ray_actor_options": {"num_cpus": 8}}}}},
        "Inference asks for 8 CPUs, and no pod for it has more than 4",
    ),
    (
        {"serve": {"deployments": {"Ingress": {"ray_actor_options": {"num_cpus": 4.5}}}}},
        "Ingress asks for 4.5 CPUs",
    ),
    (
        {"serve": {"deployments": {"Inference": {"ray_actor_options": {"num_gpus": 2}}}}},
        "Inference asks for 2 GPUs, and no pod has more than 1",
    ),
    ({"fullnameOverride": "9lives"}, "set fullnameOverride"),
    ({"settings": {"model": {"path": "/m"}}}, "set model.id, model.path"),
    ({"model": {"source": "imageVolume"}}, "model.imageVolume.reference"),
    ({"files": {"url": "s3://b/p", "existingClaim": "c"}}, "exclude each other"),
    ({"gcs": {"faultTolerance": "redis"}}, "gcs.redis.address"),
    ({"gcs": {"faultTolerance": "rocksdb"}}, "GCSFaultToleranceEmbeddedStorage"),
    ({"upgrade": {"strategy": "NewClusterWithIncrementalUpgrade"}}, "gatewayClassName"),
    ({"ingress": {"enabled": True}}, "ingress.hosts"),
    ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs"),
    ({"gpuGroups": [GROUP, GROUP]}, "two groups are named"),
    ({"cpuGroups": [{"name": "gpu"}]}, "two groups are named"),
    ({"gpuGroups": [{**GROUP, "minReplicas": 3, "maxReplicas": 2}]}, "must not be above"),
]
INCREMENTAL = {"strategy": "NewClusterWithIncrementalUpgrade"}
UNFIT += [
    ({"upgrade": INCREMENTAL | {"incremental": incremental}} | more, said)
    for incremental, more, said in (
        ({"gatewayClassName": "x", "stepSizePercent": 60}, {}, "maxSurgePercent"),
        ({"gatewayClassName": "x"}, {"cpuGroups": [], "gpuGroups": []}, "needs groups"),
        (
            {"gatewayClassName": "x"},
            {"httpRoute": {"enabled": True, "parentRefs": [{"name": "g"}]}},
            "its own HTTPRoute",
        ),
        (
            {"gatewayClassName": "x"},
            {"ingress": {"enabled": True, "hosts": ["h"]}},
            "ingress.enabled goes past the Gateway",
        ),
    )
]


@pytest.mark.parametrize(("values", "path"), WRONG, ids=str)
def test_a_wrong_value_is_refused_by_its_path(values: dict[str, Any], path: str) -> None:
    """The schema says which; Helm does so before it talks to a cluster."""
    with pytest.raises(Refused, match=path):
        render(GROUPS | values)


@pytest.mark.parametrize(("values", "said"), UNFIT, ids=str)
def test_values_that_do_not_go_together_are_refused(values: dict[str, Any], said: str) -> None:
    """With what to write instead."""
    with pytest.raises(Refused, match=said):
        render(GROUPS | values)


def test_what_is_made_is_up_to_date() -> None:
    """`make chart` would change nothing."""
    old = [str(file) for file, expected in files() if file.read_text() != expected]
    assert old == [], "run `make chart`"


def test_the_chart_has_the_one_serve_config() -> None:
    """Byte for byte that of the repository."""
    assert (CHART / "files" / "serve_config.yaml").read_bytes() == serve_config().read_bytes()


@pytest.mark.parametrize("key", list(leaves(read_keys())), ids=lambda key: ".".join(key.path))
def test_each_key_is_described(key: Any) -> None:
    """In values.yaml, from where schema and README have it."""
    assert key.description.endswith((".", ":")), key.path
    assert f"`{'.'.join(key.path)}`" in (CHART / "README.md").read_text()


def test_every_setting_is_in_the_schema() -> None:
    """Those of the service, by section."""
    definitions = load((CHART / "values.schema.json").read_text())["$defs"]
    for name, section in Settings.model_fields.items():
        kind = section.annotation
        assert kind is not None
        properties = definitions[kind.__name__]["properties"]
        assert set(properties) == set(getattr(kind, "model_fields", {})), name


def test_the_chart_has_the_package_s_version() -> None:
    """Both the chart and what it installs."""
    chart = load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__


def test_the_chart_has_ray_s_version() -> None:
    """That which the image installs."""
    import ray

    chart = load((CHART / "Chart.yaml").read_text())
    assert chart["annotations"]["ray.io/version"] == ray.__version__
