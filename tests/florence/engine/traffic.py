"""Which sequences come to an engine, when, and which leave early: drawn by hypothesis."""

import collections.abc
from collections import deque
from dataclasses import dataclass, replace
from itertools import cycle

from hypothesis import strategies as st

from deployments.florence.engine.engine import Engine
from deployments.florence.sequence import Sequence

NEVER = 1_000_000  # steps
MOST = 9
MOST_TOGETHER = 5
NGRAMS = (0, 1, 2, 3, 5)


@dataclass(frozen=True)
class Planned:
    """A sequence of a pool, with its own beams, its own longest answer, and its own n-grams.

    It may want the scores of its tokens.
    After so many steps it is cancelled, or preempted; after 0 steps it is still with the encoder.
    """

    number: int
    num_beams: int
    max_new_tokens: int
    cancelled_after: int = NEVER
    preempted_after: int = NEVER
    ngram: int | None = None
    scored: bool = False
    adapter: str = ""


@dataclass(frozen=True)
class Traffic:
    """Sequences in their order; `groups` says how many may begin before each step, in turns."""

    planned: tuple[Planned, ...]
    groups: tuple[int, ...]
    max_batch_size: int
    prefill_batch_size: int
    launch_ahead: bool = False


@st.composite
def traffics(
    draw: st.DrawFn,
    num_sequences: int,
    beams: collections.abc.Sequence[int],
    lengths: collections.abc.Sequence[int],
    adapters: collections.abc.Sequence[str] = ("",),
) -> Traffic:
    """Any order, any sizes, and any number that leave."""
    steps = st.just(NEVER) | st.just(NEVER) | st.integers(0, max(lengths))
    planned = st.builds(
        Planned,
        st.integers(0, num_sequences - 1),
        st.sampled_from(beams),
        st.sampled_from(lengths),
        cancelled_after=steps,
        preempted_after=steps,
        ngram=st.sampled_from((None, *NGRAMS)),
        scored=st.booleans(),
        adapter=st.sampled_from(adapters),
    )
    max_batch_size = draw(st.integers(1, MOST))
    return Traffic(
        tuple(draw(st.lists(planned, min_size=1, max_size=16))),
        (*draw(st.lists(st.integers(0, MOST_TOGETHER), max_size=6)), 1),
        max_batch_size,
        draw(st.integers(1, min(max_batch_size, MOST_TOGETHER))),
        draw(st.booleans()),
    )


class Drive:
    """Sequences on their way through an engine."""

    def __init__(
        self, engine: Engine, pool: collections.abc.Sequence[Sequence], traffic: Traffic
    ) -> None:
        self._engine = engine
        self._groups = cycle(traffic.groups)
        self._sequences = [planned_of(pool, each) for each in traffic.planned]
        self._planned = dict(zip(self._sequences, traffic.planned, strict=True))
        self._waiting = deque(self._sequences)
        self._steps: dict[Sequence, int] = {}  # of each that has begun and is still there

    def ended(self) -> dict[int, Sequence]:
        """Those that were not cancelled before they ended, by their place."""
        found: dict[int, Sequence] = {}
        while self._waiting or self._steps:
            self._begin(next(self._groups))
            self._cancel()
            for sequence in self._engine.step():
                del self._steps[sequence]  # fails for one that has left, or has ended before
                found[self._sequences.index(sequence)] = sequence
            for sequence in self._running():
                self._steps[sequence] += 1
            self._preempt()
        return found

    def _running(self) -> list[Sequence]:
        return [sequence for sequence in self._steps if sequence not in self._waiting]

    def _begin(self, most: int) -> None:
        free = self._engine.max_batch_size - len(self._running())
        count = min(most, free, self._engine.prefill_batch_size, len(self._waiting))
        new = [self._waiting.popleft() for _ in range(count)]
        if new:
            self._engine.add(new)
        for sequence in new:
            self._steps.setdefault(sequence, 0)

    def _cancel(self) -> None:
        for sequence, steps in list(self._steps.items()):
            if steps == self._planned[sequence].cancelled_after:
                self._engine.drop(sequence)
                del self._steps[sequence]
                if sequence in self._waiting:
                    self._waiting.remove(sequence)

    def _preempt(self) -> None:
        for sequence in self._running():
            is_due = self._steps[sequence] == self._planned[sequence].preempted_after
            if is_due and self._engine.preempt(sequence):
                self._waiting.append(sequence)


def planned_of(pool: collections.abc.Sequence[Sequence], planned: Planned) -> Sequence:
    """The planned sequence."""
    return replace(
        pool[planned.number],
        num_beams=planned.num_beams,
        max_new_tokens=planned.max_new_tokens,
        no_repeat_ngram_size=planned.ngram,
        scored=planned.scored,
        adapter=planned.adapter,
    )
