"""KubeRay's definitions as JSON schemas that refuse unknown fields, as the API server does.

The definitions are not ours and are not copied here: KUBERAY_CRDS names their folder, such as
`helm-chart/kuberay-operator/crds` of KubeRay. Without them the tests that ask them are skipped, but
neither in CI nor where a folder is named.
"""

import json
import os
import re
from functools import cache
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[2]
DEFAULT = ROOT.parent / "shared" / "data" / "kuberay-crds-1.7.0"
Schema = dict[str, Any]


def folder() -> Path:
    """Where the definitions are: those of `kuberay-operator` 1.7.0, as its chart has them."""
    return Path(os.environ.get("KUBERAY_CRDS", DEFAULT))


@cache
def schema_of(plural: str) -> Schema:
    """The schema of v1 of a kind, such as `rayservices`."""
    file = folder() / f"ray.io_{plural}.yaml"
    if not file.exists() and not os.environ.keys() & {"CI", "KUBERAY_CRDS"}:
        pytest.skip("KUBERAY_CRDS has to name the folder with KubeRay's definitions")
    assert file.exists(), f"{file} is missing: give KUBERAY_CRDS the folder with KubeRay's CRDs"
    stat = file.stat()
    kept = Path(gettempdir()) / f"florence-{plural}-{stat.st_size}-{stat.st_mtime_ns}.json"
    if not kept.exists():  # reading a megabyte of YAML takes seconds
        fresh = kept.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(read(file)))
        fresh.replace(kept)
    found: Schema = json.loads(kept.read_text())
    return found


def subresources_of(plural: str) -> set[str]:
    """What the API has below objects of a kind besides them, such as `status`."""
    schema_of(plural)  # says where the definitions have to be
    text = (folder() / f"ray.io_{plural}.yaml").read_text()
    found = re.findall(r"^    subresources:\n((?:      .*\n)+)", text, re.MULTILINE)
    return {name for block in found for name in re.findall(r"^ {6}(\w+):", block, re.MULTILINE)}


def read(file: Path) -> Schema:
    """The strict schema in a definition."""
    definition = yaml.load(file.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    versions = definition["spec"]["versions"]
    v1 = next(version for version in versions if version["name"] == "v1")
    found: Schema = strict(v1["schema"]["openAPIV3Schema"])
    return found


def strict(schema: Any) -> Any:
    """A structural schema in JSON schema's words; what has properties has no others."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: strict(value) for name, value in schema.items() if name != "description"}
    if found.pop("x-kubernetes-int-or-string", False):
        found |= {"type": ["integer", "string"]}
        found.pop("anyOf", None)
    free = found.pop("x-kubernetes-preserve-unknown-fields", False)
    if isinstance(found.get("properties"), dict) and "type" in found and not free:
        found["additionalProperties"] = False
    return found


def faults(document: dict[str, Any], plural: str = "rayservices") -> list[str]:
    """What the API server would not take, each with its path."""
    body = document | {"metadata": {}}  # which the API server knows by itself
    found = Draft202012Validator(schema_of(plural)).iter_errors(body)
    return [f"{'.'.join(map(str, each.absolute_path))}: {each.message[:200]}" for each in found]
