"""A backend for tests that computes nothing but obeys, and watches how it is used."""

import asyncio
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from deployments.florence.backend import Job

SOON_S = 30.0  # the longest that a test waits for what must happen

Said = tuple[int, int]  # an item's number, and the steps that it has had


@dataclass(frozen=True)
class Item:
    """What takes some steps, or makes the model fail when it begins or at its step `fails_at`."""

    number: int
    num_steps: int = 1
    fails_at: int | None = None
    error: type[BaseException] = ValueError


def poison(number: int, fails_at: int = 1, **more: Any) -> Item:
    """An item that makes its first step fail, or its beginning: step 0."""
    return Item(number, fails_at=fails_at, **more)


class Countdown:
    """A backend that counts each job's steps; a step waits until its gate lets it through."""

    can_suspend = True

    def __init__(self, num_slots: int = 4, micro_batch: int = 4, fits: int = 100) -> None:
        self.num_slots = num_slots
        self.micro_batch = micro_batch
        self.fits = fits  # most jobs that there is memory to begin together
        self.steps: list[tuple[int, ...]] = []
        self.begun: list[tuple[int, ...]] = []
        self.told: list[int] = []
        self.faults: list[str] = []
        self.gate = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        self._taken: dict[Job[Item], int] = {}
        self._parked: dict[Job[Item], int] = {}
        self._threads: set[int] = set()
        self._must_reset = False

    def admit(self, jobs: Sequence[Job[Item]]) -> None:
        """See Backend."""
        self._expect(0 < len(jobs) <= self.micro_batch, "more than a micro-batch")
        self._expect(len(self._taken) + len(jobs) <= self.num_slots, "more than there are slots")
        self._expect(not self._taken.keys() & set(jobs), "the same job twice")
        self.begun.append(numbers(jobs))
        if len(jobs) > self.fits:
            raise MemoryError
        self._fail(jobs, at=0)
        self._taken |= {job: self._parked.pop(job, 0) for job in jobs}

    def step(self) -> list[tuple[Job[Item], Said]]:
        """See Backend."""
        self._expect(bool(self._taken), "a step of nobody")
        self.steps.append(numbers(self._taken))
        self.entered.release()
        assert self.gate.acquire(timeout=SOON_S)
        self._must_reset = True
        for job, taken in self._taken.items():
            self._fail([job], at=taken + 1)
        self._must_reset = False
        self._taken = {job: taken + 1 for job, taken in self._taken.items()}
        ended = [job for job, taken in self._taken.items() if taken == job.item.num_steps]
        return [(job, (job.item.number, self._taken.pop(job))) for job in ended]

    def suspend(self, job: Job[Item]) -> bool:
        """See Backend."""
        self._expect(len(self._taken) == self.num_slots, "a slot is free")
        if self.can_suspend:
            self._parked[job] = self._taken.pop(job)
        return self.can_suspend

    def drop(self, job: Job[Item]) -> None:
        """See Backend."""
        self._expect((job in self._taken) != (job in self._parked), "a job that is not here")
        self._taken.pop(job, None)
        self._parked.pop(job, None)

    def reset(self) -> None:
        """See Backend."""
        self._must_reset = False
        self._taken = {}
        self._parked = {}

    def progress(self, job: Job[Item]) -> Said:
        """See Backend."""
        self.told.append(job.item.number)
        return job.item.number, self._taken[job]

    async def is_busy(self) -> None:
        """Wait for the next step to begin."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=SOON_S)

    def is_empty(self) -> bool:
        """Whether it has nothing to remember."""
        return not self._taken and not self._parked

    def open(self, steps: int = 10_000) -> None:
        """Let `steps` steps through."""
        self.gate.release(steps)

    def _fail(self, jobs: Sequence[Job[Item]], at: int) -> None:
        for job in jobs:
            if job.item.fails_at == at:
                raise job.item.error(f"item {job.item.number}")

    def _expect(self, is_so: bool, fault: str) -> None:
        """Note what the batcher does wrong: an error here would look like one of the model."""
        self._threads.add(threading.get_ident())
        if not is_so or len(self._threads) > 1 or self._must_reset:
            self.faults.append(fault)


def numbers(jobs: Iterable[Job[Item]]) -> tuple[int, ...]:
    """The numbers of the jobs' items."""
    return tuple(job.item.number for job in jobs)
