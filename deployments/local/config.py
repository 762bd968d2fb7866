"""The configuration of a service on this machine: serve_config.yaml, with laptop.yaml over it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deployments.errors import SetupError
from deployments.local.ports import free_port
from deployments.local.state import StateFolder
from deployments.local.tls import certificates
from deployments.ray_compat import ENABLE_HAPROXY
from deployments.settings import Settings, is_list, parse

PACKAGE = Path(__file__).parent.parent
LAPTOP = PACKAGE / "local" / "laptop.yaml"
Tree = dict[str, Any]


@dataclass(frozen=True)
class Profile:
    """What a service on this machine is started with."""

    settings: Settings
    options: Mapping[str, Tree]  # Serve's options, by the name of the deployment
    http: Tree
    logging: Tree
    environment: dict[str, str]  # Serve's own variables

    @property
    def base_url(self) -> str:
        """Where a client on this machine reaches it."""
        scheme = "https" if self.http.get("ssl_certfile") else "http"
        host = self.http["host"]
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        return f"{scheme}://{shown}:{self.http['port']}"

    @property
    def haproxy(self) -> bool:
        """Whether HAProxy is in front, in place of Serve's own proxy."""
        return self.environment[ENABLE_HAPROXY] == "1"


def local_profile(
    state: StateFolder,
    host: str,
    port: int,
    args: Tree,
    *,
    tls: bool = False,
    haproxy: bool = False,
) -> Profile:
    """The laptop's profile with its data in `state`; `args` are settings, port 0 is a free one.

    Raises:
        SetupError: a setting is wrong.
    """
    own = state.settings | {"keys": {"hashes": state.key_hashes()}}
    http: Tree = {"host": host, "port": port or free_port(host)}
    if tls:
        found = certificates(state.tls, host)
        http |= {"ssl_certfile": str(found.server), "ssl_keyfile": str(found.server_key)}
    profile = compose(merge(own, args), http)
    if profile.settings.model.device == "cuda":
        profile.options["Inference"]["ray_actor_options"]["num_gpus"] = 1
    if haproxy:
        profile.environment[ENABLE_HAPROXY] = "1"
    return profile


def serve_config() -> Path:
    """The configuration: next to the package in a checkout, inside it when installed."""
    in_checkout = PACKAGE.parent / "serve_config.yaml"
    return in_checkout if in_checkout.is_file() else PACKAGE / "serve_config.yaml"


def compose(args: Tree, http: Tree) -> Profile:
    """The laptop's profile with `args` (settings) and `http` (options of the HTTP server) over it.

    Raises:
        SetupError: a setting is wrong.
    """
    config = merge(read_yaml(serve_config()), read_yaml(LAPTOP))
    application = config["applications"][0]
    return Profile(
        settings=parse(merge(application["args"], args)),
        options={
            deployment["name"]: without_nulls(deployment)
            for deployment in application["deployments"]
        },
        http=merge(config["http_options"], http),
        logging=config["logging_config"],
        environment=config["controller_options"]["runtime_env"]["env_vars"],
    )


def read_yaml(file: Path) -> Tree:
    tree: Tree = yaml.safe_load(file.read_text())
    return tree


def merge(below: Any, above: Any) -> Any:
    """`above` laid over `below`. Mappings merge by key, lists of named mappings by name."""
    if isinstance(below, dict) and isinstance(above, dict):
        shared = {key: merge(below[key], above[key]) for key in below.keys() & above.keys()}
        return below | above | shared
    if is_named_list(below) and is_named_list(above):
        by_name = merge({i["name"]: i for i in below}, {i["name"]: i for i in above})
        return list(by_name.values())
    return above


def is_named_list(value: Any) -> bool:
    """Whether `value` is a list of mappings that each have a name."""
    return isinstance(value, list) and all(isinstance(i, dict) and "name" in i for i in value)


def without_nulls(deployment: Tree) -> Tree:
    """Serve's options of a deployment; a null in the profile takes an option away."""
    return {key: value for key, value in deployment.items() if value is not None}


def parse_sets(sets: Sequence[str]) -> Tree:
    """The settings given as `path=value`, values read as YAML.

    Raises:
        SetupError: one has no `=`, or a value that YAML cannot read.
    """
    tree: Tree = {}
    for text in sets:
        path, equals, value = text.partition("=")
        if not equals or not path.strip("."):
            raise SetupError(
                f"--set {text}: write PATH=VALUE, such as --set inference.max_batch_size=16"
            )
        tree = merge(tree, nested(path.split("."), listed(path, value_of(text, value))))
    return tree


def listed(path: str, value: Any) -> Any:
    """The value of a setting that takes several as a list: `a,b` is two of them."""
    if not is_list(path) or isinstance(value, list) or value is None:
        return value
    return [part.strip() for part in str(value).split(",")]


def value_of(text: str, value: str) -> Any:
    """A value as YAML reads it.

    Raises:
        SetupError: it is no YAML.
    """
    try:
        return yaml.safe_load(value)
    except (yaml.YAMLError, ValueError):  # ValueError: no such date or number
        raise SetupError(f"--set {text}: the value is no YAML; put it in quotes") from None


def nested(path: Sequence[str], value: Any) -> Any:
    """`value` under the keys of `path`."""
    return {path[0]: nested(path[1:], value)} if path else value
