"""What the engine has done so far, in numbers that only grow.

The engine's thread adds to them between two steps, where a metric would cost more than a step of
a small batch; others look at them now and then.
"""

from collections import Counter
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Self

REASONS = ("full", "joined", "waited", "alone")  # why a batch began, see Schedule.reason


@dataclass
class Tally:
    """Steps of the model, requests in them added up, seconds in them, batches begun by reason."""

    steps: int = 0
    rows: int = 0
    busy_s: float = 0.0
    begun: Mapping[str, int] = field(default_factory=dict)

    def step(self, rows: int) -> None:
        """Count one step of so many requests."""
        self.steps += 1
        self.rows += rows

    def begin(self, reason: str) -> None:
        """Count one batch that began."""
        self.begun = Counter(self.begun) + Counter([reason])  # a new one: others may be reading

    def since(self, before: Self) -> "Tally":
        """What has been added since `before` was copied."""
        begun = {
            reason: self.begun.get(reason, 0) - before.begun.get(reason, 0) for reason in REASONS
        }
        return Tally(
            self.steps - before.steps, self.rows - before.rows, self.busy_s - before.busy_s, begun
        )

    def copied(self) -> Self:
        """The numbers as they stand."""
        return copy(self)
