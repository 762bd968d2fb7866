"""The two configurations: only keys that Serve knows, and values that the settings accept."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel
from ray.serve._private import constants
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import (
    DeploymentSchema,
    HTTPOptionsSchema,
    LoggingConfig,
    RayActorOptionsSchema,
    ServeApplicationSchema,
    ServeDeploySchema,
)

from deployments.local.config import LAPTOP, merge, serve_config
from deployments.ray_compat import ENABLE_HAPROXY
from deployments.settings import parse

FILES = (serve_config(), LAPTOP)
each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)

# Serve leaves these open in its schemas (`args`), or types them as plain dicts or unions.
NESTED: dict[tuple[type[BaseModel], str], type[BaseModel] | None] = {
    (ServeApplicationSchema, "args"): None,  # our own settings, which parse() checks
    (DeploymentSchema, "autoscaling_config"): AutoscalingConfig,
    (DeploymentSchema, "ray_actor_options"): RayActorOptionsSchema,
    (DeploymentSchema, "logging_config"): LoggingConfig,
    (ServeDeploySchema, "http_options"): HTTPOptionsSchema,
    (ServeDeploySchema, "logging_config"): LoggingConfig,
    (ServeApplicationSchema, "logging_config"): LoggingConfig,
}


def read(file: Path) -> dict[str, Any]:
    """A configuration as it stands in its file."""
    tree: dict[str, Any] = yaml.safe_load(file.read_text())
    return tree


def below(schema: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The schema of what stands under `key`, if it has one."""
    if (schema, key) in NESTED:
        return NESTED[schema, key]
    models = [m for m in unfolded(schema.model_fields[key].annotation) if is_model(m)]
    assert len(models) <= 1
    return models[0] if models else None


def unfolded(annotation: Any) -> Iterator[Any]:
    """The members of unions and lists."""
    if get_origin(annotation) in (Union, UnionType, list):
        for member in get_args(annotation):
            yield from unfolded(member)
    else:
        yield annotation


def is_model(annotation: Any) -> bool:
    """Whether an annotation is a schema."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def strangers(tree: Any, schema: type[BaseModel] | None, at: str = "") -> Iterator[str]:
    """Paths of keys that their schema does not have."""
    if schema is None:
        return
    for item in tree if isinstance(tree, list) else [tree]:
        if not isinstance(item, Mapping):
            continue
        for key, value in item.items():
            if key in schema.model_fields:
                yield from strangers(value, below(schema, key), f"{at}{key}.")
            else:
                yield f"{at}{key}"


def deployable(file: Path) -> dict[str, Any]:
    """A whole configuration: the laptop's stands over the other, without options taken away."""
    if file != LAPTOP:
        return read(file)
    tree: dict[str, Any] = merge(read(serve_config()), read(LAPTOP))
    return tree


@each_file
def test_serve_knows_every_key(file: Path) -> None:
    """Serve would ignore a misspelt key without a word."""
    assert list(strangers(read(file), ServeDeploySchema)) == []


@pytest.mark.parametrize(
    "path",
    [
        "proxy_locations",
        "http_options.hosts",
        "logging_config.level",
        "applications.import",
        "applications.deployments.replicas",
        "applications.deployments.autoscaling_config.minimum",
        "applications.deployments.ray_actor_options.gpus",
    ],
)
def test_a_misspelt_key_would_be_found(path: str) -> None:
    """The check above reaches every level."""
    tree: Any = 1
    for key in reversed(path.split(".")):
        tree = {key: [tree] if key in ("applications", "deployments") else tree}
    assert list(strangers(tree, ServeDeploySchema)) == [path]


@each_file
def test_serve_accepts_it(file: Path) -> None:
    """Serve validates the whole."""
    ServeDeploySchema.model_validate(deployable(file))


@each_file
def test_autoscaling_and_resources_are_accepted(file: Path) -> None:
    """The nested options are valid by their own schemas."""
    [application] = deployable(file)["applications"]
    for deployment in application["deployments"]:
        RayActorOptionsSchema.model_validate(deployment["ray_actor_options"])
        if deployment.get("autoscaling_config") is not None:
            AutoscalingConfig.model_validate(deployment["autoscaling_config"])


def test_every_policy_can_be_made() -> None:
    """Serve would find out when the application is deployed, and then fail."""
    [application] = deployable(serve_config())["applications"]
    for deployment in application["deployments"]:
        config = AutoscalingConfig.model_validate(deployment["autoscaling_config"])
        config.policy.serialize_policy()
        policy = config.policy.get_policy()
        if isinstance(policy, type):
            policy(**config.policy.policy_kwargs)


def test_a_dispatcher_is_full_before_there_is_another() -> None:
    """Another one is added before those there are full."""
    [application] = read(serve_config())["applications"]
    by_name = {deployment["name"]: deployment for deployment in application["deployments"]}
    target = by_name["Dispatcher"]["autoscaling_config"]["target_ongoing_requests"]
    most = parse(application["args"]).queue.max_running
    assert most / 2 < target < most


@each_file
def test_the_settings_are_accepted(file: Path) -> None:
    """`args` hold settings that exist."""
    [application] = read(file)["applications"]
    [whole] = deployable(file)["applications"]
    parse(application["args"])
    parse(whole["args"])


def environments(tree: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Those of Serve as a whole and of each deployment that has one."""
    yield tree["controller_options"]["runtime_env"]["env_vars"]
    for deployment in tree["applications"][0]["deployments"]:
        yield deployment["ray_actor_options"].get("runtime_env", {}).get("env_vars", {})


@each_file
def test_serve_reads_every_variable(file: Path) -> None:
    """A misspelt variable, or one that a new version of Serve dropped, would go unnoticed."""
    known = Path(constants.__file__).read_text()
    names = [name for environment in environments(read(file)) for name in environment]
    assert [name for name in names if f'"{name}"' not in known] == []


def test_only_the_model_has_a_loop_apart_from_serves() -> None:
    """Whatever the engine does, Serve's own calls to its replica are answered."""
    _, *others = environments(read(serve_config()))
    [application] = read(serve_config())["applications"]
    named = zip(application["deployments"], others, strict=True)
    assert [deployment["name"] for deployment, environment in named if not environment] == [
        "Inference"
    ]


def test_production_has_haproxy_in_front() -> None:
    """A laptop has it only when asked, as it serves no https."""
    assert [next(environments(read(file)))[ENABLE_HAPROXY] for file in FILES] == ["1", "0"]


def test_production_runs_on_gpus() -> None:
    """The cluster's configuration asks for what its settings need."""
    [application] = read(serve_config())["applications"]
    by_name = {deployment["name"]: deployment for deployment in application["deployments"]}
    assert parse(application["args"]).model.device == "cuda"
    assert by_name["Inference"]["ray_actor_options"]["num_gpus"] == 1
    others = [d for name, d in by_name.items() if name != "Inference"]
    assert all("num_gpus" not in d["ray_actor_options"] for d in others)


def test_the_queues_fit_each_other() -> None:
    """Serve sends a replica no more than it admits, and at least a batch."""
    [application] = read(serve_config())["applications"]
    by_name = {deployment["name"]: deployment for deployment in application["deployments"]}
    settings = parse(application["args"])
    ongoing = by_name["Inference"]["max_ongoing_requests"]
    assert settings.inference.max_batch_size <= ongoing
    assert ongoing <= settings.inference.max_queue + settings.inference.max_batch_size
    assert settings.ingress.max_running <= by_name["Ingress"]["max_ongoing_requests"]


def test_serve_waits_longer_than_the_service() -> None:
    """Our own 504 comes before the proxy's, and says more."""
    [application] = read(serve_config())["applications"]
    proxy_timeout_s = read(serve_config())["http_options"]["request_timeout_s"]
    assert parse(application["args"]).ingress.deadline_s < proxy_timeout_s


def test_a_release_starts_new_replicas_before_it_stops_old_ones() -> None:
    """Of every deployment: a single replica is not stopped for one that may never start."""
    [application] = read(serve_config())["applications"]
    assert all(each["max_surge_percent"] > 0 for each in application["deployments"])
    assert constants.RAY_SERVE_STOP_FAILED_ROLLING_UPDATES
