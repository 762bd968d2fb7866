"""The prompt of one request: checked, and made into token ids, before anything is batched."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from deployments.errors import InvalidInput, fault
from deployments.florence.checkpoint import Checkpoint
from deployments.florence.schemas import ImageInput, ImageWithTextInput
from deployments.florence.tasks import TASKS, Task
from deployments.settings import InferenceSettings

NUM_KEPT = 256  # prompts that are kept as token ids
ANY = (1, 1)  # the size of an image, where it does not matter
REGION = "<loc_0>" * 4
NUL = "\0"
SEPARATOR = "<and>"  # what a caller may write between phrases

# transformers' processor puts its sentence in the place of a marker, wherever that stands.
MARKERS = frozenset(task.marker for task in TASKS.values()) | {"<REGION_TO_OCR>"}


class Prompts:
    """The prompts of a checkpoint; `inference.max_text_tokens` bounds the text in them."""

    def __init__(self, checkpoint: Checkpoint, settings: InferenceSettings) -> None:
        self._checkpoint = checkpoint
        self._vocabulary = checkpoint.vocabulary
        self._max_text_tokens = settings.max_text_tokens or checkpoint.max_positions
        self._image = checkpoint.prompt("")[:-2]
        self._encode = lru_cache(NUM_KEPT)(checkpoint.prompt)
        self._num_own_tokens = lru_cache(NUM_KEPT)(self._count_own_tokens)

    def encode(self, task: Task, input: ImageInput, size: tuple[int, int]) -> list[int]:
        """Token ids of what `input` asks about an image of this (width, height).

        Raises:
            InvalidInput: as `check`.
        """
        if isinstance(input, ImageWithTextInput):
            return self._image + self._read(task, input, size)
        return self._encode(task.prompt(input, size))

    def check(self, task: Task, input: ImageInput) -> None:
        """Refuse a text that would be more than text to the model, or is too long for it.

        Raises:
            InvalidInput: its location is `text_input`.
        """
        if isinstance(input, ImageWithTextInput):
            self._read(task, input, ANY)

    def longest(self, task: Task) -> list[int]:
        """Token ids as many as the longest prompt of a task has."""
        if not issubclass(task.input, ImageWithTextInput):
            return self._checkpoint.prompt(task.sentence.replace("{}", REGION))
        num = self._num_own_tokens(task) + self._most_tokens(task)
        return self._image + [self._vocabulary.id("<s>")] * num

    def _read(self, task: Task, input: ImageWithTextInput, size: tuple[int, int]) -> list[int]:
        """Token ids of the sentence with the text in it."""
        own, most = self._num_own_tokens(task), self._most_tokens(task)
        # No text of more is short enough, whatever it is: it need not be tokenised.
        most_letters = (own + most) * self._vocabulary.longest_token
        check_length(len(input.text_input), most_letters, "characters")
        ids = self._vocabulary.encode(task.prompt(input, size))
        self._check_text(input.text_input, ids)
        check_length(len(ids) - own, most, "tokens")
        return ids

    def _most_tokens(self, task: Task) -> int:
        """Tokens that a text may add to the task's sentence."""
        room = self._checkpoint.max_positions - self._checkpoint.num_image_tokens
        return min(self._max_text_tokens, room - self._num_own_tokens(task))

    def _count_own_tokens(self, task: Task) -> int:
        """Tokens of the task's sentence without words."""
        return len(self._vocabulary.encode(task.sentence.replace("{}", "")))

    def _check_text(self, text: str, ids: Sequence[int]) -> None:
        """Refuse a text that is more than text; `ids` are its sentence's, framed."""
        marks = self._vocabulary.special_in(ids[1:-1]) - {SEPARATOR}
        marks |= {marker for marker in MARKERS if marker in text}
        if marks:
            raise refused(f"Input holds {min(marks)}, which is no text to the model", "value_error")
        if NUL in text:
            raise refused("Input holds a NUL character", "value_error")


def usual_length(checkpoint: Checkpoint) -> int:
    """Tokens of the longest prompt whose words are no more than a region's."""
    sentences = (task.sentence.replace("{}", REGION) for task in TASKS.values())
    return max(len(checkpoint.prompt(sentence)) for sentence in sentences)


def check_length(length: int, most: int, unit: str) -> None:
    if length > most:
        message = f"Input has {length} {unit}; the model takes at most {most}"
        raise refused(message, "string_too_long", max_length=most, unit=unit)


def refused(message: str, type_: str, **ctx: Any) -> InvalidInput:
    return InvalidInput.of([fault(type_, ("body", "text_input"), message, **ctx)])
