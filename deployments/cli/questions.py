"""What `florence predict` asks: questions, and the fields of inputs, given as options."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.cli.labelling.sources import is_url
from deployments.errors import SetupError
from deployments.florence.tasks import TASKS

# Of the fields that not every task takes.
OPTIONS = {"text_input": "--text TEXT", "region": "--region X1,Y1,X2,Y2"}
REGION = re.compile(r"\s*,\s*".join([r"(-?[0-9]{1,9})"] * 4))


@dataclass(frozen=True)
class Question:
    """One task to ask about one image; the annotated picture goes to the file `picture`.

    `short` is the image's name below the folder that was given.
    """

    image: str
    task: str
    fields: Mapping[str, Any]
    picture: Path | None = None
    short: str = ""

    @property
    def is_url(self) -> bool:
        """Whether the service fetches the image itself."""
        return is_url(self.image)

    @property
    def label(self) -> str:
        """For a person."""
        return f"{self.image[:200]} {self.task}"


def fields_of(
    text: str | None, region: str | None, **more: bool | float | str | None
) -> dict[str, Any]:
    """The fields of an input that options give; `more` are fields under their own names.

    Raises:
        SetupError: the region is none.
    """
    given = {"text_input": text, **more}
    fields: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if region is not None:
        corners = REGION.fullmatch(region.strip())
        if corners is None:
            raise SetupError(f"--region takes four whole numbers, as in 100,100,200,200: {region}")
        fields["region"] = dict(
            zip(("x1", "y1", "x2", "y2"), map(int, corners.groups()), strict=True)
        )
    return fields


def fields_for(task: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the fields that the task takes.

    Raises:
        SetupError: it needs another one.
    """
    taken = TASKS[task].input.model_fields
    for name, option in OPTIONS.items():
        if name in taken and taken[name].is_required() and name not in fields:
            raise SetupError(f"{task} needs {option}")
    return {name: value for name, value in fields.items() if name in taken}


def check_use(fields: Mapping[str, Any], tasks: Sequence[str]) -> None:
    """Refuse a field that none of the tasks takes.

    Raises:
        SetupError: the message names the tasks that do.
    """
    for name in fields:
        takers = [path for path, task in TASKS.items() if name in task.input.model_fields]
        if not set(takers) & set(tasks):
            option = OPTIONS[name].split()[0]
            raise SetupError(f"{', '.join(tasks)} takes no {option}: it is for {', '.join(takers)}")
