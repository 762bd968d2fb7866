"""A request on its way through the simulated service."""

from dataclasses import dataclass
from math import inf, isnan, nan


@dataclass(eq=False, slots=True)
class SimulatedRequest:
    """Times in seconds of virtual time; NaN until they come.

    `tokens` is the length of its answer; a queued request goes through the durable queue.
    A run that has not begun at its `deadline` fails.
    """

    arrived: float
    tokens: int
    is_queued: bool
    deadline: float = inf
    began: float = nan
    ended: float = nan
    has_failed: bool = False

    @property
    def has_begun(self) -> bool:
        """Whether the model has begun with it."""
        return not isnan(self.began)

    @property
    def is_answered(self) -> bool:
        """Whether it has its answer."""
        return not isnan(self.ended)

    @property
    def waited_s(self) -> float:
        """From its arrival until the model began with it."""
        return self.began - self.arrived

    @property
    def latency_s(self) -> float:
        """From its arrival to its answer."""
        return self.ended - self.arrived
