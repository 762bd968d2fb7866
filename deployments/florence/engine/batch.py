"""What the device keeps of the running sequences: for each of them, a place in every tensor here.

n running sequences have the places 0..n-1, so that a step works on a prefix of every tensor: a
sequence that joins takes place n, and the last one moves into a place that becomes free.
Shapes: N places, K beams of a sequence, T positions of the decoder, S of the encoder, L decoder
layers of H heads of width w; n ≤ N, k ≤ K and t ≤ T are those of one step.
Keys and values lie head by head, so that attention reads each head's in one piece.
A beam's keys and values are written once and never move; when beams change places, only a table of
their ancestors does.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from deployments.florence.token_scores import WINDOW

NEVER = -1e9  # transformers' score of a beam that does not exist yet
CHOICE = WINDOW + 1  # values that are kept of a token that was chosen, the beam before it last


@dataclass(frozen=True)
class BatchShape:
    """How many sequences a batch holds, and how large they may be."""

    max_batch_size: int  # N
    num_beams: int  # K
    num_positions: int  # T
    num_encoded: int  # S
    num_layers: int
    num_heads: int
    head_width: int

    def num_bytes(self, dtype: torch.dtype) -> int:
        """Memory of one sequence: keys and values of the decoder and the encoder, and tokens."""
        positions = self.num_positions * self.num_beams + self.num_encoded
        tokens = self.num_positions * self.num_beams * (2 * 8 + 1 + 4 * CHOICE)
        width = self.num_heads * self.head_width
        return 2 * self.num_layers * positions * width * dtype.itemsize + tokens


@dataclass(frozen=True)
class SequenceLimits:
    """The beams of one sequence, its grammar, and how many tokens it may and must have.

    Lengths count the start token, as transformers' `max_length` does.
    `ngram` is the length of the n-grams that may not come twice, 0 for none;
    `adapter` is the number of its adapter.
    """

    num_beams: int
    max_length: int
    min_length: int
    grammar: int = 0
    ngram: int = 0
    adapter: int = 0


class StepSize(NamedTuple):
    """What a step is made for: so many sequences, beams of each, and positions.

    Of the encoder's positions it reads `num_encoded`, all when that is not given.
    No sequence has longer n-grams than `ngram`; scores of tokens are kept if one is `scored`.
    `groups` are neighbours of like length, how many and how many positions each may have: they
    attend together. All do when there are none.
    """

    num_sequences: int
    num_beams: int
    span: int
    ngram: int = 0
    scored: bool = False
    num_encoded: int | None = None
    groups: tuple[tuple[int, int], ...] = ()


class DecoderBatch:
    def __init__(self, shape: BatchShape, device: torch.device, dtype: torch.dtype) -> None:
        n, k, t = shape.max_batch_size, shape.num_beams, shape.num_positions
        self.shape = shape
        self.device = device

        def zeros(*size: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(size, device=device, dtype=dtype)

        def keys_and_values(num_positions: int) -> Tensor:
            heads = (n, shape.num_heads, num_positions, shape.head_width)
            return zeros(shape.num_layers, 2, *heads, dtype=dtype)  # keys before values

        self._kv, self._cross_kv = keys_and_values(t * k), keys_and_values(shape.num_encoded)
        self.kv = self._kv.unbind()  # of each layer: (2, N, H, T·K, w)
        self.cross_kv = self._cross_kv.unbind()  # of each layer: (2, N, H, S, w)
        self.cross_mask = zeros(n, 1, 1, shape.num_encoded, dtype=dtype)
        self.tokens = zeros(n, k, t, dtype=torch.int64)
        self.ancestors = zeros(n, k, t, dtype=torch.int8)  # the beam that wrote a position
        self.length = torch.ones_like(zeros(n, dtype=torch.int64))
        self.max_length = torch.full_like(self.length, t)
        self.min_length = torch.ones_like(self.length)
        self.num_beams = torch.ones_like(self.length)
        self.grammar = torch.zeros_like(self.length)
        self.ngram = torch.zeros_like(self.length)
        self.adapter = torch.zeros_like(self.length)
        self.scores = zeros(n, k, dtype=torch.float32)
        self.done = torch.ones_like(self.length, dtype=torch.bool)
        self.can_improve = torch.ones_like(self.done)  # a running beam may still beat an ended one
        self.ended_tokens = zeros(n, k, t, dtype=torch.int64)
        self.ended_scores = zeros(n, k, dtype=torch.float32)
        self.ended_length = torch.ones_like(self.scores, dtype=torch.int64)
        self.ended = torch.zeros_like(self.scores, dtype=torch.bool)
        self.ended_truncated = torch.zeros_like(self.ended)
        # Of scored sequences, by the beam that wrote a position; one more for those that are done.
        self.choices = zeros(n, k, t + 1, CHOICE, dtype=torch.float32)
        self.ended_choices = zeros(n, k, CHOICE, dtype=torch.float32)  # of their last tokens
        self.indices = torch.arange(n, device=device)
        self.beams = torch.arange(k, device=device)
        self.positions = torch.arange(t, device=device)

    def put(
        self, first: int, cross_kv: Tensor, mask: Tensor, limits: list[SequenceLimits], start: int
    ) -> None:
        """Begin sequences in the places `first`, `first` + 1, …

        Args:
            cross_kv: keys and values of the encoder's output (L, B, S', 2·H·w), S' ≤ S.
            mask: what is added to the scores of these positions (B, 1, 1, S').
            start: the decoder's first token.
        """
        new = slice(first, first + len(limits))
        encoded = cross_kv.shape[2]
        self._cross_kv[:, :, new, :, :encoded] = by_head(cross_kv, self.shape)
        self.cross_mask[new] = float("-inf")
        self.cross_mask[new, ..., :encoded] = mask
        self.tokens[new, :, 0] = start
        self.ancestors[new] = 0
        self.length[new] = 1
        self.max_length[new] = self._column([each.max_length for each in limits])
        self.min_length[new] = self._column([each.min_length for each in limits])
        self.num_beams[new] = self._column([each.num_beams for each in limits])
        self.grammar[new] = self._column([each.grammar for each in limits])
        self.ngram[new] = self._column([each.ngram for each in limits])
        self.adapter[new] = self._column([each.adapter for each in limits])
        self.scores[new] = NEVER
        self.scores[new, 0] = 0.0
        unused = self.beams >= self.num_beams[new, None]  # more than a sequence has: (new, K)
        self.scores[new] = self.scores[new].masked_fill(unused, float("-inf"))
        self.ended_scores[new] = NEVER
        self.ended[new] = False
        self.can_improve[new] = True
        self.done[new] = False

    def _column(self, values: list[int]) -> Tensor:
        column = torch.tensor(values)
        if self.device.type == "cuda":
            column = column.pin_memory()  # else the copy would wait for all that runs
        return column.to(self.device, non_blocking=True)

    def move(self, source: int, target: int, num_positions: int) -> None:
        """Move the sequence of a place to another; `num_positions` of it are in use."""
        used = num_positions * self.shape.num_beams
        self._kv[:, :, target, :, :used] = self._kv[:, :, source, :, :used]
        self._cross_kv[:, :, target] = self._cross_kv[:, :, source]
        chosen = slice(num_positions + 1)
        self.choices[target, :, chosen] = self.choices[source, :, chosen]
        for tensor in self._small():
            tensor[target] = tensor[source]

    def copy_out(self, index: int, num_positions: int) -> tuple[Tensor, ...]:
        """All that is kept of a sequence; `num_positions` of it are in use."""
        used = num_positions * self.shape.num_beams
        kv, cross_kv = self._kv[:, :, index, :, :used], self._cross_kv[:, :, index]
        choices = self.choices[index, :, : num_positions + 1]
        small = (tensor[index] for tensor in self._small())
        return tuple(part.clone() for part in (kv, cross_kv, choices, *small))

    def copy_in(self, index: int, parts: tuple[Tensor, ...]) -> None:
        kv, cross_kv, choices, *small = parts
        self._kv[:, :, index, :, : kv.shape[3]] = kv
        self._cross_kv[:, :, index] = cross_kv
        self.choices[index, :, : choices.shape[1]] = choices
        for tensor, value in zip(self._small(), small, strict=True):
            tensor[index] = value

    def _small(self) -> tuple[Tensor, ...]:
        """What is kept of each sequence besides keys, values and choices."""
        return (
            self.cross_mask,
            self.tokens,
            self.ancestors,
            self.length,
            self.max_length,
            self.min_length,
            self.num_beams,
            self.grammar,
            self.ngram,
            self.adapter,
            self.scores,
            self.done,
            self.can_improve,
            self.ended_tokens,
            self.ended_scores,
            self.ended_length,
            self.ended,
            self.ended_truncated,
            self.ended_choices,
        )

    def clear(self, index: int | slice) -> None:
        """Free a place: it takes no part in a step, and fits into one of few positions."""
        self.done[index] = True
        self.length[index] = 1


class BatchView:
    """What one step reads and writes."""

    def __init__(self, batch: DecoderBatch, step: StepSize) -> None:
        size, num_beams, span, self.ngram, self.scored, num_encoded, groups = step
        self.size, self.num_beams, self.span = size, num_beams, span
        self._all_beams = batch.shape.num_beams
        self.length = batch.length[:size]
        self.current = self.length - 1  # the position that is computed
        self.tokens = batch.tokens[:size, :num_beams, :span]
        self.beams = batch.beams[:num_beams]
        self.positions = batch.positions[:span]
        self.last_tokens = self.at(self.current)
        self.cross_mask = batch.cross_mask[:size, ..., :num_encoded]
        self._place_ancestors(batch)
        self._groups = self._grouped(groups or ((size, span),), batch)
        self._indices = batch.indices[:size, None]
        self._targets = self.current[:, None] * self._all_beams + self.beams

    def at(self, positions: Tensor) -> Tensor:
        """The token of each beam at its sequence's position: (n,) → (n, k)."""
        index = positions[:, None, None].expand(-1, self.num_beams, 1)
        return self.tokens.gather(2, index).squeeze(2)

    def write(self, kv: Tensor, new: Tensor) -> None:
        """Keep the keys and values (n, k, 2·H·w) of each sequence's current position."""
        by_position = kv.permute(1, 3, 0, 2, 4)  # (N, T·K, 2, H, w)
        by_position[self._indices, self._targets] = new.unflatten(-1, by_position.shape[2:])

    def read(self, kv: Tensor) -> list[tuple[slice, Tensor, Tensor]]:
        """Of each group its sequences, their keys and values (2, n, H, t·k, w), and their mask."""
        return [(rows, self._span(kv, rows, span), mask) for rows, span, mask in self._groups]

    def _span(self, kv: Tensor, rows: slice, span: int) -> Tensor:
        if self.num_beams == self._all_beams:
            return kv[:, rows, :, : span * self.num_beams]
        by_beam: Tensor = kv.unflatten(3, (-1, self._all_beams))
        return by_beam[:, rows, :, :span, 0]

    def read_encoded(self, cross_kv: Tensor) -> Tensor:
        """Keys and values of the encoder's output: (2, n, H, s, w)."""
        return cross_kv[:, : self.size, :, : self.cross_mask.shape[-1]]

    def _place_ancestors(self, batch: DecoderBatch) -> None:
        """Each beam writes its current position itself."""
        if self.num_beams > 1:
            self.ancestors = batch.ancestors[: self.size, :, : self.span]
            place = self.current[:, None, None].expand(-1, self.num_beams, 1)
            own = self.beams.to(torch.int8)[None, :, None].expand(self.size, -1, 1)
            self.ancestors.scatter_(2, place, own)

    def _grouped(
        self, groups: tuple[tuple[int, int], ...], batch: DecoderBatch
    ) -> list[tuple[slice, int, Tensor]]:
        """The groups with their masks."""
        found, first = [], 0
        for size, span in groups:
            rows = slice(first, first + size)
            mask = self._mask(batch, rows, span).to(batch.cross_mask.dtype)
            found.append((rows, span, mask))
            first += size
        return found

    def _mask(self, batch: DecoderBatch, rows: slice, span: int) -> Tensor:
        """Zero for a beam's ancestors, minus infinity for the rest: (n, 1, k, t·k)."""
        seen = (self.positions[:span] <= self.current[rows, None])[:, None, :, None]
        if self.num_beams > 1:
            seen = seen & (self.ancestors[rows, :, :span, None] == self.beams)
        mask = torch.zeros(seen.shape, device=batch.device).masked_fill_(~seen, float("-inf"))
        return mask.flatten(2)[:, None]


def aligned(num_positions: int) -> int:
    """Positions as a GPU's attention kernels read them without copying their mask first."""
    return -(-num_positions // 16) * 16


def by_head(kv: Tensor, shape: BatchShape) -> Tensor:
    """Keys and values (L, B, S, 2·H·w) as a batch keeps them: (L, 2, B, H, S, w)."""
    parts: Tensor = kv.unflatten(-1, (2, shape.num_heads, shape.head_width))
    return parts.permute(0, 3, 1, 4, 2, 5)
