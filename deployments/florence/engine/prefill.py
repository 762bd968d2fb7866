"""What happens to a sequence before its first token: image and prompt → keys and values.

On a GPU it runs on a stream of its own, while the decoder goes on.
"""

import collections.abc
import time
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deployments.florence.engine.cuda import CudaGraphs, RecordedFunction
from deployments.florence.engine.encoder import Encoder
from deployments.florence.engine.low_rank import Adapters
from deployments.florence.image_cache import ImageCache
from deployments.florence.sequence import Pixels, Sequence, Sequences


@dataclass(frozen=True)
class Inputs:
    """Turns images and prompts into tensors.

    `mean` and `std` are those of each colour in units of 0..1;
    prompts are padded to `num_text_tokens`, or to the longest of the batch when it is None.
    """

    mean: Tensor
    std: Tensor
    num_image_tokens: int
    pad: int
    num_text_tokens: int | None
    dtype: torch.dtype

    def images(self, images: collections.abc.Sequence[Pixels]) -> Tensor:
        """(B, H, W, 3), about zero."""
        pixels = self._moved(torch.from_numpy(np.stack(images)))
        return ((pixels.float() / 255.0 - self.mean) / self.std).to(self.dtype)

    def text(
        self, prompts: collections.abc.Sequence[collections.abc.Sequence[int]]
    ) -> tuple[Tensor, Tensor]:
        """Prompts without the image's tokens (B, W), and the mask that the encoder wants.

        The mask is zero, or minus infinity for padding: (B, 1, 1, image tokens + W).
        """
        written = [prompt[self.num_image_tokens :] for prompt in prompts]
        width = self.num_text_tokens or max(map(len, written))
        padded = [[*text, *[self.pad] * (width - len(text))] for text in written]
        text = self._moved(torch.tensor(padded))
        mask = torch.zeros(len(text), self.num_image_tokens + width, device=text.device)
        mask[:, self.num_image_tokens :].masked_fill_(text == self.pad, float("-inf"))
        return text, mask.to(self.dtype)[:, None, None]

    def column(self, values: collections.abc.Sequence[int]) -> Tensor:
        """One value of each sequence: (B,)."""
        return self._moved(torch.tensor(values))

    def _moved(self, tensor: Tensor) -> Tensor:
        if not self.mean.is_cuda:
            return tensor
        return tensor.pin_memory().to(self.mean.device, non_blocking=True)


@dataclass
class Encoded:
    """Sequences that the encoder works on, or has read.

    `cross_kv` are keys and values (L, B, S, 2·d), `mask` is what is added to the scores of
    the S positions (B, 1, 1, S); `done` says when they may be read.
    """

    sequences: list[Sequence]
    cross_kv: Tensor
    mask: Tensor
    done: torch.cuda.Event | None = None

    def is_done(self) -> bool:
        """Whether `wait` holds up nothing."""
        return self.done is None or self.done.query()

    def wait(self) -> None:
        """Let what is launched from now on come after it."""
        if self.done is not None:
            torch.cuda.current_stream().wait_event(self.done)
            for tensor in (self.cross_kv, self.mask):
                tensor.record_stream(torch.cuda.current_stream())

    def drop(self, sequence: Sequence) -> None:
        """Forget a sequence; the encoder goes on for the others."""
        if sequence in self.sequences:
            self.wait()
            kept = [n for n, each in enumerate(self.sequences) if each is not sequence]
            self.sequences = [self.sequences[n] for n in kept]
            self.cross_kv, self.mask, self.done = self.cross_kv[:, kept], self.mask[kept], None


def with_adapters(work: Callable[..., Tensor], adapters: Adapters | None) -> Callable[..., Tensor]:
    """The same; with adapters, its last argument has the number of each sequence's: (B,)."""
    if adapters is None:
        return work

    def adapted(*given: Tensor) -> Tensor:
        with adapters.chosen(given[-1]):
            return work(*given[:-1])

    return adapted


class Prefill:
    """The encoder with its inputs, its image cache and its stream."""

    def __init__(
        self,
        encoder: Encoder,
        inputs: Inputs,
        image_cache: ImageCache[Tensor] | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        graphs = CudaGraphs(inputs.mean.device)
        see, encode = (
            with_adapters(work, adapters) for work in (encoder.encode_images, encoder.encode)
        )
        self._encode_images = RecordedFunction(graphs, see, 0, "images")
        self._encode = RecordedFunction(graphs, encode, 1, "prompts")
        self._adapters = adapters
        self.one_by_one = False
        self._inputs = inputs
        self._image_cache = image_cache or ImageCache(0)
        self._stream = torch.cuda.Stream() if inputs.mean.is_cuda else None

    def __call__(self, sequences: Sequences) -> Encoded:
        """Begin the pass of `sequences`; the one before must have been read.

        Raises:
            torch.OutOfMemoryError: the device has not enough for so many at a time.
        """
        with self._own_stream():
            text, mask = self._inputs.text([sequence.prompt for sequence in sequences])
            image_tokens = self._image_tokens(sequences)
            cross_kv = self._encode(image_tokens, text, mask, *self._numbers(sequences))
            return Encoded(list(sequences), cross_kv, mask, self._event())

    def record(self, sequences: Sequences) -> None:
        """Record the pass of as many sequences as these, on a GPU."""
        with self._own_stream():
            images = self._inputs.images([sequence.pixels for sequence in sequences])
            text = self._inputs.text([sequence.prompt for sequence in sequences])
            numbers = self._numbers(sequences)
            self._encode_images.record(images, *numbers)
            self._encode.record(self._encode_images(images, *numbers), *text, *numbers)

    def measure(self, sequences: Sequences) -> None:
        """Let a CPU see one image at a time from now on, if all of these together take longer.

        Large images do: what is between two layers then fits no cache.
        """
        self._see(sequences[:1])  # the first pass prepares what later ones find
        together_s = self._seconds(sequences)
        self.one_by_one = len(sequences) * self._seconds(sequences[:1]) < together_s

    def _seconds(self, sequences: Sequences) -> float:
        began = time.perf_counter()
        self._see(sequences)
        return time.perf_counter() - began

    def _image_tokens(self, sequences: Sequences) -> Tensor:
        """The image tokens of all sequences: (B, I, d_model).

        Those that are new go through the vision tower, each once.
        An earlier pass may still run: it has the same stream, so this one comes after it.
        """
        keys = [self._key(sequence) or n for n, sequence in enumerate(sequences)]
        known = self._known(keys)
        new: dict[Hashable, Sequence] = {}
        for key, sequence in zip(keys, sequences, strict=True):
            sequence.image_is_known = key in known or key in new
            if not sequence.image_is_known:
                new[key] = sequence
        if not new:
            return torch.stack([known[key] for key in keys])
        seen = self._see_all(list(new.values()))
        for sequence, tokens in zip(new.values(), seen, strict=True):
            self._image_cache.put(self._key(sequence), tokens.clone())
        if len(new) == len(sequences):
            return seen
        known |= zip(new, seen, strict=True)
        return torch.stack([known[key] for key in keys])

    def _key(self, sequence: Sequence) -> Hashable | None:
        """Equal for what has the same image tokens; None where that is not known.

        Adapters share them, but for those that change how an image is seen.
        """
        if self._adapters is None or sequence.image_key is None:
            return sequence.image_key
        return sequence.image_key, self._adapters.vision_number(sequence.adapter)

    def _known(self, keys: collections.abc.Iterable[Hashable]) -> dict[Hashable, Tensor]:
        """The cached image tokens, by key."""
        found = ((key, self._image_cache.get(key)) for key in set(keys))
        return {key: tokens for key, tokens in found if tokens is not None}

    def _numbers(self, sequences: Sequences) -> list[Tensor]:
        """The numbers of their adapters (B,), where there are any."""
        if self._adapters is None:
            return []
        return [self._inputs.column([self._adapters.number(each.adapter) for each in sequences])]

    def _see_all(self, sequences: Sequences) -> Tensor:
        """The image tokens of what is new, in one pass of the vision tower or several."""
        if not self.one_by_one:
            return self._see(sequences)
        return torch.cat([self._see([sequence]) for sequence in sequences])

    def _see(self, sequences: Sequences) -> Tensor:
        """The vision tower's pass: (B, I, d_model)."""
        images = self._inputs.images([sequence.pixels for sequence in sequences])
        return self._encode_images(images, *self._numbers(sequences))

    def _own_stream(self) -> AbstractContextManager[Any]:
        """Work while the decoder does, after what was launched so far."""
        if self._stream is None:
            return nullcontext()
        self._stream.wait_stream(torch.cuda.current_stream())
        return torch.cuda.stream(self._stream)

    def _event(self) -> torch.cuda.Event | None:
        if self._stream is None:
            return None
        event = torch.cuda.Event()
        event.record()
        return event
