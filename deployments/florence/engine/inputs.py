"""Queries as the encoder reads them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deployments.florence.request import Pixels


@dataclass(frozen=True)
class Inputs:
    """What turns queries into tensors.

    `mean` and `std` are those of each colour in units of 0..1;
    prompts are padded to `num_words`, or to the longest of the batch when it is None.
    """

    mean: Tensor
    std: Tensor
    num_image_tokens: int
    pad: int
    num_words: int | None
    dtype: torch.dtype

    def images(self, images: Sequence[Pixels]) -> Tensor:
        """(B, H, W, 3), about zero."""
        pixels = self._moved(torch.from_numpy(np.stack(images)))
        return ((pixels.float() / 255.0 - self.mean) / self.std).to(self.dtype)

    def words(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Prompts without the image's place (B, W), and the mask that the encoder wants.

        The mask is zero, or minus infinity for padding: (B, 1, 1, image tokens + W).
        """
        written = [prompt[self.num_image_tokens :] for prompt in prompts]
        width = self.num_words or max(map(len, written))
        padded = [[*words, *[self.pad] * (width - len(words))] for words in written]
        words = self._moved(torch.tensor(padded))
        mask = torch.zeros(len(words), self.num_image_tokens + width, device=words.device)
        mask[:, self.num_image_tokens :].masked_fill_(words == self.pad, float("-inf"))
        return words, mask.to(self.dtype)[:, None, None]

    def _moved(self, tensor: Tensor) -> Tensor:
        if not self.mean.is_cuda:
            return tensor
        return tensor.pin_memory().to(self.mean.device, non_blocking=True)
