"""A run of a scenario as it was ordered: what the generator, and every worker of it, is told.

The key is no part of it: it travels in the environment.
"""

import random
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from loadtest.kit.arrivals import Pattern, schedule
from loadtest.kit.scenarios import SCENARIOS, Item, Scenario

KEY = "FLORENCE_API_KEY"


class Plan(BaseModel):
    """A scenario with its values; arrivals and their order follow from it alone."""

    model_config = ConfigDict(frozen=True)

    scenario: str
    url: str
    pattern: Pattern
    rate: float
    duration_s: float
    images: Path | None = None
    num_images: int = 32
    seed: int = 0
    timeout_s: float = 120.0
    poll_s: float = 0.1  # as fal's Python client

    @property
    def row(self) -> Scenario:
        """The scenario's own row."""
        return SCENARIOS[self.scenario]

    def arrivals(self) -> list[float]:
        """When each request is due, in seconds from the start."""
        return schedule(self.pattern, self.rate, self.duration_s, self.seed)

    def items(self, num: int) -> list[Item]:
        """What each of `num` arrivals asks: whole rounds, each in an order of its own."""
        round_ = [item for item in self.row.items for _ in range(item.weight)]
        rng = random.Random(self.seed)
        chosen: list[Item] = []
        while len(chosen) < num:
            chosen += rng.sample(round_, len(round_))
        return chosen[:num]
