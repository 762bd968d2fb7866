"""Florence-2 in torch: a batch of images and prompts → token ids, through transformers' generate.

Knows nothing of queues, tasks or text.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import (
    Florence2ForConditionalGeneration,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.utils import logging as transformers_logging

from deployments.errors import SetupError
from deployments.florence.checkpoint import ALL_FILES, Checkpoint, open_checkpoint
from deployments.florence.run import Pixels, Query, Tokens
from deployments.settings import InferenceSettings, ModelSettings


class Model:
    """A loaded checkpoint.

    Raises:
        SetupError: the checkpoint or the device is not there.
    """

    def __init__(self, model: ModelSettings, inference: InferenceSettings) -> None:
        torch.set_num_threads(model.torch_threads)
        self.checkpoint = open_checkpoint(model, ALL_FILES)
        self._device = device(model.device)
        self._dtype = dtype(model.dtype, self._device)
        self._florence = load(self.checkpoint, self._device, self._dtype)
        self._options = options(self.checkpoint, inference)
        self._mean, self._std = (
            torch.tensor(values, device=self._device).view(1, 3, 1, 1)
            for values in self.checkpoint.normalisation
        )
        self._pad_id: int = self.checkpoint.vocabulary.id("<pad>")

    def warm_up(self, batch_size: int, prompt: Sequence[int]) -> None:
        """Run one black image alone and `batch_size` together, so that no client waits for it."""
        width, height = self.checkpoint.image_size
        query = Query(np.zeros((height, width, 3), np.uint8), prompt)
        for size in {1, batch_size}:
            self._generate(
                [query] * size, self._options | {"max_new_tokens": 4, "min_new_tokens": 0}
            )

    def generate(
        self, batch: Sequence[Query], is_wanted: Callable[[int], bool] = lambda _: True
    ) -> list[Tokens]:
        """The token ids of each answer, from its start token on, padding left out.

        `is_wanted` is asked about each row after each token: one that nobody wants any more is
        cut short, and the batch ends with the last that is wanted.
        """
        unwanted = Unwanted(len(batch), is_wanted)
        options = self._options | {"stopping_criteria": StoppingCriteriaList([unwanted])}
        return self._generate(batch, options)

    @torch.inference_mode()
    def _generate(self, batch: Sequence[Query], options: dict[str, Any]) -> list[Tokens]:
        ids, mask = self._pad([query.prompt for query in batch])
        answers = self._florence.generate(
            input_ids=ids,
            attention_mask=mask,
            pixel_values=self._normalise([query.pixels for query in batch]),
            **options,
        )
        return [tuple(id_ for id_ in row if id_ != self._pad_id) for row in answers.tolist()]

    def _pad(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts padded on the right, and the mask of what is no padding: (batch, length)."""
        rows = [torch.tensor(prompt) for prompt in prompts]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self._pad_id)
        return ids.to(self._device), (ids != self._pad_id).long().to(self._device)

    def _normalise(self, images: Sequence[Pixels]) -> torch.Tensor:
        """Images as the vision tower wants them: (batch, 3, height, width) about zero."""
        pixels = torch.from_numpy(np.stack(images)).to(self._device)
        scaled = pixels.permute(0, 3, 1, 2).float() / 255.0
        return ((scaled - self._mean) / self._std).to(self._dtype)


class Unwanted(StoppingCriteria):
    """Ends the rows that nobody wants any more; what the others say does not change."""

    def __init__(self, num_rows: int, is_wanted: Callable[[int], bool]) -> None:
        self._num_rows = num_rows
        self._is_wanted = is_wanted

    def __call__(self, input_ids: torch.Tensor, _scores: Any, **_more: Any) -> torch.BoolTensor:
        """Which sequences end here: a flag for each of a row's candidates, row by row."""
        shape = self._num_rows, len(input_ids) // self._num_rows  # (rows, candidates)
        ended = torch.zeros(shape, dtype=torch.bool, device=input_ids.device)
        for number in range(self._num_rows):
            if not self._is_wanted(number):
                ended[number] = True
        return ended.flatten()  # type: ignore[return-value]


def device(name: str) -> torch.device:
    """The device to run on.

    Raises:
        SetupError: a GPU is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise SetupError("no CUDA device is visible: set model.device to cpu, or give the node one")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision to compute in: what the checkpoints are stored in, where it is fast."""
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    found: torch.dtype = getattr(torch, name)
    return found


def load(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Any:
    """The weights, ready to generate.

    Raises:
        SetupError: there are none, or they do not fit the configuration.
    """
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        florence = Florence2ForConditionalGeneration.from_pretrained(
            checkpoint.folder, dtype=dtype, local_files_only=True
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise SetupError(f"could not load the weights in {checkpoint.folder}: {first}") from error
    return florence.to(device).eval()  # type: ignore[arg-type]


def options(checkpoint: Checkpoint, settings: InferenceSettings) -> dict[str, Any]:
    """What is asked of `generate` beyond the checkpoint's own generation config."""
    longest = min(settings.max_new_tokens, checkpoint.max_positions - 1)
    chosen: dict[str, Any] = {
        "max_new_tokens": longest,
        "min_new_tokens": min(settings.min_new_tokens, longest),
        "do_sample": False,
    }
    if settings.num_beams is not None:
        chosen["num_beams"] = settings.num_beams
    if settings.num_beams == 1:
        chosen["early_stopping"] = False
    return chosen
