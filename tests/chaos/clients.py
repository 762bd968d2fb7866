"""Clients that call again when a call fails, as fal's do.

The retry policies are read from fal-client 1.0 and @fal-ai/client 1.10; neither reads Retry-After.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2

from tests.chaos.counts import LoadCounts


@dataclass(frozen=True)
class RetryPolicy:
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


PYTHON = RetryPolicy(
    "Python",
    statuses=frozenset({408, 409, 429}),
    behind_nginx=frozenset({502, 503, 504}),
    attempts=10,
    first_s=0.1,
    longest_s=30.0,
    jitter=(0.5, 1.5),
)
JAVASCRIPT = RetryPolicy(
    "JavaScript",
    statuses=frozenset({429, 502, 503, 504}),
    behind_nginx=frozenset(),
    attempts=4,
    first_s=0.5,  # of a run; it waits twice as long with the queue
    longest_s=30.0,
    jitter=(0.75, 1.25),
)
POLICIES = (PYTHON, JAVASCRIPT)


APP = "/fal-ai/florence-2-large"
TIMEOUT_S = 120.0
POLL_S = 0.25
JOB_TIMEOUT_S = 180.0  # of a job that was acknowledged


class GivenUp(Exception):
    """The client has called as often as it does."""


class RetryingClient:
    """One caller of the service at `url` with a connection of its own."""

    def __init__(
        self, url: str, key: str, body: bytes, policy: RetryPolicy, counts: LoadCounts
    ) -> None:
        self._url = url
        self._body = body
        self._policy = policy
        self._counts = counts
        headers = {"Authorization": f"Key {key}", "Content-Type": "application/json"}
        self._http = httpx2.Client(headers=headers, timeout=TIMEOUT_S, trust_env=False)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def run(self) -> None:
        """A synchronous run."""
        self._count(False, lambda: self._call("run", "POST", f"{APP}/region-proposal"))

    def queue(self) -> None:
        """Submit, ask for the status until it is done, fetch the result."""
        self._count(True, self._queued)

    def submit(self) -> str:
        """Queue a job and return its id."""
        id_ = str(self._call("submit", "POST", f"/queue{APP}/region-proposal")["request_id"])
        self._counts.acknowledge(id_)
        return id_

    def status(self, id_: str) -> Any:
        """The status of a job."""
        return self._call("status", "GET", f"/queue{APP}/requests/{id_}/status")

    def _queued(self) -> Any:
        id_ = self.submit()
        deadline = time.monotonic() + JOB_TIMEOUT_S
        while self.status(id_)["status"] != "COMPLETED":
            if time.monotonic() > deadline:
                raise GivenUp("status: not done in time")
            time.sleep(POLL_S)
        return self._call("result", "GET", f"/queue{APP}/requests/{id_}")

    def _count(self, is_queued: bool, ask: Callable[[], Any]) -> None:
        self._counts.began(is_queued)
        began = time.monotonic()
        try:
            output = ask()
        except GivenUp as error:
            self._counts.failed(str(error))
            return
        self._counts.answered(output, time.monotonic() - began)

    def _call(self, name: str, method: str, path: str) -> Any:
        """The JSON that the service answers to one call, made again as the client does.

        Raises:
            GivenUp: the last attempt failed.
        """
        attempt = 0
        while True:
            attempt += 1
            failure, is_retried = self._attempt(method, path)
            if not isinstance(failure, str):
                return failure
            self._counts.failed_once(f"{name}: {failure}")
            if not is_retried or attempt == self._policy.attempts:
                raise GivenUp(f"{name}: {failure} ({self._policy.name})")
            time.sleep(self._policy.wait_s(attempt))

    def _attempt(self, method: str, path: str) -> tuple[Any, bool]:
        """The JSON of a good answer; or the failure in a word, and whether to call again."""
        try:
            content = self._body if method == "POST" else None
            answer = self._http.request(method, self._url + path, content=content)
        except httpx2.TransportError as error:
            return type(error).__name__, True
        if answer.status_code in (200, 202):
            return answer.json(), False
        return str(answer.status_code), self._policy.retries(answer)
