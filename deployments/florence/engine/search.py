"""Which token comes next: greedy or beam search, for every row at its own length.

The rules and their order are transformers' (5.23, `generation/logits_process.py` and
`GenerationMixin._beam_search`), so that a sequence comes out as if `generate` had run it alone.
All of it stays on the device; a row that is done no longer changes.
Shapes: n rows, k lanes, V words, T positions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from deployments.florence.engine.grammar import Boxes
from deployments.florence.engine.rows import NEVER, Rows, View

INFINITY = float("inf")


@dataclass(frozen=True)
class Rules:
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


class Search:
    """Chooses the next tokens of all rows and writes them down."""

    def __init__(self, rules: Rules, rows: Rows, grammar: Boxes | None = None) -> None:
        self._rules = rules
        self._grammar = grammar
        self._rows = rows
        lengths = range(rows.shape.num_positions + 1)
        penalties = [max(length, 1) ** rules.length_penalty for length in lengths]
        self._penalties = torch.tensor(penalties, dtype=torch.float32, device=rows.device)

    def __call__(self, logits: Tensor, view: View) -> None:
        """Append to each row the token that follows from its `logits` (n, k, V)."""
        if view.num_lanes == 1:
            self._greedy(logits.float(), view)
        else:
            self._beams(logits.float(), view)

    def _greedy(self, logits: Tensor, view: View) -> None:
        rows, n = self._rows, view.num_rows
        self._restrict(logits, view)
        chosen = logits.argmax(dim=-1)[:, 0]
        length, done = rows.length[:n], rows.done[:n]
        ended = (chosen == self._rules.eos) | (length + 1 >= rows.max_length[:n])
        self._append(chosen, length, done)
        length += ~done
        now = ended & ~done
        self._set_tokens(rows.ended_tokens, rows.tokens[:n, :, : view.span + 1], now)
        self._set(rows.ended_length, length[:, None], now)
        done |= ended

    def _append(self, chosen: Tensor, length: Tensor, done: Tensor) -> None:
        """Write each row's token behind its last one, except where it is done."""
        tokens = self._rows.tokens[: len(chosen), 0]
        place = length.clamp(max=tokens.shape[1] - 1)[:, None]
        kept = torch.where(done[:, None], tokens.gather(1, place), chosen[:, None])
        tokens.scatter_(1, place, kept)

    def _restrict(self, scores: Tensor, view: View) -> None:
        """Rule out in `scores` (n, k, V) what may not come next, as transformers' processors do."""
        rules = self._rules
        self._ban_repetition(scores, view)
        if self._grammar is not None:
            self._grammar.restrict(scores, view)
        too_short = view.length < self._rows.min_length[: view.num_rows]
        scores[..., rules.eos].masked_fill_(too_short[:, None], -INFINITY)
        if rules.forced_bos is not None:
            force(scores, view.length == 1, rules.forced_bos)
        if rules.forced_eos is not None:
            last = view.length == self._rows.max_length[: view.num_rows] - 1
            force(scores, last, rules.forced_eos)

    def _ban_repetition(self, scores: Tensor, view: View) -> None:
        """Rule out the tokens that would complete an n-gram for the second time."""
        size = self._rules.ngram
        if size == 0 or view.span < size:
            return
        windows = view.tokens.unfold(2, size, 1)  # (n, k, windows, size)
        again = view.places[size - 1 :] < view.length[:, None]
        again = again[:, None].expand(-1, view.num_lanes, -1)
        for back in range(1, size):
            before = view.at((view.length - back).clamp(min=0))
            again = again & (windows[..., size - 1 - back] == before[..., None])
        ban = torch.zeros(again.shape, device=scores.device).masked_fill_(again, -INFINITY)
        scores.scatter_add_(2, windows[..., -1], ban)

    def _beams(self, logits: Tensor, view: View) -> None:
        """A step of transformers' beam search; rows with one beam go on greedily."""
        rows, rules, n, k = self._rows, self._rules, view.num_rows, view.num_lanes
        num_beams = rows.num_beams[:n, None]
        length = rows.length[:n, None]
        scores = logits.log_softmax(dim=-1)
        self._restrict(scores, view)
        totals = (scores + rows.scores[:n, :, None]).flatten(1)
        best, index = totals.topk(2 * k)
        parents, chosen = index // logits.shape[-1], index % logits.shape[-1]
        order = torch.arange(2 * k, device=best.device)
        best = best.masked_fill(order >= 2 * num_beams, -INFINITY)
        over = (chosen == rules.eos) | (length + 1 >= rows.max_length[:n, None])
        candidates = self._extended(parents, chosen, view)

        running, kept = (best + over * NEVER).topk(k)
        running = running.masked_fill(view.lanes >= num_beams, -INFINITY)

        improvable = rows.hopeful[:n, None]
        ended = over & (order < num_beams)
        finals = best / self._penalties[length]
        finals = finals + self._are_full(view) * NEVER + ~improvable * NEVER + ~ended * NEVER
        merged = torch.cat([rows.ended_scores[:n], finals], dim=1)
        ended_scores, winners = merged.topk(k)
        ended_flags = torch.cat([rows.ended[:n], ended], dim=1).gather(1, winners)
        lengths = torch.cat([rows.ended_length[:n], (length + 1).expand(-1, 2 * k)], dim=1)
        sequences = torch.cat([rows.ended_tokens[:n, :, : view.span + 1], candidates], dim=1)

        going = ~rows.done[:n]
        self._set(rows.ended_scores, ended_scores, going)
        self._set(rows.ended, ended_flags, going)
        self._set(rows.ended_length, lengths.gather(1, winners), going)
        self._set_tokens(rows.ended_tokens, taken(sequences, winners), going)
        self._set(rows.scores, running, going)
        self._set_tokens(rows.tokens, taken(candidates, kept), going)
        origins = taken(view.ancestors, parents.gather(1, kept))
        self._set_tokens(rows.ancestors, origins, going)
        rows.length[:n] += going
        self._conclude(over | (order >= 2 * num_beams), view, going)

    def _extended(self, parents: Tensor, chosen: Tensor, view: View) -> Tensor:
        """The sequences of all candidates, one token longer: (n, 2k, span + 1)."""
        sequences = taken(self._rows.tokens[: view.num_rows, :, : view.span + 1], parents)
        place = view.length.clamp(max=sequences.shape[2] - 1)
        place = place[:, None, None].expand(-1, chosen.shape[1], 1)
        return sequences.scatter(2, place, chosen[..., None])

    def _are_full(self, view: View) -> Tensor:
        """Rows that have as many ended sequences as beams and look for no better: (n, 1)."""
        num_beams = self._rows.num_beams[: view.num_rows, None]
        spare = view.lanes >= num_beams
        full = (self._rows.ended[: view.num_rows] | spare).all(dim=1, keepdim=True)
        return full if self._rules.early_stopping is True else full & (num_beams == 1)

    def _conclude(self, over: Tensor, view: View, going: Tensor) -> None:
        """Find the rows whose search is at its end."""
        rows, n = self._rows, view.num_rows
        spare = view.lanes >= rows.num_beams[:n, None]
        worst = rows.ended_scores[:n].masked_fill(spare, INFINITY).amin(dim=1, keepdim=True)
        worst = worst.where(rows.ended[:n], NEVER).masked_fill(spare, INFINITY)
        reach = self._reach(view)
        hopeful = (rows.scores[:n, :1] / self._penalties[reach][:, None] > worst).any(dim=1)
        rows.hopeful[:n] &= hopeful | ~going
        going_on = rows.hopeful[:n] & ~self._are_full(view)[:, 0] & ~over.all(dim=1)
        rows.done[:n] |= ~going_on

    def _reach(self, view: View) -> Tensor:
        """The length at which a running beam is compared with the ended ones."""
        if self._rules.early_stopping == "never" and self._rules.length_penalty > 0:
            return self._rows.max_length[: view.num_rows] - 1
        return self._rows.length[: view.num_rows] - 1

    def _set(self, target: Tensor, values: Tensor, chosen: Tensor) -> None:
        """Write `values` (n, k) into the chosen rows (n)."""
        rows = target[: len(values)]
        rows.copy_(torch.where(chosen[:, None], values, rows))

    def _set_tokens(self, target: Tensor, values: Tensor, chosen: Tensor) -> None:
        """The same for sequences (n, k, span)."""
        rows = target[: len(values), :, : values.shape[2]]
        rows.copy_(torch.where(chosen[:, None, None], values, rows))


def force(scores: Tensor, rows: Tensor, token: int) -> None:
    """Leave `token` alone, with a score of zero, in the `rows` (n) of `scores` (n, k, V)."""
    scores.masked_fill_(rows[:, None, None], -INFINITY)
    scores[..., token].masked_fill_(rows[:, None], 0.0)


def taken(sequences: Tensor, index: Tensor) -> Tensor:
    """The sequences (n, ·, T) of the lanes in `index` (n, m)."""
    return sequences.gather(1, index[..., None].expand(-1, -1, sequences.shape[2]))
