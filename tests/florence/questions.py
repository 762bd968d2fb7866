"""An input for each task, with what the task asks for, and the shapes of its results."""

from typing import Any

from deployments.florence.schemas import ImageInput, Shapes
from deployments.florence.tasks import Task

FIELDS: dict[str, Any] = {
    "image_url": "u",
    "text_input": "red circle",
    "region": {"x1": 100, "y1": 100, "x2": 200, "y2": 200},
}


def body_of(task: Task, **given: Any) -> dict[str, Any]:
    """The body of a request, with other values where they are given."""
    return {name: FIELDS[name] for name in task.input.model_fields if name in FIELDS} | given


def input_of(task: Task, **given: Any) -> ImageInput:
    """The same, read."""
    return task.input.model_validate(body_of(task, **given))


def shapes_of(results: Any) -> list[Any]:
    """The shapes of any results; none of a text."""
    return next(iter(vars(results).values())) if isinstance(results, Shapes) else []
