"""Which token comes next: greedy or beam search, for every sequence at its own length.

The rules and their order are transformers' (5.23, `generation/logits_process.py` and
`GenerationMixin._beam_search`), so that a sequence comes out as if `generate` had run it alone.
All of it stays on the device; a sequence that is done no longer changes.
Shapes: n sequences, k beams, V tokens of the vocabulary, T positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from deployments.florence.engine.batch import NEVER, BatchView, DecoderBatch
from deployments.florence.sequence import Grammar

INFINITY = float("inf")
BOX = 4  # location tokens of a box
NO_BIN = -1  # the bin of a token that is no location


@dataclass(frozen=True)
class GenerationRules:
    """What a checkpoint's generation config says about every sequence.

    `forced_bos` and `forced_eos` are None where nothing is forced;
    `ngram` is the length of the n-grams that may not come twice, 0 for none.
    """

    start: int
    pad: int
    eos: int
    forced_bos: int | None
    forced_eos: int | None
    ngram: int
    early_stopping: bool | str
    length_penalty: float


class BoxGrammar:
    """Constrained decoding: boxes that are complete and have their corners in order.

    Florence-2 writes a box as four location tokens, x1 y1 x2 y2. Inside such a group only
    locations may come, the third beyond the first and the fourth beyond the second; a sequence of
    nothing but boxes may only go on or end between two of them. What a well-behaved model writes
    does not change.

    Args:
        bins: location tokens: id → bin.
        vocab_size: V.
    """

    def __init__(
        self, bins: Mapping[int, int], vocab_size: int, eos: int, batch: DecoderBatch
    ) -> None:
        table = torch.full((vocab_size,), NO_BIN)
        for id_, bin_ in bins.items():
            table[id_] = bin_
        self._bins = table.to(batch.device)
        self._last_bin = max(bins.values())
        self._between = self._bins != NO_BIN
        self._between[eos] = True
        self._batch = batch

    def restrict(self, scores: Tensor, view: BatchView) -> None:
        """Rule out in `scores` (n, k, V) what each sequence's grammar forbids."""
        kind = self._batch.grammar[: view.size, None]
        in_group = self._num_locations(view) % BOX
        allowed = self._bins > self._least(in_group, view)[..., None]
        allowed |= ((in_group == 0) & (kind != Grammar.BOXES))[..., None]
        allowed |= ((in_group == 0) & (kind == Grammar.BOXES))[..., None] & self._between
        allowed |= (kind == Grammar.FREE)[..., None]
        scores.masked_fill_(~allowed, -INFINITY)

    def _num_locations(self, view: BatchView) -> Tensor:
        """The location tokens at the end of each beam: (n, k)."""
        other = self._bins[view.tokens] == NO_BIN
        other &= (view.positions < view.length[:, None])[:, None]
        last_other = torch.where(other, view.positions, NO_BIN).amax(dim=-1)
        return view.current[:, None] - last_other

    def _least(self, in_group: Tensor, view: BatchView) -> Tensor:
        """The bin that the next location must be beyond: (n, k)."""
        corner = self._bins[view.at((view.length - 2).clamp(min=0))]
        return torch.where(in_group >= 2, corner.clamp(max=self._last_bin - 1), NO_BIN)


class Search:
    """Chooses the next token of each sequence and appends it."""

    def __init__(
        self, rules: GenerationRules, batch: DecoderBatch, grammar: BoxGrammar | None = None
    ) -> None:
        self._rules = rules
        self._grammar = grammar
        self._batch = batch
        lengths = range(batch.shape.num_positions + 1)
        penalties = [max(length, 1) ** rules.length_penalty for length in lengths]
        self._penalties = torch.tensor(penalties, dtype=torch.float32, device=batch.device)

    def __call__(self, logits: Tensor, view: BatchView) -> None:
        """Append to each sequence the token that follows from its `logits` (n, k, V)."""
        if view.num_beams == 1:
            self._greedy(logits.float(), view)
        else:
            self._beams(logits.float(), view)

    def _greedy(self, logits: Tensor, view: BatchView) -> None:
        batch, n = self._batch, view.size
        self._restrict(logits, view)
        chosen = logits.argmax(dim=-1)[:, 0]
        length, done = batch.length[:n], batch.done[:n]
        ended = (chosen == self._rules.eos) | (length + 1 >= batch.max_length[:n])
        self._append(chosen, length, done)
        length += ~done
        now = ended & ~done
        self._set_tokens(batch.ended_tokens, batch.tokens[:n, :, : view.span + 1], now)
        self._set(batch.ended_length, length[:, None], now)
        done |= ended

    def _append(self, chosen: Tensor, length: Tensor, done: Tensor) -> None:
        """Write each sequence's token behind its last one, unless it is done."""
        tokens = self._batch.tokens[: len(chosen), 0]
        end = length.clamp(max=tokens.shape[1] - 1)[:, None]
        kept = torch.where(done[:, None], tokens.gather(1, end), chosen[:, None])
        tokens.scatter_(1, end, kept)

    def _restrict(self, scores: Tensor, view: BatchView) -> None:
        """Rule out in `scores` (n, k, V) what may not come next, as transformers' processors do."""
        rules = self._rules
        self._ban_repetition(scores, view)
        if self._grammar is not None:
            self._grammar.restrict(scores, view)
        too_short = view.length < self._batch.min_length[: view.size]
        scores[..., rules.eos].masked_fill_(too_short[:, None], -INFINITY)
        if rules.forced_bos is not None:
            force(scores, view.length == 1, rules.forced_bos)
        if rules.forced_eos is not None:
            last = view.length == self._batch.max_length[: view.size] - 1
            force(scores, last, rules.forced_eos)

    def _ban_repetition(self, scores: Tensor, view: BatchView) -> None:
        """Rule out the tokens that would complete an n-gram for the second time."""
        size = self._rules.ngram
        if size == 0 or view.span < size:
            return
        windows = view.tokens.unfold(2, size, 1)  # (n, k, windows, size)
        again = view.positions[size - 1 :] < view.length[:, None]
        again = again[:, None].expand(-1, view.num_beams, -1)
        for back in range(1, size):
            before = view.at((view.length - back).clamp(min=0))
            again = again & (windows[..., size - 1 - back] == before[..., None])
        ban = torch.zeros(again.shape, device=scores.device).masked_fill_(again, -INFINITY)
        scores.scatter_add_(2, windows[..., -1], ban)

    def _beams(self, logits: Tensor, view: BatchView) -> None:
        """A step of transformers' beam search; sequences with one beam go on greedily."""
        batch, rules, n, k = self._batch, self._rules, view.size, view.num_beams
        num_beams = batch.num_beams[:n, None]
        length = batch.length[:n, None]
        scores = logits.log_softmax(dim=-1)
        self._restrict(scores, view)
        totals = (scores + batch.scores[:n, :, None]).flatten(1)
        best, index = totals.topk(2 * k)
        parents, chosen = index // logits.shape[-1], index % logits.shape[-1]
        order = torch.arange(2 * k, device=best.device)
        best = best.masked_fill(order >= 2 * num_beams, -INFINITY)
        over = (chosen == rules.eos) | (length + 1 >= batch.max_length[:n, None])
        candidates = self._extended(parents, chosen, view)

        running, kept = (best + over * NEVER).topk(k)
        running = running.masked_fill(view.beams >= num_beams, -INFINITY)

        improvable = batch.can_improve[:n, None]
        ended = over & (order < num_beams)
        finals = best / self._penalties[length]
        finals = finals + self._are_full(view) * NEVER + ~improvable * NEVER + ~ended * NEVER
        merged = torch.cat([batch.ended_scores[:n], finals], dim=1)
        ended_scores, winners = merged.topk(k)
        ended_flags = torch.cat([batch.ended[:n], ended], dim=1).gather(1, winners)
        lengths = torch.cat([batch.ended_length[:n], (length + 1).expand(-1, 2 * k)], dim=1)
        tokens = torch.cat([batch.ended_tokens[:n, :, : view.span + 1], candidates], dim=1)

        going = ~batch.done[:n]
        self._set(batch.ended_scores, ended_scores, going)
        self._set(batch.ended, ended_flags, going)
        self._set(batch.ended_length, lengths.gather(1, winners), going)
        self._set_tokens(batch.ended_tokens, taken(tokens, winners), going)
        self._set(batch.scores, running, going)
        self._set_tokens(batch.tokens, taken(candidates, kept), going)
        origins = taken(view.ancestors, parents.gather(1, kept))
        self._set_tokens(batch.ancestors, origins, going)
        batch.length[:n] += going
        self._conclude(over | (order >= 2 * num_beams), view, going)

    def _extended(self, parents: Tensor, chosen: Tensor, view: BatchView) -> Tensor:
        """The tokens of all candidates, one more than before: (n, 2k, span + 1)."""
        tokens = taken(self._batch.tokens[: view.size, :, : view.span + 1], parents)
        end = view.length.clamp(max=tokens.shape[2] - 1)
        end = end[:, None, None].expand(-1, chosen.shape[1], 1)
        return tokens.scatter(2, end, chosen[..., None])

    def _are_full(self, view: BatchView) -> Tensor:
        """Which sequences have as many ended beams as beams, and need no better one: (n, 1)."""
        num_beams = self._batch.num_beams[: view.size, None]
        unused = view.beams >= num_beams
        full = (self._batch.ended[: view.size] | unused).all(dim=1, keepdim=True)
        return full if self._rules.early_stopping is True else full & (num_beams == 1)

    def _conclude(self, over: Tensor, view: BatchView, going: Tensor) -> None:
        """Mark the sequences whose search is at its end."""
        batch, n = self._batch, view.size
        unused = view.beams >= batch.num_beams[:n, None]
        worst = batch.ended_scores[:n].masked_fill(unused, INFINITY).amin(dim=1, keepdim=True)
        worst = worst.where(batch.ended[:n], NEVER).masked_fill(unused, INFINITY)
        reach = self._reach(view)
        can_improve = (batch.scores[:n, :1] / self._penalties[reach][:, None] > worst).any(dim=1)
        batch.can_improve[:n] &= can_improve | ~going
        going_on = batch.can_improve[:n] & ~self._are_full(view)[:, 0] & ~over.all(dim=1)
        batch.done[:n] |= ~going_on

    def _reach(self, view: BatchView) -> Tensor:
        """The length at which a running beam is compared with the ended ones."""
        if self._rules.early_stopping == "never" and self._rules.length_penalty > 0:
            return self._batch.max_length[: view.size] - 1
        return self._batch.length[: view.size] - 1

    def _set(self, target: Tensor, values: Tensor, chosen: Tensor) -> None:
        """Write `values` (n, k) where `chosen` (n)."""
        old = target[: len(values)]
        old.copy_(torch.where(chosen[:, None], values, old))

    def _set_tokens(self, target: Tensor, values: Tensor, chosen: Tensor) -> None:
        """The same for tokens (n, k, span)."""
        old = target[: len(values), :, : values.shape[2]]
        old.copy_(torch.where(chosen[:, None, None], values, old))


def force(scores: Tensor, chosen: Tensor, token: int) -> None:
    """Leave `token` alone, with a score of zero, in `scores` (n, k, V) where `chosen` (n)."""
    scores.masked_fill_(chosen[:, None, None], -INFINITY)
    scores[..., token].masked_fill_(chosen[:, None], 0.0)


def taken(tokens: Tensor, index: Tensor) -> Tensor:
    """The tokens (n, ·, T) of the beams in `index` (n, m)."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[2]))
