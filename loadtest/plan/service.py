"""The service as serve_config.yaml deploys it, ready to be simulated."""

import inspect
from dataclasses import fields, replace
from functools import partial
from importlib import import_module
from typing import Any

from deployments.local.config import read_yaml, serve_config
from deployments.settings import parse
from loadtest.plan.replica import EngineValues, Speed
from loadtest.plan.replicas import ReplicaValues
from loadtest.plan.serve_scaling import AutoscalingValues, PolicyFunction
from loadtest.plan.simulation import Observe, ScaledDeployment, SimulatedService

START_S = 40.0  # of a replica on a node that is there: imports, weights, CUDA graphs
NODE_START_S = 180.0
OUTSIDE_S = 0.03  # of a request, outside the model

Tree = dict[str, Any]


def deployed(
    speed: Speed, node_start_s: float = NODE_START_S, **scaling: float | None
) -> SimulatedService:
    """The deployed service; `scaling` replaces values of Inference's `autoscaling_config`."""
    [application] = read_yaml(serve_config())["applications"]
    deployments: dict[str, Tree] = {each["name"]: each for each in application["deployments"]}
    settings = parse(application.get("args", {}))
    engine = EngineValues(
        max_batch_size=settings.inference.max_batch_size,
        prefill_batch_size=settings.inference.prefill_batch_size,
        max_wait_s=settings.inference.max_wait_ms / 1000,
        turn_tokens=settings.inference.turn_tokens,
    )
    inference = scaled(deployments["Inference"])
    given: dict[str, Any] = {name: each for name, each in scaling.items() if each is not None}
    return SimulatedService(
        inference=replace(inference, values=replace(inference.values, **given)),
        dispatcher=scaled(deployments["Dispatcher"]),
        replica=ReplicaValues(
            speed, engine, START_S, deployments["Inference"]["max_ongoing_requests"]
        ),
        node_start_s=node_start_s,
        max_running=settings.queue.max_running,
        outside_s=OUTSIDE_S,
    )


def scaled(deployment: Tree) -> ScaledDeployment:
    config = deployment["autoscaling_config"]
    known = {each.name for each in fields(AutoscalingValues)}
    values = AutoscalingValues(**{key: each for key, each in config.items() if key in known})
    module, _, name = config["policy"]["policy_function"].partition(":")
    policy = getattr(import_module(module), name)
    if inspect.isclass(policy):
        kwargs = config["policy"].get("policy_kwargs", {})
        return ScaledDeployment(values, partial(policy_instance, policy, kwargs))
    return ScaledDeployment(values, lambda _observe: policy)


def policy_instance(policy: Any, kwargs: Tree, observe: Observe) -> PolicyFunction:
    """A policy that reads what is simulated and reports to no metric."""
    instance: PolicyFunction = policy(
        **kwargs, observe=observe, report=lambda _deployment, _values: None
    )
    return instance
