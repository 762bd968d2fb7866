"""Drives an engine as the batcher does, without its thread: who waits, who begins, who is done."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from deployments.florence.backend import Job
from deployments.florence.engine.engine import Engine
from deployments.florence.request import Query, Tokens
from deployments.florence.scheduler import Schedule


@dataclass(order=True)
class Entry:
    """A query in line."""

    number: int
    job: Job[Query] = field(compare=False)
    arrived: float = field(compare=False, default_factory=time.perf_counter)
    cost: float = field(compare=False, default=1.0)


class Driver:
    """Answers queries with at most `num_slots` under way; the next ones always wait already.

    Args:
        patience_s: how long a free slot waits for others, so that more images are read together.
    """

    def __init__(
        self, engine: Engine, queries: Iterable[Query], num_slots: int, patience_s: float
    ) -> None:
        self._engine = engine
        self._queries = enumerate(queries)
        self._num_slots = num_slots
        self._schedule: Schedule[Entry] = Schedule(
            num_slots=num_slots,
            micro_batch=min(engine.micro_batch, num_slots),
            patience_s=patience_s,
            max_waiting=num_slots,
            max_cost=float("inf"),
        )
        self._running: dict[Job[Query], int] = {}
        self.num_steps = 0
        self._num_rows = 0  # of all steps together

    @property
    def mean_rows(self) -> float:
        """Sequences under way in a step, on average."""
        return self._num_rows / max(1, self.num_steps)

    def answers(self) -> Iterator[tuple[int, Tokens]]:
        """The number of each query and the answer to it, as they end."""
        while self._line_up() or self._running:
            self._begin()
            if self._running:
                yield from self._step()

    def _line_up(self) -> bool:
        """Let queries wait, enough for all slots; whether any does."""
        while len(self._schedule) < self._num_slots:
            number, query = next(self._queries, (None, None))
            if number is None or query is None:
                break
            self._schedule.add(Entry(number, Job(query)))
        return len(self._schedule) > 0

    def _begin(self) -> None:
        entries = self._schedule.take(len(self._running), time.perf_counter())
        if entries:
            self._engine.admit([entry.job for entry in entries])
            self._running |= {entry.job: entry.number for entry in entries}

    def _step(self) -> Iterator[tuple[int, Tokens]]:
        self.num_steps += 1
        self._num_rows += len(self._running)
        for job, tokens in self._engine.step():
            yield self._running.pop(job), tokens
