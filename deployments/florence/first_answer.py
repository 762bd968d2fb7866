"""The first question to a model that starts, about a picture that is drawn here.

A model whose weights or rules are wrong says one token over and over.
"""

import numpy as np

from deployments.errors import SetupError
from deployments.florence.backend import Backend
from deployments.florence.checkpoint import Checkpoint
from deployments.florence.sequence import Pixels, Sequence, Tokens
from deployments.florence.tasks import TASKS

NUM_TOKENS = 16
MANY = 4  # an answer of fewer tokens can be one of them alone


def check_answer(backend: Backend, checkpoint: Checkpoint) -> None:
    """Ask for a caption, greedily, with repeats allowed.

    Raises:
        SetupError: the answer is nothing but one token, again and again.
    """
    question = Sequence(
        picture(checkpoint.image_size),
        checkpoint.prompt(TASKS["caption"].sentence),
        num_beams=1,
        max_new_tokens=NUM_TOKENS,
        no_repeat_ngram_size=0,
    )
    backend.add([question])
    while not backend.step():
        pass
    written = without_frame(question.tokens, checkpoint)
    if len(written) >= MANY and len(set(written)) == 1:
        token = checkpoint.vocabulary.token(written[0])
        raise SetupError(
            f"the model in {checkpoint.folder} answers with nothing but {token!r}: its weights or "
            "its generation config are not right; set model.check_answer to false to serve it"
        )


def without_frame(tokens: Tokens, checkpoint: Checkpoint) -> Tokens:
    """An answer without its start and its last `</s>`, which may be forced, and one `<s>`."""
    written = tokens[1:]
    if written[-1:] == (checkpoint.vocabulary.id("</s>"),):
        written = written[:-1]
    return written[1:] if written[:1] == (checkpoint.vocabulary.id("<s>"),) else written


def picture(size: tuple[int, int]) -> Pixels:
    """A red disc on a light ground, of this (width, height)."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    disc = np.hypot(x / width - 0.5, y / height - 0.5) < 0.25
    return np.where(disc[..., None], (200, 30, 30), (235, 235, 235)).astype(np.uint8)
