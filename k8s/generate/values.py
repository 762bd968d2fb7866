"""The keys of values.yaml with the comments above them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from k8s.generate.helm import CHART, load

VALUES = CHART / "values.yaml"
HINT = "@schema "


@dataclass(frozen=True)
class Key:
    """One key: its path, what its comment says, hints for the schema, and its default.

    A key with keys of its own that have comments is a section; `keys` are those.
    """

    path: tuple[str, ...]
    description: str
    hints: dict[str, Any]
    default: Any
    keys: tuple["Key", ...] = ()

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path[-1]


def read_keys(file: Path = VALUES) -> tuple[Key, ...]:
    """The keys of the file in their order.

    Raises:
        ValueError: a key of the first level has no comment.
    """
    text = file.read_text()
    root = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    keys = tuple(keys_of(root, load(text), text.splitlines(), ()))
    bare = [key.name for key in keys if not key.description]
    if bare:
        raise ValueError(f"{file}: no comment above {', '.join(bare)}")
    return keys


def keys_of(
    node: yaml.MappingNode, values: dict[str, Any], lines: list[str], path: tuple[str, ...]
) -> Iterator[Key]:
    for key, child in node.value:
        said, hints = comment(lines, key.start_mark.line)
        here = (*path, str(key.value))
        default = values[key.value]
        below: tuple[Key, ...] = ()
        if isinstance(child, yaml.MappingNode) and not child.flow_style:
            below = tuple(keys_of(child, default, lines, here))
        yield Key(here, said, hints, default, below if any(k.description for k in below) else ())


def comment(lines: list[str], line: int) -> tuple[str, dict[str, Any]]:
    """The text and the hints right above a line, whose indentation they share."""
    indent = len(lines[line]) - len(lines[line].lstrip())
    said, hints = list[str](), dict[str, Any]()
    for above in reversed(lines[:line]):
        text = above.strip()
        if not text.startswith("#") or len(above) - len(above.lstrip()) != indent:
            break
        text = text.removeprefix("#").strip()
        if text.startswith(HINT):
            hints |= load(text.removeprefix(HINT))
        else:
            said.insert(0, text)
    return " ".join(said), hints


def leaves(keys: tuple[Key, ...]) -> Iterator[Key]:
    for key in keys:
        if key.keys:
            yield from leaves(key.keys)
        else:
            yield key
