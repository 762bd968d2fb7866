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
from torch.nn import functional

from deployments.florence.engine.batch import NEVER, BatchView, DecoderBatch
from deployments.florence.sequence import Grammar
from deployments.florence.token_scores import NEAR_BINS

INFINITY = float("inf")
BOX = 4  # location tokens of a box
NO_TOKEN = -1
NO_BIN = -1  # the bin of a token that is no location


@dataclass(frozen=True)
class GenerationRules:
    """What a checkpoint's generation config says about every sequence.

    `forced_bos` and `forced_eos` are None where nothing is forced;
    `ngram` is the length of the n-grams that may not come twice, 0 for none, unless a sequence
    asks for another.
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
        logprobs = logits.log_softmax(dim=-1) if view.scored else None
        self._restrict(logits, view)
        wanted = self._begun(logits.argmax(dim=-1), view)
        chosen = self._ended(wanted, view)
        length, done = batch.length[:n], batch.done[:n]
        at_limit = length + 1 >= batch.max_length[:n]
        ended = (chosen[:, 0] == self._rules.eos) | at_limit
        now = ended & ~done
        if logprobs is not None:
            choices = choices_of(logprobs, torch.zeros_like(chosen), chosen)
            self._keep(choices, length)
            self._set_tokens(batch.ended_choices, choices, now)
        self._append(chosen[:, 0], length, done)
        length += ~done
        self._set_tokens(batch.ended_tokens, batch.tokens[:n, :, : view.span + 1], now)
        self._set(batch.ended_length, length[:, None], now)
        self._set(batch.ended_truncated, at_limit[:, None] & (wanted != self._rules.eos), now)
        done |= ended

    def _begun(self, chosen: Tensor, view: BatchView) -> Tensor:
        """The tokens (n, k) that beams choose, where the first is forced."""
        bos = self._rules.forced_bos
        return chosen if bos is None else chosen.masked_fill((view.length == 1)[:, None], bos)

    def _ended(self, chosen: Tensor, view: BatchView) -> Tensor:
        """The tokens (n, k) that beams choose, where the last is forced."""
        eos = self._rules.forced_eos
        return chosen if eos is None else chosen.masked_fill(self._is_last(view)[:, None], eos)

    def _is_last(self, view: BatchView) -> Tensor:
        """Which sequences may have one more token and no other: (n,)."""
        return view.length == self._batch.max_length[: view.size] - 1

    def _keep(self, choices: Tensor, length: Tensor) -> None:
        """Keep what is known of the next token of each beam: (n, k, CHOICE)."""
        n, k, _ = choices.shape
        place = length[:, None, None, None].expand(n, k, 1, choices.shape[2])
        self._batch.choices[:n, :k].scatter_(2, place, choices[:, :, None])

    def _append(self, chosen: Tensor, length: Tensor, done: Tensor) -> None:
        """Write each sequence's token behind its last one, unless it is done."""
        tokens = self._batch.tokens[: len(chosen), 0]
        end = length.clamp(max=tokens.shape[1] - 1)[:, None]
        kept = torch.where(done[:, None], tokens.gather(1, end), chosen[:, None])
        tokens.scatter_(1, end, kept)

    def _restrict(self, scores: Tensor, view: BatchView) -> None:
        """Rule out in `scores` (n, k, V) what may not come next, as transformers' processors do.

        What must come is the matter of `_begun` and `_ended`.
        """
        rules = self._rules
        self._ban_repetition(scores, view)
        if self._grammar is not None:
            self._grammar.restrict(scores, view)
        too_short = view.length < self._batch.min_length[: view.size]
        scores[..., rules.eos].masked_fill_(too_short[:, None], -INFINITY)

    def _ban_repetition(self, scores: Tensor, view: BatchView) -> None:
        """Rule out the tokens that would complete an n-gram for the second time."""
        others = view.ngram - 1  # tokens of the longest n-gram before its last one
        if others < 0:
            return
        ngram = self._batch.ngram[: view.size]
        padded = functional.pad(view.tokens, (others, 0), value=NO_TOKEN)
        before = padded.unfold(2, max(others, 1), 1)[:, :, : view.span, :others]  # each token
        place = (view.length[:, None] + torch.arange(others, device=scores.device))[:, None]
        last = padded.gather(2, place.expand(-1, view.num_beams, -1))  # the tokens at the end
        backs = torch.arange(others, 0, -1, device=scores.device)
        beyond = (backs >= ngram[:, None])[:, None, None]  # what a sequence's own are too short for
        again = ((before == last[:, :, None]) | beyond).all(dim=-1)
        again &= ((view.positions < view.length[:, None]) & (ngram > 0)[:, None])[:, None]
        ban = torch.zeros(again.shape, device=scores.device).masked_fill_(again, -INFINITY)
        scores.scatter_add_(2, view.tokens, ban)

    def _beams(self, logits: Tensor, view: BatchView) -> None:
        """A step of transformers' beam search; sequences with one beam go on greedily."""
        batch, rules, n, k = self._batch, self._rules, view.size, view.num_beams
        num_beams = batch.num_beams[:n, None]
        length = batch.length[:n, None]
        scores = logits.log_softmax(dim=-1)
        logprobs = scores.clone() if view.scored else None
        self._restrict(scores, view)
        best, parents, chosen, wanted = self._candidates(scores, view)
        order = torch.arange(2 * k, device=best.device)
        best = best.masked_fill(order >= 2 * num_beams, -INFINITY)
        at_limit = length + 1 >= batch.max_length[:n, None]
        over = (chosen == rules.eos) | at_limit
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
        truncated = torch.cat([batch.ended_truncated[:n], at_limit & (wanted != rules.eos)], dim=1)
        tokens = torch.cat([batch.ended_tokens[:n, :, : view.span + 1], candidates], dim=1)

        going = ~batch.done[:n]
        self._set(batch.ended_scores, ended_scores, going)
        self._set(batch.ended, ended_flags, going)
        self._set(batch.ended_length, lengths.gather(1, winners), going)
        self._set(batch.ended_truncated, truncated.gather(1, winners), going)
        self._set_tokens(batch.ended_tokens, taken(tokens, winners), going)
        self._set(batch.scores, running, going)
        self._set_tokens(batch.tokens, taken(candidates, kept), going)
        if logprobs is not None:
            choices = choices_of(logprobs, parents, chosen)
            self._keep(taken(choices, kept), length[:, 0])
            choices = torch.cat([batch.ended_choices[:n], choices], dim=1)
            self._set_tokens(batch.ended_choices, taken(choices, winners), going)
        origins = taken(view.ancestors, parents.gather(1, kept))
        self._set_tokens(batch.ancestors, origins, going)
        batch.length[:n] += going
        self._conclude(over | (order >= 2 * num_beams), view, going)

    def _candidates(self, scores: Tensor, view: BatchView) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The best 2k tokens to go on with, by their `scores` (n, k, V).

        Their totals, the beams before them, the tokens, and what they would be if no end were
        forced: (n, 2k) each.
        """
        rules, k = self._rules, view.num_beams
        before = self._batch.scores[: view.size]
        totals, tokens = (scores + before[..., None]).topk(min(2 * k, scores.shape[-1]))
        best, index = totals.flatten(1).topk(2 * k)
        parents, chosen = index // totals.shape[-1], tokens.flatten(1).gather(1, index)
        wanted = self._begun(tokens[..., 0], view)  # the best one of each beam
        forced = self._ended(wanted, view)
        is_forced = torch.zeros_like(view.length, dtype=torch.bool)
        if rules.forced_bos is not None:
            is_forced = is_forced | (view.length == 1)
        if rules.forced_eos is not None:
            is_forced = is_forced | self._is_last(view)
        none = torch.full_like(before, -INFINITY)
        best = torch.where(is_forced[:, None], torch.cat([before, none], dim=1), best)
        parents = torch.where(is_forced[:, None], view.beams.repeat(2), parents)
        chosen = torch.where(is_forced[:, None], torch.cat([forced, forced], dim=1), chosen)
        if rules.forced_eos is None:
            return best, parents, chosen, chosen
        return best, parents, chosen, wanted.gather(1, parents)

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


def choices_of(logprobs: Tensor, parents: Tensor, chosen: Tensor) -> Tensor:
    """What is kept of the tokens `chosen` (n, m) after the beams `parents`: (n, m, CHOICE).

    The log-probabilities of the ids about each one's own, out of `logprobs` (n, k, V), and its
    parent, by which the way to it is found again.
    """
    words = logprobs.shape[-1]
    about = torch.arange(-NEAR_BINS, NEAR_BINS + 1, device=chosen.device)
    ids = (chosen[..., None] + about).clamp(0, words - 1) + words * parents[..., None]
    window = logprobs.flatten(1).gather(1, ids.flatten(1)).view(ids.shape)
    return torch.cat([window, parents[..., None].float()], dim=-1)


def taken(tokens: Tensor, index: Tensor) -> Tensor:
    """The tokens (n, ·, T) of the beams in `index` (n, m)."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[2]))
