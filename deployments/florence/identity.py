"""Which model answers, in words for clients: of the replica that answered, never of its settings.

    demo
    florence-community/Florence-2-large@<revision>; dtype=float16; beams=3
    florence-community/Florence-2-large@<revision>; dtype=float16; beams=3; adapter=<name>

A name's characters outside ASCII letters, digits and `/._~-` are percent-encoded, so that `@`, `;`
and `=` are never in it. A local folder is its name alone: where it lies is nobody's business.
"""

from collections.abc import Mapping
from urllib.parse import quote

from deployments.florence.checkpoint import Checkpoint

HEADER = "x-florence-model"
DEMO = "demo"
DEMO_NOTE = (
    "The demo checkpoint knows drawn shapes and words only: "
    "what it answers about a photograph is noise."
)


def name_of(checkpoint: Checkpoint) -> str:
    """The hub's id and revision, the folder's name, or `demo`."""
    if checkpoint.is_demo:
        return DEMO
    folder = checkpoint.folder
    if folder.parent.name != "snapshots":
        return quote(folder.name)
    repository = folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    return f"{quote(repository)}@{quote(folder.name)}"


def identity(name: str, dtype: str, num_beams: int, adapter: str = "") -> str:
    """A model by its name, and how it was run; nobody compares precisions of the demo."""
    how = "" if name == DEMO else f"; dtype={dtype}; beams={num_beams}"
    return name + how + (f"; adapter={adapter}" if adapter else "")


def headers(model: str) -> dict[str, str]:
    """What an answer of `model` says of it."""
    return {HEADER: model} if model else {}


def model_in(headers: Mapping[str, str]) -> str:
    """Who answered, by the headers of the answer; empty where they do not say."""
    return headers.get(HEADER, "")
