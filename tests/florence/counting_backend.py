"""A backend for tests: it computes nothing, the test permits its steps, and it checks its calls."""

import asyncio
import threading
from collections.abc import Iterable

import numpy as np

from deployments.florence.sequence import Progress, Sequence, Sequences

SOON_S = 30.0  # the longest that a test waits for what must happen


class Item(Sequence):
    """A sequence that takes some steps, or makes the model fail when it begins or at a step.

    Its tokens are its number in the test, and the steps that it took.
    """

    def __init__(
        self,
        id_: int,
        steps: int = 1,
        fails_at: int | None = None,
        error: type[BaseException] = ValueError,
        **fields: float,
    ) -> None:
        super().__init__(np.zeros((1, 1, 3), np.uint8), (), **fields)  # type: ignore[arg-type]
        self.id = id_
        self.steps = steps
        self.fails_at = fails_at
        self.error = error


def poison(
    id_: int, fails_at: int = 1, steps: int = 1, error: type[BaseException] = ValueError
) -> Item:
    """An item that makes a step fail; step 0 is its beginning."""
    return Item(id_, steps, fails_at, error)


class CountingBackend:
    """A backend that counts each item's steps; a step waits for a permit from `open`."""

    can_preempt = True

    def __init__(
        self, max_batch_size: int = 4, prefill_batch_size: int = 4, fits: int = 100
    ) -> None:
        self.max_batch_size = max_batch_size
        self.prefill_batch_size = prefill_batch_size
        self.fits = fits  # most items that there is memory to begin together
        self.steps: list[tuple[int, ...]] = []
        self.begun: list[tuple[int, ...]] = []
        self.reported: list[int] = []
        self.faults: list[str] = []
        self.probes = 0
        self.is_sick = False  # whether the device fails whatever it is asked for
        self.sickness: type[BaseException] = RuntimeError
        self._permits = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        self._taken: dict[Sequence, int] = {}
        self._preempted: dict[Sequence, int] = {}
        self._threads: set[int] = set()
        self._must_reset = False

    def add(self, sequences: Sequences) -> None:
        """See Backend."""
        self._expect(0 < len(sequences) <= self.prefill_batch_size, "more than may begin")
        self._expect(len(self._taken) + len(sequences) <= self.max_batch_size, "no place")
        self._expect(not self._taken.keys() & set(sequences), "the same sequence twice")
        self.begun.append(ids(sequences))
        if len(sequences) > self.fits:
            raise MemoryError
        self._fail(sequences, at=0)
        self._taken |= {each: self._preempted.pop(each, 0) for each in sequences}

    def step(self) -> Sequences:
        """See Backend."""
        self._expect(bool(self._taken), "a step without sequences")
        self.steps.append(ids(self._taken))
        self.entered.release()
        assert self._permits.acquire(timeout=SOON_S)
        self._must_reset = True
        for each, taken in self._taken.items():
            self._fail([each], at=taken + 1)
        self._must_reset = False
        self._taken = {each: taken + 1 for each, taken in self._taken.items()}
        ended = [each for each, taken in self._taken.items() if taken == item(each).steps]
        for each in ended:
            each.tokens = (item(each).id, self._taken.pop(each))
        return ended

    def probe(self) -> None:
        """See Backend."""
        self._expect(len(self._taken) < self.max_batch_size, "no place for the example")
        self.probes += 1
        self._fail([], at=0)

    def preempt(self, sequence: Sequence) -> bool:
        """See Backend."""
        self._expect(len(self._taken) == self.max_batch_size, "a place is free")
        if self.can_preempt:
            self._preempted[sequence] = self._taken.pop(sequence)
        return self.can_preempt

    def drop(self, sequence: Sequence) -> None:
        """See Backend."""
        is_here = (sequence in self._taken) != (sequence in self._preempted)
        self._expect(is_here, "a sequence that is not here")
        self._taken.pop(sequence, None)
        self._preempted.pop(sequence, None)

    def reset(self) -> None:
        """See Backend."""
        self._must_reset = False
        self._taken = {}
        self._preempted = {}

    def progress(self, sequences: Sequences) -> dict[Sequence, Progress]:
        """See Backend."""
        self.reported += [item(each).id for each in sequences]
        return {each: Progress((item(each).id, self._taken[each])) for each in sequences}

    async def is_busy(self) -> None:
        """Wait for the next step to begin."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=SOON_S)

    def is_empty(self) -> bool:
        """Whether it holds no sequence."""
        return not self._taken and not self._preempted

    def open(self, steps: int = 10_000) -> None:
        """Permit `steps` more steps."""
        self._permits.release(steps)

    def _fail(self, sequences: Sequences, at: int) -> None:
        if self.is_sick:
            raise self.sickness("the device is lost\nand more")
        for each in map(item, sequences):
            if each.fails_at == at:
                raise each.error(f"item {each.id}")

    def _expect(self, is_so: bool, fault: str) -> None:
        """Record a fault of the batcher. Raising would look like an error of the model."""
        self._threads.add(threading.get_ident())
        if not is_so or len(self._threads) > 1 or self._must_reset:
            self.faults.append(fault)


def item(sequence: Sequence) -> Item:
    """The sequence, which is one of these."""
    assert isinstance(sequence, Item)
    return sequence


def ids(sequences: Iterable[Sequence]) -> tuple[int, ...]:
    """The items' numbers in the test."""
    return tuple(item(each).id for each in sequences)
