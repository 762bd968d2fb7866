"""values.schema.json: of values.yaml, of the service's Settings, and of Ray Serve's options."""

from collections.abc import Iterable
from typing import Any

from ray.serve.config import AutoscalingConfig
from ray.serve.schema import DeploymentSchema, RayActorOptionsSchema

from deployments.local.config import read_yaml, serve_config
from deployments.settings import Settings
from k8s.generate.values import Key, read_keys

Schema = dict[str, Any]
TYPES = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    dict: "object",
    list: "array",
}
ENV_VAR: Schema = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string"},
        "value": {"type": "string"},
        "valueFrom": {"type": "object"},
    },
}


def schema() -> Schema:
    """The whole schema. Unknown keys are refused wherever the chart knows all."""
    keys = read_keys()
    below = properties(keys) | {"global": {"type": "object", "description": "Helm's own."}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Values of Florence Serve's chart",
        **closed(below),
        "$defs": settings() | deployments() | groups(keys),
    }


def closed(below: Schema) -> Schema:
    """An object that has these properties and no others."""
    return {"type": "object", "additionalProperties": False, "properties": below}


def properties(keys: Iterable[Key]) -> Schema:
    return {key.name: property_of(key) for key in keys}


def property_of(key: Key) -> Schema:
    """One key: what its comment says, and the type of its default unless hints say otherwise."""
    said = {"description": key.description} if key.description else {}
    if key.keys:
        return said | closed(properties(key.keys))
    if "$ref" in key.hints:
        return said | key.hints
    kind = {"type": TYPES[type(key.default)], "default": key.default}
    return said | kind | of_kubernetes(key) | key.hints


def of_kubernetes(key: Key) -> Schema:
    """What Kubernetes asks of a key by its name: text in labels, annotations and variables."""
    if key.name.lower().endswith(("labels", "annotations")) or key.name == "nodeSelector":
        return {"additionalProperties": {"type": "string"}}
    return {"items": ENV_VAR} if key.name == "env" else {}


def groups(keys: Iterable[Key]) -> Schema:
    """An item of `cpuGroups` and `gpuGroups`: a name, and any key of its kind's defaults."""
    kinds = next(key for key in keys if key.name == "groupDefaults").keys
    return {f"{kind.name}Group": group(kind) for kind in kinds}


def group(kind: Key) -> Schema:
    name: Schema = {
        "type": "string",
        "description": "Name of the group, and a part of the names of its pods.",
        "pattern": "^[a-z]([-a-z0-9]{0,13}[a-z0-9])?$",
    }
    below = {key.name: without_default(property_of(key)) for key in kind.keys}
    return closed({"name": name} | below) | {"required": ["name"]}


def without_default(found: Schema) -> Schema:
    return {name: value for name, value in found.items() if name != "default"}


def settings() -> Schema:
    """The service's settings, each section by its class."""
    tree = untitled(Settings.model_json_schema(ref_template="#/$defs/{model}"))
    sections: Schema = tree.pop("$defs")
    return {"Settings": tree} | sections


def untitled(tree: Any) -> Any:
    """A schema without the titles that pydantic makes of names, nor defaults of sections."""
    if isinstance(tree, list):
        return [untitled(each) for each in tree]
    if not isinstance(tree, dict):
        return tree
    kept = {name: untitled(value) for name, value in tree.items() if not is_title(name, value)}
    if "$ref" in kept:
        kept.pop("default", None)
    return kept


def is_title(name: str, value: Any) -> bool:
    """Whether an entry is a title, and not a property of that name."""
    return name == "title" and isinstance(value, str)


def deployments() -> Schema:
    """What may be laid over each deployment: the options that Ray Serve knows, by name."""
    options: Schema = {name: {} for name in DeploymentSchema.model_fields if name != "name"}
    options["autoscaling_config"] = closed({name: {} for name in AutoscalingConfig.model_fields})
    options["ray_actor_options"] = closed({name: {} for name in RayActorOptionsSchema.model_fields})
    [application] = read_yaml(serve_config())["applications"]
    names = [deployment["name"] for deployment in application["deployments"]]
    return {
        "Deployments": closed({name: {"$ref": "#/$defs/Deployment"} for name in names}),
        "Deployment": closed(options),
    }
