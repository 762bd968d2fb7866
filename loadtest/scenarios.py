"""The table of scenarios, and a scenario with the values of one run."""

import random
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from pydantic.dataclasses import dataclass as checked_dataclass

from deployments.florence.tasks import TASKS
from loadtest.arrivals import Pattern, arrival_times

INF = float("inf")


class Verb(StrEnum):
    RUN = "run"  # a synchronous run
    QUEUE = "queue"  # submit, ask for the status as fal's client does, fetch the result
    STATUS = "status"  # ask once for the status of a queued request
    WEBHOOK = "webhook"  # submit, and wait for the webhook


class AnswerLength(StrEnum):
    """How long an answer should be, where the images are drawn."""

    ANY = "any"
    SHORT = "short"
    LONG = "long"


@dataclass(frozen=True)
class ScenarioCall:
    """A kind of call, and how many of it there are in each round of a scenario."""

    verb: Verb
    task: str
    weight: int = 1
    length: AnswerLength = AnswerLength.ANY


@checked_dataclass(frozen=True, config=ConfigDict(ser_json_inf_nan="strings"))
class Thresholds:
    """What decides the exit code; infinite where nothing is asked.

    Rates are shares of all arrivals; `drift` is the median latency of the last tenth of the run
    over that of the first; `lag_s` is how late the load generator itself sent, p99.
    """

    p50_s: float = INF
    p95_s: float = INF
    p99_s: float = INF
    error_rate: float = 0.001
    refused_rate: float = 0.0
    drift: float = INF
    lag_s: float = 0.1


@dataclass(frozen=True)
class Scenario:
    """Who calls, how often and for how long, and what is expected then."""

    name: str
    summary: str
    calls: tuple[ScenarioCall, ...]
    pattern: Pattern
    rate: float  # arrivals per second
    duration_s: float
    thresholds: Thresholds = field(default_factory=Thresholds)

    @property
    def needs_receiver(self) -> bool:
        return any(call.verb is Verb.WEBHOOK for call in self.calls)

    @property
    def needs_long_answers(self) -> bool:
        """Whether a service of our own must give answers of many lengths."""
        return any(call.length is AnswerLength.LONG for call in self.calls)


PROPOSAL = "region-proposal"
RUNS = (ScenarioCall(Verb.RUN, PROPOSAL),)
EVERY = tuple(ScenarioCall(verb, task) for verb in (Verb.RUN, Verb.QUEUE) for task in TASKS)
SHORT = ScenarioCall(Verb.RUN, "caption", 3, AnswerLength.SHORT)
LONG = ScenarioCall(Verb.RUN, "dense-region-caption", 2, AnswerLength.LONG)
POLLS = (ScenarioCall(Verb.QUEUE, PROPOSAL, 1), ScenarioCall(Verb.STATUS, PROPOSAL, 49))

# name, summary, calls, pattern, arrivals per second, seconds, thresholds
_ROWS = (
    Scenario(
        "smoke", "every endpoint, by a run and through the queue, for some seconds",
        EVERY, Pattern.CONSTANT, 4, 8, Thresholds(p95_s=10, error_rate=0, lag_s=1),
    ),
    Scenario(
        "steady", "runs at random times, as from many clients",
        RUNS, Pattern.POISSON, 5, 60, Thresholds(p95_s=2.5),
    ),
    Scenario(
        "burst", "many submits at once every ten seconds, each followed to its result",
        (ScenarioCall(Verb.QUEUE, PROPOSAL),), Pattern.BURST, 5, 30,
        Thresholds(p95_s=30, lag_s=0.5),
    ),
    Scenario(
        "soak", "runs for an hour: is the end as quick as the beginning?",
        RUNS, Pattern.POISSON, 3, 3600, Thresholds(p95_s=2.5, drift=1.5),
    ),
    Scenario(
        "mixed", "three short answers for two long ones",
        (SHORT, LONG), Pattern.POISSON, 4, 60, Thresholds(p95_s=5),
    ),
    Scenario(
        "polling", "a storm of status calls on queued requests",
        POLLS, Pattern.POISSON, 50, 30, Thresholds(p95_s=0.5),
    ),
    Scenario(
        "webhooks", "queued requests whose webhooks are received and verified",
        (ScenarioCall(Verb.WEBHOOK, PROPOSAL),), Pattern.POISSON, 5, 30,
        Thresholds(p95_s=10, error_rate=0),
    ),
)  # fmt: skip

SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in _ROWS}


class ScenarioRun(BaseModel):
    """A scenario with its values; arrivals and their order follow from it alone.

    The API key is no part of it: it travels in the environment.
    """

    model_config = ConfigDict(frozen=True)

    scenario: str
    url: str
    pattern: Pattern
    rate: float
    duration_s: float
    thresholds: Thresholds = Thresholds()
    images: Path | None = None
    seed: int = 0
    timeout_s: float = 120.0

    @property
    def row(self) -> Scenario:
        return SCENARIOS[self.scenario]

    @cached_property
    def arrivals(self) -> list[float]:
        """When each request is due, in seconds from the start."""
        return arrival_times(self.pattern, self.rate, self.duration_s, self.seed)

    @cached_property
    def calls(self) -> list[ScenarioCall]:
        """What each arrival asks: whole rounds, each in an order of its own."""
        round_ = [call for call in self.row.calls for _ in range(call.weight)]
        rng = random.Random(self.seed)
        chosen: list[ScenarioCall] = []
        while len(chosen) < len(self.arrivals):
            chosen += rng.sample(round_, len(round_))
        return chosen[: len(self.arrivals)]
