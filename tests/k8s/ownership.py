"""What an API server and KubeRay's operator do to a RayService, by KubeRay's own definitions.

The API server fills in defaults, and keeps for each field who applied it. The operator reads an
object into its Go types and writes the whole of it back when it adds its finalizer.
"""

from collections.abc import Iterator
from decimal import ROUND_CEILING, Decimal
from typing import Any

from tests.k8s.crds import Schema

Path = tuple[str, ...]
# Fields of Go's types that are no pointers and may be left out: their zero is not written.
ZEROS = {
    *("readOnly", "hostNetwork", "hostPID", "hostIPC", "stdin", "stdinOnce", "tty"),
    *("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold"),
    *("failureThreshold", "excludeHeadPodFromServeSvc"),
}
# Fields that are structures and no pointers: Go writes them even when they are empty.
STRUCTURES = {"groupName": "scaleStrategy", "livenessProbe": "resources"}
BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}


def defaulted(value: Any, schema: Schema) -> Any:
    """A value with the defaults of the definition, as the API server keeps it."""
    if isinstance(value, list):
        return [defaulted(each, schema["items"]) for each in value]
    if not isinstance(value, dict):
        return value
    below = schema.get("properties", {})
    missing = {
        name: each["default"]
        for name, each in below.items()
        if "default" in each and name not in value
    }
    return missing | {
        name: defaulted(each, below.get(name, schema.get("additionalProperties", {})))
        for name, each in value.items()
    }


def written_back(value: Any, schema: Schema) -> Any:
    """A value that went through Go's types."""
    if is_quantity(schema):
        return quantity(str(value))
    if isinstance(value, list):
        return [written_back(each, schema["items"]) for each in value]
    if not isinstance(value, dict):
        return value
    below = schema.get("properties", {})
    kept = {
        name: written_back(each, below.get(name, schema.get("additionalProperties", {})))
        for name, each in value.items()
        if not is_left_out(name, each, schema)
    }
    for mark, structure in STRUCTURES.items():
        if mark in below and structure in below:
            kept.setdefault(structure, {})
    return kept


def is_left_out(name: str, value: Any, schema: Schema) -> bool:
    """Whether Go leaves a field out."""
    field = schema.get("properties", {}).get(name)
    if value is None:
        return True
    if field is None or name in schema.get("required", ()) or "default" in field:
        return False
    is_go_map = bool(field.get("additionalProperties")) and name != "rayStartParams"
    return (
        (value == "" and field.get("type") == "string")
        or value == []
        or (value == {} and is_go_map)
        or (not value and name in ZEROS)
    )


def is_quantity(schema: Schema) -> bool:
    """Whether a field is an amount, such as `500m` or `4Gi`; ports may be numbers or text, too."""
    return schema.get("type") == ["integer", "string"] and "pattern" in schema


def quantity(text: str) -> str:
    """An amount as Kubernetes writes it.

    >>> [quantity(text) for text in ("4", "0.5", "1000m", "1.5Gi", "2048Mi", "3000", "0")]
    ['4', '500m', '1', '1536Mi', '2Gi', '3k', '0']
    """
    number = text.rstrip("".join(set("".join(BINARY) + "".join(DECIMAL))))
    suffix = text.removeprefix(number)
    if suffix in BINARY[1:]:
        amount = (Decimal(number) * 1024 ** BINARY.index(suffix)).to_integral(ROUND_CEILING)
        power = next(n for n in range(6, -1, -1) if amount % 1024**n == 0) if amount else 0
        return f"{amount // 1024**power:f}{BINARY[power]}"
    amount = Decimal(number).scaleb(DECIMAL[suffix])
    if not amount:
        return "0"
    for unit, power in reversed(DECIMAL.items()):
        if amount.scaleb(-power) % 1 == 0:
            return f"{amount.scaleb(-power):f}".partition(".")[0] + unit
    return text


def fields(value: Any, schema: Schema, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The fields that have one owner each. A list is one field, unless the definition says that
    its items are known by keys.
    """
    if isinstance(value, dict) and value and "x-kubernetes-map-type" not in schema:
        below = schema.get("properties", {})
        for name, each in value.items():
            inner = below.get(name, schema.get("additionalProperties", {}))
            yield from fields(each, inner, (*path, name))
    elif isinstance(value, list) and schema.get("x-kubernetes-list-type") == "map":
        keys = schema["x-kubernetes-list-map-keys"]
        for each in value:
            known = ",".join(
                str(each.get(key, schema["items"]["properties"][key].get("default")))
                for key in keys
            )
            yield from fields(each, schema["items"], (*path, f"[{known}]"))
    else:
        yield path, value
