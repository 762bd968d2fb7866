"""Drives an engine as the batcher does, without its thread: schedule, add, step."""

import time
from collections.abc import Iterable, Iterator

from deployments.florence.engine.engine import Engine
from deployments.florence.scheduler import Scheduler
from deployments.florence.sequence import Sequence


class Driver:
    """Runs at most `max_batch_size` sequences at a time; the next ones always wait already.

    Args:
        max_wait_s: how long a free place waits for others, so that more images are read together.
    """

    def __init__(
        self,
        engine: Engine,
        sequences: Iterable[Sequence],
        max_batch_size: int,
        max_wait_s: float,
    ) -> None:
        self._engine = engine
        self._coming = enumerate(sequences)
        self._max_batch_size = max_batch_size
        self._scheduler: Scheduler[Sequence] = Scheduler(
            max_batch_size=max_batch_size,
            prefill_batch_size=min(engine.prefill_batch_size, max_batch_size),
            max_wait_s=max_wait_s,
            max_queue=max_batch_size,
            max_queue_tokens=float("inf"),
        )
        self._num_running = 0
        self.num_steps = 0
        self._num_sequences = 0  # of all steps together

    @property
    def mean_batch_size(self) -> float:
        return self._num_sequences / max(1, self.num_steps)

    def run(self) -> Iterator[Sequence]:
        """The sequences as they end; their `number` is their place in the order given."""
        while self._enqueue() or self._num_running:
            self._begin()
            if self._num_running:
                yield from self._step()

    def _enqueue(self) -> bool:
        """Let sequences wait, enough for all places; whether any does."""
        while len(self._scheduler) < self._max_batch_size:
            number, sequence = next(self._coming, (None, None))
            if number is None or sequence is None:
                break
            sequence.number, sequence.arrived = number, time.perf_counter()
            self._scheduler.add(sequence)
        return len(self._scheduler) > 0

    def _begin(self) -> None:
        sequences = self._scheduler.schedule(self._num_running, time.perf_counter())
        if sequences:
            self._engine.add(sequences)
            self._num_running += len(sequences)

    def _step(self) -> Iterator[Sequence]:
        self.num_steps += 1
        self._num_sequences += self._num_running
        for sequence in self._engine.step():
            self._num_running -= 1
            yield sequence
