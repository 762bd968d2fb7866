"""What the device keeps of every sequence: a row of each tensor here.

Live rows are 0..n-1, so that a step works on a prefix of every tensor: who joins takes row n,
and a row that becomes free is filled with the last live one.
Shapes: N rows, K lanes (the beams of one sequence), T positions of the decoder, S of the encoder,
L decoder layers of H heads of width w.
Keys and values lie head by head, so that attention reads each head's in one piece.
A lane's keys and values are written once and never move; when beams change places,
only a table of who descends from whom does.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

NEVER = -1e9  # transformers' score of a beam that does not exist yet


@dataclass(frozen=True)
class Shape:
    """How much there is room for."""

    num_rows: int
    num_lanes: int
    num_positions: int
    num_encoded: int
    num_layers: int
    num_heads: int
    head_width: int

    def num_bytes(self, dtype: torch.dtype) -> int:
        """Memory that one row takes: keys and values of the decoder and the encoder, and tokens."""
        positions = self.num_positions * self.num_lanes + self.num_encoded
        tokens = self.num_positions * self.num_lanes * (2 * 8 + 1)
        width = self.num_heads * self.head_width
        return 2 * self.num_layers * positions * width * dtype.itemsize + tokens


@dataclass(frozen=True)
class Limits:
    """What sets one sequence apart: its beams, its grammar, how many tokens it may and must have.

    Lengths count the start token, as transformers' `max_length` does.
    """

    num_beams: int
    max_length: int
    min_length: int
    grammar: int = 0


class Rows:
    """The tensors."""

    def __init__(self, shape: Shape, device: torch.device, dtype: torch.dtype) -> None:
        n, k, t = shape.num_rows, shape.num_lanes, shape.num_positions
        self.shape = shape
        self.device = device

        def zeros(*size: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(size, device=device, dtype=dtype)

        def states(num_positions: int) -> Tensor:
            heads = (n, shape.num_heads, num_positions, shape.head_width)
            return zeros(shape.num_layers, 2, *heads, dtype=dtype)  # keys before values

        self._memory, self._cross = states(t * k), states(shape.num_encoded)
        self.memory = self._memory.unbind()  # of each layer: (2, N, H, T·K, w)
        self.cross = self._cross.unbind()  # of each layer: (2, N, H, S, w)
        self.cross_mask = zeros(n, 1, 1, shape.num_encoded, dtype=dtype)
        self.tokens = zeros(n, k, t, dtype=torch.int64)
        self.ancestors = zeros(n, k, t, dtype=torch.int8)  # the lane that wrote a position
        self.length = torch.ones_like(zeros(n, dtype=torch.int64))
        self.max_length = torch.full_like(self.length, t)
        self.min_length = torch.ones_like(self.length)
        self.num_beams = torch.ones_like(self.length)
        self.grammar = torch.zeros_like(self.length)
        self.scores = zeros(n, k, dtype=torch.float32)
        self.done = torch.ones_like(self.length, dtype=torch.bool)
        self.hopeful = torch.ones_like(self.done)  # a running beam may still beat an ended one
        self.ended_tokens = zeros(n, k, t, dtype=torch.int64)
        self.ended_scores = zeros(n, k, dtype=torch.float32)
        self.ended_length = torch.ones_like(self.scores, dtype=torch.int64)
        self.ended = torch.zeros_like(self.scores, dtype=torch.bool)
        self.lanes = torch.arange(k, device=device)
        self.places = torch.arange(t, device=device)
        self.numbers = torch.arange(n, device=device)

    def put(
        self, first: int, cross: Tensor, mask: Tensor, limits: list[Limits], start: int
    ) -> None:
        """Begin sequences in rows `first`, `first` + 1, …

        Args:
            cross: keys and values of the encoder's output (L, B, S', 2·H·w), S' ≤ S.
            mask: what is added to the scores of these positions (B, 1, 1, S').
            start: the decoder's first token.
        """
        new = slice(first, first + len(limits))
        encoded = cross.shape[2]
        self._cross[:, :, new, :, :encoded] = by_head(cross, self.shape)
        self.cross_mask[new] = float("-inf")
        self.cross_mask[new, ..., :encoded] = mask
        self.tokens[new, :, 0] = start
        self.ancestors[new] = 0
        self.length[new] = 1
        self.max_length[new] = self._column([each.max_length for each in limits])
        self.min_length[new] = self._column([each.min_length for each in limits])
        self.num_beams[new] = self._column([each.num_beams for each in limits])
        self.grammar[new] = self._column([each.grammar for each in limits])
        self.scores[new] = NEVER
        self.scores[new, 0] = 0.0
        self.scores[new] = self.scores[new].masked_fill(self._spare(new), float("-inf"))
        self.ended_scores[new] = NEVER
        self.ended[new] = False
        self.hopeful[new] = True
        self.done[new] = False

    def _column(self, values: list[int]) -> Tensor:
        column = torch.tensor(values)
        if self.device.type == "cuda":
            column = column.pin_memory()  # else the copy would wait for all that runs
        return column.to(self.device, non_blocking=True)

    def _spare(self, rows: slice) -> Tensor:
        """Lanes that a row has no beam for: (rows, K)."""
        return self.lanes >= self.num_beams[rows, None]

    def move(self, source: int, target: int, num_positions: int) -> None:
        """Let row `target` be what row `source` is, of which `num_positions` are in use."""
        used = num_positions * self.shape.num_lanes
        self._memory[:, :, target, :, :used] = self._memory[:, :, source, :, :used]
        self._cross[:, :, target] = self._cross[:, :, source]
        for tensor in self._each_row():
            tensor[target] = tensor[source]

    def copy_out(self, row: int, num_positions: int) -> tuple[Tensor, ...]:
        """All of a row, of which `num_positions` are in use."""
        used = num_positions * self.shape.num_lanes
        memory, cross = self._memory[:, :, row, :, :used], self._cross[:, :, row]
        return tuple(part.clone() for part in (memory, cross, *(t[row] for t in self._each_row())))

    def copy_in(self, row: int, parts: tuple[Tensor, ...]) -> None:
        """Let a row be what was copied out."""
        memory, cross, *others = parts
        self._memory[:, :, row, :, : memory.shape[3]] = memory
        self._cross[:, :, row] = cross
        for tensor, value in zip(self._each_row(), others, strict=True):
            tensor[row] = value

    def _each_row(self) -> tuple[Tensor, ...]:
        return (
            self.cross_mask,
            self.tokens,
            self.ancestors,
            self.length,
            self.max_length,
            self.min_length,
            self.num_beams,
            self.grammar,
            self.scores,
            self.done,
            self.hopeful,
            self.ended_tokens,
            self.ended_scores,
            self.ended_length,
            self.ended,
        )

    def clear(self, row: int | slice) -> None:
        """Let the row take no part any more; in a step of few positions it must not be long."""
        self.done[row] = True
        self.length[row] = 1


class View:
    """One step's view of the rows: the first `num_rows`, `num_lanes` of each, `span` positions."""

    def __init__(self, rows: Rows, num_rows: int, num_lanes: int, span: int) -> None:
        self.num_rows, self.num_lanes, self.span = num_rows, num_lanes, span
        self._all_lanes = rows.shape.num_lanes
        self.length = rows.length[:num_rows]
        self.positions = self.length - 1
        self.tokens = rows.tokens[:num_rows, :num_lanes, :span]
        self.lanes = rows.lanes[:num_lanes]
        self.places = rows.places[:span]
        self.last_tokens = self.at(self.positions)
        self.cross_mask = rows.cross_mask[:num_rows]
        self._remember_lanes(rows)
        self.mask = self._seen(rows).to(rows.cross_mask.dtype)
        self._numbers = rows.numbers[:num_rows, None]
        self._targets = self.positions[:, None] * self._all_lanes + self.lanes

    def at(self, positions: Tensor) -> Tensor:
        """The token of each lane at its row's position: (n,) → (n, k)."""
        index = positions[:, None, None].expand(-1, self.num_lanes, 1)
        return self.tokens.gather(2, index).squeeze(2)

    def write(self, memory: Tensor, states: Tensor) -> None:
        """Keep the keys and values (n, k, 2·H·w) of each row's present position."""
        places = memory.permute(1, 3, 0, 2, 4)  # (N, T·K, 2, H, w)
        places[self._numbers, self._targets] = states.unflatten(-1, places.shape[2:])

    def read(self, memory: Tensor) -> Tensor:
        """Keys and values of the span: (2, n, H, span·k, w)."""
        if self.num_lanes == self._all_lanes:
            return memory[:, : self.num_rows, :, : self.span * self.num_lanes]
        by_lane: Tensor = memory.unflatten(3, (-1, self._all_lanes))
        return by_lane[:, : self.num_rows, :, : self.span, 0]

    def _remember_lanes(self, rows: Rows) -> None:
        """Each lane writes its present position itself."""
        if self.num_lanes > 1:
            self.ancestors = rows.ancestors[: self.num_rows, :, : self.span]
            place = self.positions[:, None, None].expand(-1, self.num_lanes, 1)
            own = self.lanes.to(torch.int8)[None, :, None].expand(self.num_rows, -1, 1)
            self.ancestors.scatter_(2, place, own)

    def _seen(self, rows: Rows) -> Tensor:
        """Zero for what a lane descends from, minus infinity for the rest: (n, 1, k, span·k)."""
        seen = (self.places <= self.positions[:, None])[:, None, :, None]
        if self.num_lanes > 1:
            seen = seen & (self.ancestors[..., None] == self.lanes)
        mask = torch.zeros(seen.shape, device=rows.device).masked_fill_(~seen, float("-inf"))
        return mask.flatten(2)[:, None]


def by_head(states: Tensor, shape: Shape) -> Tensor:
    """Keys and values (L, B, S, 2·H·w) as rows keep them: (L, 2, B, H, S, w)."""
    parts: Tensor = states.unflatten(-1, (2, shape.num_heads, shape.head_width))
    return parts.permute(0, 3, 1, 4, 2, 5)
