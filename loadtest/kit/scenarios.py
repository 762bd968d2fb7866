"""The table of scenarios: one row says everything that sets a scenario apart."""

from dataclasses import dataclass, field
from enum import StrEnum

from deployments.florence.tasks import TASKS
from loadtest.kit.arrivals import Pattern

INF = float("inf")


class Verb(StrEnum):
    """What a client does."""

    RUN = "run"  # a synchronous run
    QUEUE = "queue"  # submit, ask for the status as fal's client does, fetch the result
    STATUS = "status"  # ask once how a queued request stands
    WEBHOOK = "webhook"  # submit, and wait to be told


class Length(StrEnum):
    """How long an answer should be, where the images are drawn."""

    ANY = "any"
    SHORT = "short"
    LONG = "long"


@dataclass(frozen=True)
class Item:
    """A call, and how many of it there are in each round of a scenario."""

    verb: Verb
    task: str
    weight: int = 1
    length: Length = Length.ANY

    @property
    def kind(self) -> str:
        """What the report calls it."""
        return str(self.verb) if self.verb is Verb.STATUS else f"{self.verb} {self.task}"


@dataclass(frozen=True)
class Bounds:
    """What a run is held to; infinite where nothing is asked.

    Shares are of all arrivals; `drift` is the median of the last tenth over that of the first.
    """

    p50_s: float = INF
    p95_s: float = INF
    p99_s: float = INF
    error_rate: float = 0.001
    refused_rate: float = 0.0
    drift: float = INF
    lag_s: float = 0.1  # p99


@dataclass(frozen=True)
class Scenario:
    """Who calls, how often and for how long, and what is expected then."""

    name: str
    summary: str
    items: tuple[Item, ...]
    pattern: Pattern
    rate: float  # arrivals per second
    duration_s: float
    bounds: Bounds = field(default_factory=Bounds)

    @property
    def needs_receiver(self) -> bool:
        """Whether webhooks come back."""
        return any(item.verb is Verb.WEBHOOK for item in self.items)

    @property
    def needs_long_answers(self) -> bool:
        """Whether a service of our own must give answers of many lengths."""
        return any(item.length is Length.LONG for item in self.items)


PROPOSAL = "region-proposal"
_ROWS = (
    Scenario(
        "smoke",
        "every endpoint, by a run and through the queue, for some seconds",
        tuple(Item(verb, task) for verb in (Verb.RUN, Verb.QUEUE) for task in TASKS),
        Pattern.CONSTANT,
        rate=2,
        duration_s=8,
        bounds=Bounds(p95_s=10, error_rate=0, lag_s=1),
    ),
    Scenario(
        "steady",
        "runs at random times, as from many clients",
        (Item(Verb.RUN, PROPOSAL),),
        Pattern.POISSON,
        rate=5,
        duration_s=60,
        bounds=Bounds(p95_s=2.5),
    ),
    Scenario(
        "burst",
        "many submits at once every ten seconds, each followed to its result",
        (Item(Verb.QUEUE, PROPOSAL),),
        Pattern.BURST,
        rate=5,
        duration_s=30,
        bounds=Bounds(p95_s=30, lag_s=0.5),
    ),
    Scenario(
        "soak",
        "runs for an hour: is the end as quick as the beginning?",
        (Item(Verb.RUN, PROPOSAL),),
        Pattern.POISSON,
        rate=3,
        duration_s=3600,
        bounds=Bounds(p95_s=2.5, drift=1.5),
    ),
    Scenario(
        "mixed",
        "three short answers beside two long ones",
        (
            Item(Verb.RUN, "caption", 3, Length.SHORT),
            Item(Verb.RUN, "dense-region-caption", 2, Length.LONG),
        ),
        Pattern.POISSON,
        rate=4,
        duration_s=60,
        bounds=Bounds(p95_s=5),
    ),
    Scenario(
        "polling",
        "a storm of status calls on queued requests",
        (Item(Verb.QUEUE, PROPOSAL, 1), Item(Verb.STATUS, PROPOSAL, 49)),
        Pattern.POISSON,
        rate=50,
        duration_s=30,
        bounds=Bounds(p95_s=0.5),
    ),
    Scenario(
        "webhooks",
        "queued requests whose webhooks a receiver of the kit takes and verifies",
        (Item(Verb.WEBHOOK, PROPOSAL),),
        Pattern.POISSON,
        rate=5,
        duration_s=30,
        bounds=Bounds(p95_s=10, error_rate=0),
    ),
)

SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in _ROWS}
