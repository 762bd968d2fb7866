"""Who comes to an engine, when, and who leaves early: drawn by hypothesis, driven step by step."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle

from hypothesis import strategies as st

from deployments.florence.backend import Job
from deployments.florence.engine.engine import Engine
from deployments.florence.request import Query, Tokens

NEVER = 1_000_000  # steps
MOST_SLOTS = 9
MOST_TOGETHER = 5


@dataclass(frozen=True)
class Visit:
    """A query of a pool, with its own beams and its own longest answer.

    After so many steps it is cancelled, or gives up its slot for a while; after 0 steps it is
    still with the encoder.
    """

    number: int
    num_beams: int
    max_new_tokens: int
    cancelled_after: int = NEVER
    suspended_after: int = NEVER


@dataclass(frozen=True)
class Traffic:
    """Visits in their order; `groups` says how many may begin before each step, in turns."""

    visits: tuple[Visit, ...]
    groups: tuple[int, ...]
    num_slots: int
    micro_batch: int
    ahead: bool = False


@st.composite
def traffics(
    draw: st.DrawFn, num_queries: int, beams: Sequence[int], lengths: Sequence[int]
) -> Traffic:
    """Any order, any sizes, and any number who leave."""
    steps = st.just(NEVER) | st.just(NEVER) | st.integers(0, max(lengths))
    visits = st.builds(
        Visit,
        st.integers(0, num_queries - 1),
        st.sampled_from(beams),
        st.sampled_from(lengths),
        cancelled_after=steps,
        suspended_after=steps,
    )
    num_slots = draw(st.integers(1, MOST_SLOTS))
    return Traffic(
        tuple(draw(st.lists(visits, min_size=1, max_size=16))),
        (*draw(st.lists(st.integers(0, MOST_TOGETHER), max_size=6)), 1),
        num_slots,
        draw(st.integers(1, min(num_slots, MOST_TOGETHER))),
        draw(st.booleans()),
    )


def drive(engine: Engine, queries: Sequence[Query], traffic: Traffic) -> dict[int, Tokens]:
    """The answers of those who were not cancelled before they had one, by the visits' numbers."""
    return Drive(engine, queries, traffic).answers()


class Drive:
    """Visits on their way through an engine."""

    def __init__(self, engine: Engine, queries: Sequence[Query], traffic: Traffic) -> None:
        self._engine = engine
        self._groups = cycle(traffic.groups)
        self._jobs = [Job(asked(queries, visit)) for visit in traffic.visits]
        self._visits = dict(zip(self._jobs, traffic.visits, strict=True))
        self._waiting = deque(self._jobs)
        self._steps: dict[Job[Query], int] = {}  # of each that has begun and is still there

    def answers(self) -> dict[int, Tokens]:
        """Let everyone come, go on and leave."""
        found: dict[int, Tokens] = {}
        while self._waiting or self._steps:
            self._begin(next(self._groups))
            self._cancel()
            for job, tokens in self._engine.step():
                del self._steps[job]  # fails for who has left, and for who has an answer
                found[self._jobs.index(job)] = tokens
            for job in self._running():
                self._steps[job] += 1
            self._suspend()
        return found

    def _running(self) -> list[Job[Query]]:
        return [job for job in self._steps if job not in self._waiting]

    def _begin(self, most: int) -> None:
        free = self._engine.num_slots - len(self._running())
        count = min(most, free, self._engine.micro_batch, len(self._waiting))
        new = [self._waiting.popleft() for _ in range(count)]
        if new:
            self._engine.admit(new)
        for job in new:
            self._steps.setdefault(job, 0)

    def _cancel(self) -> None:
        for job, steps in list(self._steps.items()):
            if steps == self._visits[job].cancelled_after:
                self._engine.drop(job)
                del self._steps[job]
                if job in self._waiting:
                    self._waiting.remove(job)

    def _suspend(self) -> None:
        for job in self._running():
            if self._steps[job] == self._visits[job].suspended_after and self._engine.suspend(job):
                self._waiting.append(job)


def asked(queries: Sequence[Query], visit: Visit) -> Query:
    """The visit's query."""
    query = queries[visit.number]
    return replace(query, num_beams=visit.num_beams, max_new_tokens=visit.max_new_tokens)
