"""Parses an answer while the model writes it."""

from collections.abc import Callable
from typing import Any

from deployments.florence.messages import Partial, PartialOutput
from deployments.florence.parsing import ModelAnswer
from deployments.florence.schemas import ImageInput
from deployments.florence.tasks import Task
from deployments.florence.vocabulary import Vocabulary

OnPartial = Callable[[PartialOutput], None]


class PartialParser:
    """Calls `on_partial` with the output so far each time it has grown.

    When the answer is written again from its beginning, it waits until there is more than before.
    """

    def __init__(
        self, task: Task, input: ImageInput, vocabulary: Vocabulary, on_partial: OnPartial
    ) -> None:
        self._task = task
        self._input = input
        self._vocabulary = vocabulary
        self._on_partial = on_partial
        self._image: dict[str, Any] = {"image": None} if task.draw else {}
        self._length = 0

    def parse(self, partial: Partial) -> None:
        """Find a new whole item, or more text."""
        answer = ModelAnswer.of(
            partial.tokens, self._vocabulary, partial.size, partial.scores, truncated=True
        )
        results = self._task.read(answer, self._input)
        if len(results) > self._length:
            self._length = len(results)
            output = self._task.output_of(results, **self._task.score(answer), **self._image)
            self._on_partial(PartialOutput(output, partial.model))
