"""Clients that ask again and again, and call again when a call fails, as fal's do."""

import time
from collections.abc import Callable
from typing import Any

import httpx2

from loadtest.drills.habits import Habit
from loadtest.drills.tally import Tally

APP = "/fal-ai/florence-2-large"
TIMEOUT_S = 120.0
POLL_S = 0.25
PATIENCE_S = 180.0  # with a request that was acknowledged


class GivenUp(Exception):
    """The client has called as often as it does."""


class Client:
    """One caller of the service at `url` with a connection of its own."""

    def __init__(self, url: str, key: str, body: bytes, habit: Habit, tally: Tally) -> None:
        self._url = url
        self._body = body
        self._habit = habit
        self._tally = tally
        headers = {"Authorization": f"Key {key}", "Content-Type": "application/json"}
        self._http = httpx2.Client(headers=headers, timeout=TIMEOUT_S, trust_env=False)

    def close(self) -> None:
        """Hang up."""
        self._http.close()

    def run(self) -> None:
        """A synchronous run."""
        self._count(False, lambda: self._call("run", "POST", f"{APP}/region-proposal"))

    def queue(self) -> None:
        """Submit, ask for the status until it is done, fetch the result."""
        self._count(True, self._queued)

    def submit(self) -> str:
        """The id of a request that is queued, and left to itself."""
        id_ = str(self._call("submit", "POST", f"/queue{APP}/region-proposal")["request_id"])
        self._tally.acknowledge(id_)
        return id_

    def status(self, id_: str) -> Any:
        """How a request stands."""
        return self._call("status", "GET", f"/queue{APP}/requests/{id_}/status")

    def _queued(self) -> Any:
        id_ = self.submit()
        deadline = time.monotonic() + PATIENCE_S
        while self.status(id_)["status"] != "COMPLETED":
            if time.monotonic() > deadline:
                raise GivenUp("status: not done in time")
            time.sleep(POLL_S)
        return self._call("result", "GET", f"/queue{APP}/requests/{id_}")

    def _count(self, is_queued: bool, ask: Callable[[], Any]) -> None:
        self._tally.began(is_queued)
        began = time.monotonic()
        try:
            output = ask()
        except GivenUp as error:
            self._tally.failed(str(error))
            return
        self._tally.answered(output, time.monotonic() - began)

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
            self._tally.failed_once(f"{name}: {failure}")
            if not is_retried or attempt == self._habit.attempts:
                raise GivenUp(f"{name}: {failure} ({self._habit.name})")
            time.sleep(self._habit.wait_s(attempt))

    def _attempt(self, method: str, path: str) -> tuple[Any, bool]:
        """The JSON of a good answer; or the failure in a word, and whether to call again."""
        try:
            content = self._body if method == "POST" else None
            answer = self._http.request(method, self._url + path, content=content)
        except httpx2.TransportError as error:
            return type(error).__name__, True
        if answer.status_code in (200, 202):
            return answer.json(), False
        return str(answer.status_code), self._habit.retries(answer)
