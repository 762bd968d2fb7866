"""The configuration of a service on this machine: serve_config.yaml, with laptop.yaml over it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deployments.errors import SetupError
from deployments.local import haproxy
from deployments.settings import Settings, parse

PACKAGE = Path(__file__).parent.parent
LAPTOP = PACKAGE / "local" / "laptop.yaml"
Tree = dict[str, Any]


@dataclass(frozen=True)
class Profile:
    """What a local service is started with."""

    settings: Settings
    options: Mapping[str, Tree]  # Serve's options, by the name of the box
    http: Tree
    logging: Tree
    environment: dict[str, str]  # Serve's own, by the name of the variable

    @property
    def base_url(self) -> str:
        """Where a client on this machine reaches it."""
        scheme = "https" if self.http.get("ssl_certfile") else "http"
        host = self.http["host"]
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        return f"{scheme}://{shown}:{self.http['port']}"

    @property
    def haproxy(self) -> bool:
        """Whether HAProxy stands in front, and not Serve's own proxy."""
        return self.environment[haproxy.ON] == "1"


def serve_config() -> Path:
    """The one configuration: beside the package in a checkout, inside it when installed."""
    beside = PACKAGE.parent / "serve_config.yaml"
    return beside if beside.is_file() else PACKAGE / "serve_config.yaml"


def compose(args: Tree, http: Tree) -> Profile:
    """The laptop's profile with `args` (settings) and `http` (options of the HTTP server) over it.

    Raises:
        SetupError: a setting is wrong.
    """
    config = laid_over(read(serve_config()), read(LAPTOP))
    application = config["applications"][0]
    return Profile(
        settings=parse(laid_over(application["args"], args)),
        options={
            deployment["name"]: without_empty(deployment)
            for deployment in application["deployments"]
        },
        http=laid_over(config["http_options"], http),
        logging=config["logging_config"],
        environment=config["controller_options"]["runtime_env"]["env_vars"],
    )


def read(file: Path) -> Tree:
    """A YAML file."""
    tree: Tree = yaml.safe_load(file.read_text())
    return tree


def laid_over(below: Any, above: Any) -> Any:
    """`above` where it says something, `below` elsewhere; lists of named things merge by name."""
    if isinstance(below, dict) and isinstance(above, dict):
        shared = {key: laid_over(below[key], above[key]) for key in below.keys() & above.keys()}
        return below | above | shared
    if named(below) and named(above):
        by_name = laid_over({i["name"]: i for i in below}, {i["name"]: i for i in above})
        return list(by_name.values())
    return above


def named(value: Any) -> bool:
    """Whether `value` is a list of mappings that each have a name."""
    return isinstance(value, list) and all(isinstance(i, dict) and "name" in i for i in value)


def without_empty(deployment: Tree) -> Tree:
    """Serve's options of a box; a null in the profile takes an option away."""
    return {key: value for key, value in deployment.items() if value is not None}


def tree_of(sets: Sequence[str]) -> Tree:
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
        tree = laid_over(tree, nested(path.split("."), value_of(text, value)))
    return tree


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
