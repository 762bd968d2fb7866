"""Lets those who ask for the same at the same time share one piece of work: Go's `singleflight`."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass
class Flight(Generic[T]):
    """Work under way, and how many wait for it."""

    task: "asyncio.Task[T]"
    num_waiting: int = 0


class SingleFlight(Generic[T]):
    """Work under way by key. Nothing is kept of work that has ended."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, Flight[T]] = {}

    async def __call__(
        self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]
    ) -> tuple[T, bool]:
        """What `work` returns, and whether it was begun by another caller.

        A caller that is cancelled takes nothing from the others; with the last one the work ends.

        Raises:
            Exception: what the work raises, to all who wait for it.
        """
        known = self._flights.get(key)
        flight = known or self._begin(key, work)
        flight.num_waiting += 1
        try:
            return await asyncio.shield(flight.task), known is not None
        finally:
            flight.num_waiting -= 1
            if not flight.num_waiting:
                self._end(key, flight)

    def _begin(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> Flight[T]:
        flight = Flight(asyncio.create_task(work()))
        self._flights[key] = flight
        flight.task.add_done_callback(lambda _: self._end(key, flight))
        return flight

    def _end(self, key: Hashable, flight: Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        flight.task.cancel()
