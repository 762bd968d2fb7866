"""Florence-2 by transformers' `generate` alone: what answers and speeds are held against.

It shares no code with the service's engine, so it cannot be wrong, or fast, in the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Florence2ForConditionalGeneration
from transformers.utils import logging as transformers_logging

from deployments.florence.checkpoint import Checkpoint
from deployments.florence.generate_backend import GREEDY
from deployments.florence.sequence import Pixels, Tokens
from deployments.florence.tasks import TASKS
from deployments.images.decode import decode, to_pixels
from deployments.settings import PreprocessSettings
from loadtest.bench.answer_lengths import SHORT, brightness, lengths
from loadtest.scenes import photograph

TASK = "region-proposal"
BATCH = 8


class Reference:
    """A checkpoint in float32 on one torch thread, asked for region proposals.

    Args:
        folder: where the checkpoint lies.
        num_beams: 1 for greedy search; None for the checkpoint's own.
        num_tokens: of every answer; None leaves it to the model to end.
    """

    def __init__(self, folder: Path, num_beams: int | None = None, num_tokens: int | None = None):
        torch.set_num_threads(1)
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        self.checkpoint = Checkpoint(folder)
        self._florence: Any = Florence2ForConditionalGeneration.from_pretrained(folder)
        self._prompt = torch.tensor(self.checkpoint.prompt(TASKS[TASK].sentence))
        self._mean, self._std = (
            torch.tensor(values).view(3, 1, 1) for values in self.checkpoint.normalisation
        )
        self._options = options(self.checkpoint.max_positions - 1, num_beams, num_tokens)

    def answers(self, jpegs: Sequence[bytes]) -> list[Tokens]:
        pixels = [self.pixels(jpeg) for jpeg in jpegs]
        batches = (pixels[i : i + BATCH] for i in range(0, len(pixels), BATCH))
        return [answer for batch in batches for answer in self.generate(batch)]

    def pixels(self, jpeg: bytes) -> Pixels:
        image = decode(jpeg, PreprocessSettings())
        return to_pixels(image, self.checkpoint.image_size, self.checkpoint.resample)

    @torch.inference_mode()
    def generate(self, images: Sequence[Pixels]) -> list[Tokens]:
        """The token ids of each answer, from its start token on, padding left out.

        `images` are RGB at the checkpoint's own size, (height, width, 3).
        """
        ids = self._prompt.repeat(len(images), 1)
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        answers = self._florence.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=(pixels - self._mean) / self._std,
            **self._options,
        )
        pad: int = self._florence.config.pad_token_id
        return [tuple(id_ for id_ in row if id_ != pad) for row in answers.tolist()]


def options(longest: int, num_beams: int | None, num_tokens: int | None) -> dict[str, Any]:
    """What is asked of `generate` beyond the checkpoint's own generation config."""
    chosen: dict[str, Any] = {"max_new_tokens": num_tokens or longest, "do_sample": False}
    if num_tokens is not None:
        chosen["min_new_tokens"] = num_tokens
    if num_beams is not None:
        chosen["num_beams"] = num_beams
    if num_beams == 1:
        chosen |= GREEDY
    return chosen


@dataclass(frozen=True)
class AnsweredImage:
    """A JPEG, the token ids of the answer to it, and whether that was meant to be short."""

    jpeg: bytes
    answer: Tokens
    is_short: bool = False

    @property
    def length(self) -> int:
        """Tokens that are generated, the end included; the start token is given."""
        return len(self.answer) - 1


def mixed_samples(folder: Path, num: int = 64) -> list[AnsweredImage]:
    wanted = lengths(num)
    jpegs = [photograph(seed, brightness=brightness(length)) for seed, length in enumerate(wanted)]
    answers = Reference(folder).answers(jpegs)
    is_short = [length == SHORT for length in wanted]
    return [AnsweredImage(*sample) for sample in zip(jpegs, answers, is_short, strict=True)]
