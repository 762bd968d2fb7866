"""How many runs this process holds at a time."""

from collections.abc import Iterator
from contextlib import contextmanager

from deployments.api.drain import Drain
from deployments.errors import Overloaded
from deployments.metrics import Recorder


class Admission:
    """Lets a bounded number of runs in."""

    def __init__(self, max_running: int, recorder: Recorder, drain: Drain) -> None:
        self._max_running = max_running
        self._recorder = recorder
        self._drain = drain
        self._running = 0

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Hold a place for the time of the `with` block.

        Raises:
            Overloaded: all places are taken.
        """
        if self._running >= self._max_running:
            raise Overloaded.after(self._drain.wait_s(self._max_running))
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self._running += change
        self._recorder.record("florence_ingress_running", self._running)
