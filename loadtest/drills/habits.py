"""When fal's clients call again after a failure, and how long they wait before.

Read from fal-client 1.0 and @fal-ai/client 1.10; neither looks at Retry-After.
"""

import random
from dataclasses import dataclass

import httpx2


@dataclass(frozen=True)
class Habit:
    """A client's: what it calls again for, how often, after which waits.

    The waits double from `first_s` to `longest_s`, times a random factor within `jitter`.
    `behind_nginx` are those of the statuses that count only when nginx seems to have answered.
    """

    name: str
    statuses: frozenset[int]
    behind_nginx: frozenset[int]
    attempts: int
    first_s: float
    longest_s: float
    jitter: tuple[float, float]

    def retries(self, answer: httpx2.Response) -> bool:
        """Whether it would call again after this answer."""
        if answer.status_code in self.behind_nginx:
            return "x-fal-request-id" not in answer.headers and "nginx" in answer.text
        return answer.status_code in self.statuses

    def wait_s(self, attempt: int) -> float:
        """How long it waits after the failed `attempt`, counted from 1."""
        wait_s = min(self.longest_s, self.first_s * 2.0 ** (attempt - 1))
        return wait_s * random.uniform(*self.jitter)


PYTHON = Habit(
    "Python",
    statuses=frozenset({408, 409, 429}),
    behind_nginx=frozenset({502, 503, 504}),
    attempts=10,
    first_s=0.1,
    longest_s=30.0,
    jitter=(0.5, 1.5),
)
JAVASCRIPT = Habit(
    "JavaScript",
    statuses=frozenset({429, 502, 503, 504}),
    behind_nginx=frozenset(),
    attempts=4,
    first_s=0.5,  # of a run; it waits twice as long with the queue
    longest_s=30.0,
    jitter=(0.75, 1.25),
)
HABITS = (PYTHON, JAVASCRIPT)
