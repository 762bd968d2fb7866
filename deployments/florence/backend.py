"""What the batcher asks of whoever computes: the engine, or transformers' `generate`.

A backend knows neither time nor callers; it is used by one thread.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)


@dataclass(eq=False)
class Job(Generic[T]):
    """One item in the backend; `is_wanted` says whether somebody still waits for its result."""

    item: T
    is_wanted: Callable[[], bool] = lambda: True


class Backend(Protocol[T, R_co]):
    """Works on up to `num_slots` jobs at a time, step by step."""

    @property
    def num_slots(self) -> int:
        """Most jobs at a time."""
        ...

    @property
    def micro_batch(self) -> int:
        """Most jobs of one `admit`, at most `num_slots`."""
        ...

    def admit(self, jobs: Sequence[Job[T]]) -> None:
        """Begin `jobs`, at most as many as there are free slots.

        Raises:
            MemoryError: there is not enough for so many; none has begun.
            Exception: one of them cannot be begun; none has.
        """
        ...

    def step(self) -> Sequence[tuple[Job[T], R_co]]:
        """Take all jobs one step on; those that are finished, with their results.

        Raises:
            Exception: the step failed, and the backend must be reset.
        """
        ...

    def suspend(self, job: Job[T]) -> bool:
        """Take a job out of its slot; it goes on where it was when it is admitted again.

        False when the backend cannot.
        """
        ...

    def drop(self, job: Job[T]) -> None:
        """Forget a job, if it is still there."""
        ...

    def reset(self) -> None:
        """Forget every job, after a step that failed."""
        ...

    def progress(self, job: Job[T]) -> R_co | None:
        """The result so far, where the backend can tell."""
        ...
