"""Reads an answer while the model writes it."""

from collections.abc import Callable
from typing import Any

from deployments.florence.answer import Answer
from deployments.florence.request import Partial
from deployments.florence.tasks import Task
from deployments.florence.vocabulary import Vocabulary

UNFINISHED = "\ufffd"  # stands for a letter of which not all bytes have been written


class Reader:
    """Tells the output so far, as JSON values, each time it has grown.

    An answer that is begun again is told of when it is ahead of what was told before.
    """

    def __init__(self, task: Task, vocabulary: Vocabulary, tell: Callable[[Any], None]) -> None:
        self._task = task
        self._vocabulary = vocabulary
        self._tell = tell
        self._told = 0

    def read(self, said: Partial) -> None:
        """Tell what is new in `said`, if anything is: a whole box, or more text."""
        tokens = self._vocabulary.trim(said.tokens)
        results = self._task.parse(Answer(tokens, self._vocabulary, said.size))
        if isinstance(results, str):
            results = results.rstrip(UNFINISHED)
        if len(results) > self._told:
            self._told = len(results)
            self._tell(self._task.output(results=results).model_dump())
