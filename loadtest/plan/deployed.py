"""What serve_config.yaml deploys, as the simulation wants it: it plans what would run."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from deployments.errors import SetupError
from deployments.local.profile import read_yaml
from deployments.settings import Settings, parse
from loadtest.plan.meter import Pace
from loadtest.plan.replica import Slots
from loadtest.plan.scaling import Policy, Scaling
from loadtest.plan.simulation import Box, Look, MakePolicy

Tree = dict[str, Any]

RECORD_FACTOR = 0.2  # of the look-back: how often Serve's replicas note a number at least


@dataclass(frozen=True)
class Deployed:
    """The settings, and the deployments under their names."""

    settings: Settings
    deployments: Mapping[str, Tree]

    @property
    def slots(self) -> Slots:
        """How the engine of a replica is set up."""
        given = self.settings.inference
        return Slots(
            given.max_batch_size,
            given.prefill_batch_size,
            given.max_wait_ms / 1000,
            given.turn_tokens,
        )

    def max_ongoing(self, name: str) -> int:
        """Most requests that Serve sends to one replica of a box."""
        return int(self.deployments[name].get("max_ongoing_requests", 5))

    def scaling(self, name: str) -> Scaling:
        """Within which values a box is scaled; one that is not stays as it is."""
        given = self.deployments[name].get("autoscaling_config")
        if given is None:
            replicas = int(self.deployments[name].get("num_replicas", 1))
            return Scaling(min_replicas=replicas, max_replicas=replicas)
        known = {field.name for field in fields(Scaling)}
        return Scaling(**{key: value for key, value in given.items() if key in known})

    def pace(self, scaling: Scaling) -> Pace:
        """How a box's numbers get to Serve's controller."""
        push_s = scaling.metrics_interval_s
        record_s = min(scaling.look_back_period_s * RECORD_FACTOR, push_s)
        return Pace(record_s, push_s, scaling.look_back_period_s)

    def box(self, name: str, scaling: Scaling | None = None) -> Box:
        """A box as it is deployed, or scaled within other values.

        Raises:
            SetupError: its policy cannot be simulated.
        """
        chosen = scaling or self.scaling(name)
        given = self.deployments[name].get("autoscaling_config")
        policy = policy_of(given) if given else stay(chosen.min_replicas)
        return Box(chosen, policy, self.pace(chosen))


def deployed_in(file: Path) -> Deployed:
    """What a configuration for `serve run` deploys.

    Raises:
        SetupError: it cannot be read, or has not our boxes.
    """
    try:
        tree = read_yaml(file)
    except (OSError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or "no YAML"
        raise SetupError(f"cannot read {file} ({reason}): --config is a Serve config") from None
    return deployed(tree)


def deployed(tree: Tree) -> Deployed:
    """What a configuration deploys.

    Raises:
        SetupError: it has not our boxes, or a setting is wrong.
    """
    try:
        [application] = tree["applications"]
        boxes = {each["name"]: each for each in application["deployments"]}
        if missing := {"Inference", "Dispatcher"} - boxes.keys():
            raise SetupError(f"--config: the deployments {', '.join(sorted(missing))} are missing")
        return Deployed(parse(application.get("args", {})), boxes)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise SetupError("--config: this is no configuration of this service") from None


def policy_of(given: Tree) -> MakePolicy:
    """The policy that a box's `autoscaling_config` names, made anew for each simulation.

    Raises:
        SetupError: it is Serve's own, or cannot be found.
    """
    name = given.get("policy", {}).get("policy_function")
    if name is None:
        raise SetupError("--config: a box has no policy of its own: name a policy_function")
    module, _, attribute = name.rpartition(":" if ":" in name else ".")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError):
        raise SetupError(f"--config: there is no policy {name}") from None
    if not inspect.isclass(found):
        return lambda look: found
    return partial(made, found, given["policy"].get("policy_kwargs", {}))


def made(policy: Any, kwargs: Tree, look: Look) -> Policy:
    """A policy class's instance that reads what is simulated and tells nobody."""
    instance: Policy = policy(**kwargs, observe=look, report=lambda deployment, values: None)
    return instance


def stay(replicas: int) -> MakePolicy:
    """A policy for a box that is not scaled."""
    return lambda look: lambda context: (replicas, {})
