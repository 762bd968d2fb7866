"""What the model said about one image, before it is read."""

from dataclasses import dataclass

from deployments.florence.vocabulary import Vocabulary


@dataclass(frozen=True)
class Answer:
    """Token ids of one answer, the vocabulary they belong to, and the image's (width, height)."""

    tokens: tuple[int, ...]
    vocabulary: Vocabulary
    size: tuple[int, int]
