"""What the chart makes of values."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from deployments.cli.options import store_url
from deployments.local.config import read_yaml, serve_config
from deployments.settings import parse, state_home, with_environment
from k8s.generate.helm import CHART, documents, merged, notes, packed, render, texts
from tests.k8s import rendered
from tests.k8s.rendered import (
    EXAMPLES,
    GROUPS,
    NAMES,
    SINGLE,
    cluster,
    deployments,
    objects,
    one,
    ray_templates,
    spec_of,
    templates,
    values_of,
)

ALL = [*NAMES, "everything"]
FORBIDDEN = ("helm.sh/chart", "app.kubernetes.io/version", "app.kubernetes.io/managed-by")
OPTIONAL = {
    "ingress": "Ingress",
    "httpRoute": "HTTPRoute",
    "podMonitor": "PodMonitor",
    "prometheusRule": "PrometheusRule",
    "podDisruptionBudget": "PodDisruptionBudget",
    "networkPolicy": "NetworkPolicy",
}


def kinds(values: dict[str, Any]) -> list[str]:
    """The kinds of the objects that values make."""
    return [each["kind"] for each in render(values)]


def env(template: dict[str, Any]) -> dict[str, Any]:
    """The environment of the first container, by name."""
    return {each["name"]: each for each in template["spec"]["containers"][0]["env"]}


@pytest.mark.parametrize("name", ALL)
def test_there_is_one_ray_service_and_no_ray_cluster(name: str) -> None:
    """KubeRay makes the cluster of it."""
    found = [each["kind"] for each in objects(name)]
    assert found.count("RayService") == 1
    assert "RayCluster" not in found


@pytest.mark.parametrize("name", ALL)
def test_names_are_short_and_each_there_once(name: str) -> None:
    """47 characters is KubeRay's limit, and leaves room for what it appends."""
    found = [(each["kind"], each["metadata"]["name"]) for each in objects(name)]
    assert len(found) == len(set(found))
    assert len(one("RayService", name)["metadata"]["name"]) <= 47


@pytest.mark.parametrize("release", ["florence", "x", "a" * 53, "vision-" * 7 + "v"])
def test_a_long_release_gets_a_short_name(release: str) -> None:
    """Helm allows 53 characters for a release."""
    service = next(each for each in render(GROUPS, release) if each["kind"] == "RayService")
    name = service["metadata"]["name"]
    assert 0 < len(name) <= 47
    assert not name.endswith("-")
    assert len(service["spec"]["serveService"]["metadata"]["name"]) <= 63


@pytest.mark.parametrize("name", ALL)
def test_everything_is_in_the_namespace_and_says_whose_it_is(name: str) -> None:
    """No object for all of the cluster."""
    for each in objects(name):
        assert each["metadata"]["namespace"] == "inference", each["kind"]
        assert each["metadata"]["labels"]["app.kubernetes.io/instance"] == "florence"
        assert each["kind"] not in ("ClusterRole", "ClusterRoleBinding", "Namespace")


@pytest.mark.parametrize("name", ALL)
def test_the_chart_makes_no_secret(name: str) -> None:
    """It names those that are there; none has a default, none is generated."""
    assert "Secret" not in [each["kind"] for each in objects(name)]
    for file in (CHART / "templates").rglob("*.*"):
        assert not re.search("rand(Alpha|Ascii|Bytes|Int|Numeric)|genPrivateKey", file.read_text())


@pytest.mark.parametrize("name", ALL)
def test_a_new_chart_version_leaves_running_pods_alone(name: str) -> None:
    """A change of a pod's template makes KubeRay start a second cluster."""
    for which, template in ray_templates(name):
        said = yaml.safe_dump(template["metadata"])
        assert not any(word in said for word in FORBIDDEN), which
        assert "checksum" not in said
        assert set(template["metadata"]["labels"]) - {"queue"} == {
            "app.kubernetes.io/instance",
            "app.kubernetes.io/part-of",
            "app.kubernetes.io/component",
        }


def test_the_rollout_token_is_in_every_pod() -> None:
    """So that another one replaces the cluster."""
    for _, template in ray_templates("everything"):
        assert template["metadata"]["annotations"]["florence/rollout-token"] == "2"
    for _, template in ray_templates("groups"):
        assert "florence/rollout-token" not in template["metadata"].get("annotations", {})


def test_serve_is_given_the_repository_s_config() -> None:
    """Only the model differs, and the label that keeps CPU deployments off GPU pods."""
    expected = read_yaml(serve_config())
    app = expected["applications"][0]
    app["args"]["model"] |= {"path": "florence-community/Florence-2-large", "revision": "main"}
    for deployment in app["deployments"]:
        if deployment["name"] != "Inference":
            deployment["ray_actor_options"]["label_selector"] = {"florence/pool": "cpu"}
    assert rendered.serve_config() == expected


def test_a_package_makes_what_the_folder_makes(tmp_path: Path) -> None:
    """It has the config, the alerts and the dashboard with it."""
    archive = packed(tmp_path)
    assert documents(texts(values_of("everything"), chart=archive)) == list(objects("everything"))


@pytest.mark.parametrize("name", ALL)
def test_ray_serve_takes_the_config(name: str) -> None:
    """As KubeRay hands it over."""
    ServeDeploySchema.model_validate(rendered.serve_config(name))


@pytest.mark.parametrize("name", ALL)
def test_the_service_takes_its_settings(name: str) -> None:
    """As `build` would, and with the values of the example."""
    args = rendered.serve_config(name)["applications"][0]["args"]
    settings = parse(args).model_dump(mode="json")
    for section, given in values_of(name).get("settings", {}).items():
        for key, value in given.items():
            assert settings[section][key] == value


def test_values_go_over_the_config_even_when_they_are_nothing() -> None:
    """False, zero and empty count; what is not named stays."""
    values = GROUPS | {
        "settings": {"postprocess": {"annotate": False}, "queue": {"drain_s": 0}},
        "serve": {"deployments": {"Inference": {"autoscaling_config": {"min_replicas": 0}}}},
    }
    service = next(each for each in render(values) if each["kind"] == "RayService")
    app = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]
    assert app["args"]["postprocess"] == {"annotate": False}
    assert app["args"]["queue"] == {"drain_s": 0, "max_running": 64}
    inference = next(
        deployment for deployment in app["deployments"] if deployment["name"] == "Inference"
    )
    assert inference["autoscaling_config"]["min_replicas"] == 0
    assert inference["autoscaling_config"]["max_replicas"] == 8


def test_a_fixed_number_of_replicas_takes_the_place_of_autoscaling() -> None:
    """Serve refuses both."""
    found = deployments("cpu-demo")
    assert all(deployment["num_replicas"] == 1 for deployment in found.values())
    assert not any("autoscaling_config" in deployment for deployment in found.values())


def test_without_gpu_groups_the_model_runs_on_the_cpu() -> None:
    """In single precision, and without asking for a GPU."""
    args = rendered.serve_config("cpu-demo")["applications"][0]["args"]
    assert args["inference"]["max_batch_size"] == 8
    assert args["model"] | {"torch_threads": 2} == {
        "path": "demo",
        "revision": "main",
        "device": "cpu",
        "dtype": "auto",
        "torch_threads": 2,
    }
    assert deployments("cpu-demo")["Inference"]["ray_actor_options"]["num_gpus"] == 0


def test_a_head_without_groups_is_the_whole_service() -> None:
    """It has CPUs for replicas, and clients come to it."""
    spec = cluster("cpu-demo")
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "4"
    assert "workerGroupSpecs" not in spec
    assert not spec["enableInTreeAutoscaling"]
    assert "excludeHeadPodFromServeSvc" not in spec_of("RayService", "cpu-demo")


@pytest.mark.parametrize("name", [each for each in ALL if each not in SINGLE])
def test_a_head_with_groups_runs_no_replica(name: str) -> None:
    """So that losing it loses no request, and no client comes to it."""
    head = cluster(name)["headGroupSpec"]
    assert head["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    assert spec_of("RayService", name)["excludeHeadPodFromServeSvc"] is True
    notes_of_head = head["template"]["metadata"]["annotations"]
    assert notes_of_head["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
    assert notes_of_head["karpenter.sh/do-not-disrupt"] == "true"


def test_parts_of_a_gpu_count_as_gpus() -> None:
    """Ray and KubeRay know only resources whose name ends in `gpu`; so the count is given."""
    mig = cluster("everything")["workerGroupSpecs"][-1]
    assert mig["rayStartParams"]["num-gpus"] == "1"
    resources = mig["template"]["spec"]["containers"][0]["resources"]
    assert resources["limits"]["nvidia.com/mig-1g.10gb"] == "1"
    assert resources["requests"]["nvidia.com/mig-1g.10gb"] == "1"
    assert mig["template"]["spec"]["runtimeClassName"] == "nvidia"
    assert (mig["minReplicas"], mig["priority"]) == (0, 5)
    assert mig["labels"] == {"florence/pool": "gpu", "ray.io/accelerator-type": "A100"}


def test_spot_comes_before_on_demand() -> None:
    """By priority; a group drains inside its cloud's notice."""
    groups = {each["groupName"]: each for each in cluster("spot-with-fallback")["workerGroupSpecs"]}
    assert groups["spot"]["priority"] > groups["on-demand"].get("priority", 0)
    assert groups["spot"]["minReplicas"] == 0
    assert groups["on-demand"]["minReplicas"] == 1


def test_another_drain_of_a_group_is_its_own() -> None:
    """Its grace follows."""
    found = dict(ray_templates("everything"))
    assert env(found["mig"])["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]["value"] == "20"
    assert found["mig"]["spec"]["terminationGracePeriodSeconds"] == 50
    assert env(found["cpu"])["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]["value"] == "90"


def test_secrets_reach_every_pod_that_runs_our_code() -> None:
    """By reference."""
    for which, template in templates("everything"):
        if which == "loader":
            continue
        found = env(template)
        store = found["FLORENCE_STORE"]["valueFrom"]["secretKeyRef"]
        key = found["FLORENCE_API_KEY"]["valueFrom"]["secretKeyRef"]
        assert (store["name"], store["key"]) == ("florence-database", "url")
        assert (key["name"], key["key"]) == ("florence-api-key", "key")
        container = template["spec"]["containers"][0]
        assert {"secretRef": {"name": "florence-bucket"}} in container["envFrom"]
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"/var/lib/florence/webhooks", "/var/lib/florence/files"} <= mounts


def test_ray_asks_for_its_token() -> None:
    """Always, unless it is turned off; from a Secret of the operator's, or KubeRay's own."""
    assert cluster()["authOptions"] == {"mode": "token"}
    assert cluster("everything")["authOptions"] == {"mode": "token", "secretName": "ray-token"}
    off = render(GROUPS | {"rayAuth": {"enabled": False}})
    service = next(each for each in off if each["kind"] == "RayService")
    assert "authOptions" not in service["spec"]["rayClusterConfig"]


def test_a_volume_is_filled_by_a_job_and_waited_for() -> None:
    """Another revision is another Job, as Jobs cannot be changed."""
    values = GROUPS | {"model": {"source": "pvc", "revision": "abc"}}
    other = GROUPS | {"model": {"source": "pvc", "revision": "abd"}}
    jobs = [
        next(each for each in render(each) if each["kind"] == "Job") for each in (values, other)
    ]
    assert jobs[0]["metadata"]["name"] != jobs[1]["metadata"]["name"]
    variables = {
        each["name"]: each["value"]
        for each in jobs[0]["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    assert variables["MODEL_REVISION"] == "abc"
    service = next(each for each in render(values) if each["kind"] == "RayService")
    group = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    (waiting,) = group["template"]["spec"]["initContainers"]
    assert waiting["args"] == [variables["MARK"]]
    assert variables["MARK"].startswith(f"{variables['MODEL_PATH']}/")


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ({"source": "hub"}, "florence-community/Florence-2-large"),
        ({"source": "image", "path": "demo"}, "demo"),
        ({"source": "image", "path": "/opt/mine"}, "/opt/mine"),
        ({"source": "image"}, "demo"),
        ({"source": "pvc"}, "/models/florence-2-large"),
        ({"source": "pvc", "path": "mine"}, "/models/mine"),
        (
            {"source": "imageVolume", "imageVolume": {"reference": "m:1"}},
            "/models/florence-2-large",
        ),
    ],
    ids=str,
)
def test_the_model_is_where_the_source_puts_it(model: dict[str, Any], path: str) -> None:
    """Only `hub` may go to the hub."""
    service = next(
        each for each in render(GROUPS | {"model": model}) if each["kind"] == "RayService"
    )
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    assert config["applications"][0]["args"]["model"]["path"] == path
    head = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]
    assert ("HF_HUB_OFFLINE" in env(head)) == (model["source"] != "hub")


@pytest.mark.parametrize(("switch", "kind"), OPTIONAL.items())
def test_a_part_that_is_off_is_not_there(switch: str, kind: str) -> None:
    """And there when it is on."""
    assert kind not in kinds(GROUPS | {switch: {"enabled": False}})
    assert kind in [each["kind"] for each in objects("everything")]


@pytest.mark.parametrize("name", ALL)
def test_only_pods_with_replicas_have_the_checkpoint(name: str) -> None:
    """A head with groups waits for no volume. CPU pods have it: an Ingress reads the tokenizer."""
    source = merged(values_of(name))["model"]["source"]
    for which, template in templates(name):
        mounts = {each["mountPath"] for each in template["spec"]["containers"][0]["volumeMounts"]}
        volumes = {each["name"] for each in template["spec"]["volumes"]}
        needed = source in ("pvc", "imageVolume") and (which != "head" or name in SINGLE)
        assert ("/models" in mounts, "model" in volumes) == (needed, needed), which
        waits = [each["name"] for each in template["spec"].get("initContainers", ())]
        is_waited_for = needed and source == "pvc" and which not in ("loader", "test")
        assert ("wait-for-model" in waits) == is_waited_for


def test_a_group_has_what_is_its_own() -> None:
    """Labels that do not take the place of the chart's, an account, init containers, a spread."""
    group = {
        "name": "cpu",
        "labels": {"team": "vision", "app.kubernetes.io/component": "mine"},
        "serviceAccountName": "own",
        "initContainers": [{"name": "first", "image": "first:1"}],
        "topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 1}],
    }
    service = next(
        each for each in render(GROUPS | {"cpuGroups": [group]}) if each["kind"] == "RayService"
    )
    cpu, gpu = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    labels = cpu["template"]["metadata"]["labels"]
    assert labels["team"] == "vision"
    assert labels["app.kubernetes.io/component"] == "worker"
    spec = cpu["template"]["spec"]
    assert spec["serviceAccountName"] == "own"
    assert [each["name"] for each in spec["initContainers"]] == ["first"]
    assert spec["topologySpreadConstraints"] == group["topologySpreadConstraints"]
    assert gpu["template"]["spec"]["serviceAccountName"] == "florence-worker"
    assert "initContainers" not in gpu["template"]["spec"]


@pytest.mark.parametrize("name", ALL)
def test_commands_in_a_pod_work_on_the_store_of_the_service(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that `florence keys create` makes a key that the service knows."""
    args = rendered.serve_config(name)["applications"][0]["args"]
    for which, template in templates(name):
        if which == "loader":
            continue
        for variable in ("FLORENCE_STORE", "XDG_STATE_HOME"):
            value = env(template)[variable].get("value", "postgresql://the-secret")
            monkeypatch.setenv(variable, value)
        settings = with_environment(parse(args))
        assert store_url(None, None) == settings.store.url
        assert Path(settings.webhooks.keys) == state_home() / "webhooks"
        assert settings.store.is_postgres or settings.store.file == state_home() / "queue.db"
        assert Path(settings.files.root).parts[:4] == (state_home() / "files").parts[:4] or (
            "://" in settings.files.root
        )


def test_the_service_carries_the_release_s_labels() -> None:
    """By which tools find it."""
    labels = spec_of("RayService")["serveService"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/instance"] == "florence"


@pytest.mark.parametrize("name", ALL)
def test_logs_are_in_the_same_volume_of_every_pod(name: str) -> None:
    """In heads, KubeRay gives `ray-logs` to the autoscaler, too; a shipper mounts that one."""
    for _, template in ray_templates(name):
        mounts = {
            each["mountPath"]: each["name"]
            for each in template["spec"]["containers"][0]["volumeMounts"]
        }
        assert mounts["/tmp/ray"] == "ray-logs"
        assert "ray-logs" in {each["name"] for each in template["spec"]["volumes"]}


@pytest.mark.parametrize("name", ALL)
def test_the_account_of_redis_cleanup_outlives_the_release(name: str) -> None:
    """KubeRay cleans Redis up in a Job with the head's account, after Helm has removed the rest."""
    is_redis = "redisAddress" in cluster(name).get("gcsFaultToleranceOptions", {})
    for ending in ("-head", "-worker"):
        found = one("ServiceAccount", name, ending)["metadata"].get("annotations", {})
        is_kept = found.get("helm.sh/resource-policy") == "keep"
        assert is_kept == (is_redis and ending == "-head")


def test_the_incremental_strategy_is_passed_on() -> None:
    """With its options; the other has none."""
    strategy = spec_of("RayService", "incremental-upgrade")["upgradeStrategy"]
    assert strategy["type"] == "NewClusterWithIncrementalUpgrade"
    assert strategy["clusterUpgradeOptions"]["gatewayClassName"] == "istio"
    assert spec_of("RayService")["upgradeStrategy"] == {"type": "NewCluster"}


def test_haproxy_can_be_turned_off() -> None:
    """Serve's own proxy then."""
    for on in (True, False):
        service = next(
            each
            for each in render(GROUPS | {"serve": {"haproxy": on}})
            if each["kind"] == "RayService"
        )
        config = yaml.safe_load(service["spec"]["serveConfigV2"])
        variables = config["controller_options"]["runtime_env"]["env_vars"]
        assert variables["RAY_SERVE_ENABLE_HA_PROXY"] == str(int(on))


def test_an_ingress_lets_large_bodies_and_silent_streams_pass() -> None:
    """nginx's own limits are 1 MB and a minute."""
    ingress = one("Ingress", "autoscaled-l4")
    found = ingress["metadata"]["annotations"]
    assert found["nginx.ingress.kubernetes.io/proxy-body-size"] == "40m"
    assert found["nginx.ingress.kubernetes.io/proxy-read-timeout"] == "600"
    assert found["nginx.ingress.kubernetes.io/proxy-buffering"] == "off"
    backend = ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    assert backend == {"name": "florence-serve-svc", "port": {"name": "serve"}}


def test_a_route_goes_to_the_serve_service() -> None:
    """Without a limit of its own to how long a stream lasts."""
    (rule,) = spec_of("HTTPRoute", "everything")["rules"]
    assert rule["backendRefs"] == [{"name": "florence-serve-svc", "port": 8000}]
    assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}


def test_alerts_have_their_runbooks() -> None:
    """One rule for each file."""
    (group,) = spec_of("PrometheusRule", "everything")["groups"]
    names = [rule["alert"] for rule in group["rules"]]
    assert sorted(names) == sorted(file.stem for file in (CHART / "files/alerts").glob("*.yaml"))
    for rule in group["rules"]:
        assert rule["annotations"]["runbook_url"] == f"k8s/runbooks/{rule['alert']}.md"
        assert rule["labels"]["team"] == "vision"


def test_an_alert_can_be_left_out() -> None:
    """By its name."""
    (group,) = spec_of("PrometheusRule", "everything")["groups"]
    first = group["rules"][0]["alert"]
    values = GROUPS | {"prometheusRule": {"enabled": True, "exclude": [first]}}
    rule = next(each for each in render(values) if each["kind"] == "PrometheusRule")
    assert first not in [each["alert"] for each in rule["spec"]["groups"][0]["rules"]]


def test_metrics_separate_installations() -> None:
    """By the label that alerts and dashboard ask for."""
    endpoints = spec_of("PodMonitor", "everything")["podMetricsEndpoints"]
    assert [each["port"] for each in endpoints] == ["metrics", "as-metrics", "dash-metrics"]
    for each in endpoints:
        assert {"targetLabel": "florence", "replacement": "florence"} in each["relabelings"]
        assert {"action": "labeldrop", "regex": "endpoint"} in each["relabelings"]  # it is ours


def test_the_dashboard_is_what_grafana_s_sidecar_looks_for() -> None:
    """As it stands in the repository."""
    found = one("ConfigMap", "everything", "-dashboard")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    files = {file.name: file.read_text() for file in (CHART / "files/dashboards").glob("*.json")}
    assert files
    assert {name: text.strip() for name, text in found["data"].items()} == {
        name: text.strip() for name, text in files.items()
    }


def test_the_test_is_the_doctor_with_a_request() -> None:
    """Without a key it makes no request."""
    pod = next(each for each in objects("autoscaled-l4") if each["kind"] == "Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (container,) = pod["spec"]["containers"]
    assert container["command"] == ["florence", "doctor"]
    assert "--url=http://florence-serve-svc:8000" in container["args"]
    assert "--smoke" in container["args"]
    without = next(each for each in objects("defaults") if each["kind"] == "Pod")
    assert "--smoke" not in without["spec"]["containers"][0]["args"]


@pytest.mark.parametrize("name", ALL)
def test_notes_say_how_to_wait(name: str) -> None:
    """`helm install --wait` returns before anything runs."""
    said = notes(values_of(name))
    assert "kubectl wait -n inference --for=condition=Ready rayservice/florence" in said
    assert "helm test -n inference florence" in said
    assert "{{" not in said
    assert "<no value>" not in said
    assert "%!" not in said


def test_notes_warn_of_what_is_not_for_production() -> None:
    """Of each thing that is amiss, and of nothing where all is well."""
    said = notes(GROUPS | {"networkPolicy": {"enabled": False}, "rayAuth": {"enabled": False}})
    for word in ("No API key", "404", "Webhooks are signed", "head that dies", "no token", "Pin a"):
        assert word in said
    assert "One pod is the whole service" in notes(values_of("cpu-demo"))
    assert "Mind:" not in notes(values_of("ha-redis") | {"model": {"revision": "0" * 40}})
    assert "do nothing to the running cluster" in notes(values_of("ha-redis"), upgrade=True)
    assert "do nothing to the running" not in notes(values_of("cpu-demo"), upgrade=True)
    assert "service.annotations are never" not in notes(values_of("ha-redis"), upgrade=True)
    assert "service.annotations are never" in notes(
        values_of("ha-redis") | {"service": {"annotations": {"a": "b"}}}, upgrade=True
    )
    assert "ReadWriteMany" in notes(GROUPS | {"model": {"source": "pvc"}})
    assert "ReadWriteMany" not in notes(values_of("spot-with-fallback"))


def test_notes_name_the_gateway_where_there_is_one() -> None:
    """The Service of the running cluster goes past it; keys go in the clear."""
    said = notes(values_of("incremental-upgrade"))
    assert "gateway florence-gateway" in said
    assert "keys travel in the clear" in said
    assert "http://florence-serve-svc" not in said.split("and on this machine")[0]
    assert "gateway" not in notes(values_of("ha-redis"))


def test_notes_warn_of_replicas_that_find_no_pod() -> None:
    """More than the groups can hold at most."""
    more = {"serve": {"deployments": {"Inference": {"autoscaling_config": {"max_replicas": 11}}}}}
    assert "Inference may have 11 replicas, and its pods hold 10" in notes(GROUPS | more)
    for name in NAMES:
        assert "replicas, and its pods hold" not in notes(values_of(name)), name


def test_extra_objects_are_the_operator_s_own() -> None:
    """As YAML or as text with templates."""
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Release.Name }}-a'}\n"
    tree = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}}
    found = render(GROUPS | {"extra": {"objects": [text, tree]}})
    names = [each["metadata"]["name"] for each in found if each["kind"] == "ConfigMap"]
    assert {"florence-a", "b"} <= set(names)


def test_every_example_says_what_it_is_for() -> None:
    """And is in the chart's README."""
    said = (CHART / "README.md").read_text()
    for file in EXAMPLES:
        assert file.read_text().startswith("# ")
        assert f"(examples/{file.name})" in said
