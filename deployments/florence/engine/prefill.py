"""What happens to a query before its first token: image and prompt → keys and values.

On a GPU it runs on a stream of its own beside the decoder's steps.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deployments.florence.cache import Cache
from deployments.florence.engine.encoder import Encoder
from deployments.florence.engine.graphs import Graphs, Recorded
from deployments.florence.engine.inputs import Inputs
from deployments.florence.request import Query


@dataclass
class Encoded:
    """Some queries' way through the encoder.

    `cross` are keys and values (L, B, S, 2·d), `mask` is what is added to the scores of
    the S positions (B, 1, 1, S); `done` says when they may be read.
    """

    cross: Tensor
    mask: Tensor
    done: torch.cuda.Event | None = None

    def is_done(self) -> bool:
        """Whether reading them would hold up nobody."""
        return self.done is None or self.done.query()

    def only(self, kept: list[int]) -> "Encoded":
        """The same with some of the queries alone."""
        self.wait()
        return Encoded(self.cross[:, kept], self.mask[kept])

    def wait(self) -> None:
        """Let what is launched from now on come after it."""
        if self.done is not None:
            torch.cuda.current_stream().wait_event(self.done)
            for tensor in (self.cross, self.mask):
                tensor.record_stream(torch.cuda.current_stream())


class Prefill:
    """The encoder with its inputs and its stream.

    With a `cache`, what the vision tower makes of an image is kept for the next query about it.
    """

    def __init__(
        self, encoder: Encoder, inputs: Inputs, cache: Cache[Tensor] | None = None
    ) -> None:
        graphs = Graphs(inputs.mean.device)
        self._look = Recorded(graphs, encoder.look, 0, "look")
        self._read = Recorded(graphs, encoder.read, 1, "read")
        self._inputs = inputs
        self._cache = cache
        self._stream = torch.cuda.Stream() if inputs.mean.is_cuda else None

    def __call__(self, queries: Sequence[Query]) -> Encoded:
        """Begin the pass of `queries`; the one before must have been read.

        Raises:
            torch.OutOfMemoryError: the device has not enough for so many at a time.
        """
        with self._aside():
            words, mask = self._inputs.words([query.prompt for query in queries])
            return Encoded(self._read(self._seen(queries), words, mask), mask, self._mark())

    def record(self, queries: Sequence[Query]) -> None:
        """Record the pass of as many queries as these, on a GPU."""
        with self._aside():
            images = self._inputs.images([query.pixels for query in queries])
            self._look.record(images)
            self._read.record(
                self._look(images), *self._inputs.words([query.prompt for query in queries])
            )

    def _seen(self, queries: Sequence[Query]) -> Tensor:
        """The image tokens of all queries: (B, I, d_model)."""
        if self._cache is None:
            return self._look(self._inputs.images([query.pixels for query in queries]))
        known = [self._cache.get(query.image_key) for query in queries]
        new = [query for query, tokens in zip(queries, known, strict=True) if tokens is None]
        fresh = iter(self._kept(new))
        return torch.stack([next(fresh) if tokens is None else tokens for tokens in known])

    def _kept(self, queries: Sequence[Query]) -> list[Tensor]:
        """The image tokens of queries whose images are new, which are known from now on."""
        if not queries or self._cache is None:
            return []
        seen = self._look(self._inputs.images([query.pixels for query in queries])).clone()
        for query, tokens in zip(queries, seen, strict=True):
            self._cache.put(query.image_key, tokens.clone())
        return list(seen)

    def _aside(self) -> AbstractContextManager[Any]:
        """Work beside the decoder, once what it was told so far is done."""
        if self._stream is None:
            return nullcontext()
        self._stream.wait_stream(torch.cuda.current_stream())
        return torch.cuda.stream(self._stream)

    def _mark(self) -> torch.cuda.Event | None:
        if self._stream is None:
            return None
        event = torch.cuda.Event()
        event.record()
        return event
