"""The table of tasks: one row says everything that sets a task apart.

Markers and sentences are Florence-2's own, as in transformers' Florence2Processor;
paths and schemas are fal's.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel

from deployments.florence import parsing
from deployments.florence.answer import Answer
from deployments.florence.request import Grammar
from deployments.florence.schemas import BoundingBoxes, BoundingBoxOutput, ImageInput, TextOutput

APP = "fal-ai/florence-2-large"

Results = BoundingBoxes | str  # both have a length, which grows as they are written


@dataclass(frozen=True)
class Task:
    """One endpoint: its path under the application, the prompt, both schemas and the parser."""

    path: str
    marker: str
    sentence: str
    input: type[ImageInput]
    output: type[BaseModel]
    parse: Callable[[Answer], Results]
    summary: str

    @property
    def grammar(self) -> Grammar:
        """What its answers look like, where decoding is constrained."""
        return GRAMMARS.get(self.parse, Grammar.FREE)

    @property
    def endpoint(self) -> str:
        """The endpoint id as fal's clients name it."""
        return f"{APP}/{self.path}"


GRAMMARS: dict[Callable[[Answer], Results], Grammar] = {
    parsing.unlabelled_boxes: Grammar.BOXES,
    parsing.labelled_boxes: Grammar.LABELLED,
}

_ROWS = (
    Task(
        "region-proposal",
        "<REGION_PROPOSAL>",
        "Locate the region proposals in the image.",
        ImageInput,
        BoundingBoxOutput,
        parsing.unlabelled_boxes,
        "Find the regions that hold something",
    ),
    Task(
        "object-detection",
        "<OD>",
        "Locate the objects with category name in the image.",
        ImageInput,
        BoundingBoxOutput,
        parsing.labelled_boxes,
        "Find objects and name their categories",
    ),
    Task(
        "dense-region-caption",
        "<DENSE_REGION_CAPTION>",
        "Locate the objects in the image, with their descriptions.",
        ImageInput,
        BoundingBoxOutput,
        parsing.labelled_boxes,
        "Find objects and describe each",
    ),
    Task(
        "caption",
        "<CAPTION>",
        "What does the image describe?",
        ImageInput,
        TextOutput,
        parsing.text,
        "Describe the image in a sentence",
    ),
)

TASKS: dict[str, Task] = {task.path: task for task in _ROWS}
