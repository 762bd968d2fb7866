"""Asks a service many questions at once, and waits wherever the service asks to."""

import hashlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from deployments.cli.labelling.pace import Pace
from deployments.local.client import CallError, ServiceClient

T = TypeVar("T")
BUSY = (429, 502, 503)
AWAY_WAIT_S = 0.5
FIRST_POLL_S, MAX_POLL_S = 0.1, 2.0
MAX_WAIT_S = 30.0  # of one Retry-After


class ServiceAway(Exception):
    """Nobody answers; the message is one line for a person."""


@dataclass(frozen=True)
class Settled:
    """A question with its answer or its error, and how long it took."""

    number: int
    answer: dict[str, Any] | None
    error: str
    seconds: float


class Asker:
    """Calls the service for its threads, at one pace; with `is_queued` through the queue."""

    def __init__(self, client: ServiceClient, parallel: int, *, is_queued: bool = False) -> None:
        self._client = client
        self._pace = Pace(parallel)
        self._polls = Pace(parallel)
        self._parallel = parallel
        self._is_queued = is_queued

    def ask(self, task: str, image_url: str, **fields: Any) -> bytes:
        """The body of an answer.

        Raises:
            CallError: the service refused the question itself.
            ServiceAway: nobody answers.
        """
        if not self._is_queued:
            return self._send(lambda: self._client.run(task, image_url, **fields))
        text = json.dumps([task, image_url, fields], sort_keys=True)
        name = f"predict-{hashlib.sha256(text.encode()).hexdigest()}"
        while True:
            request_id = self._send(lambda: self._client.submit(task, image_url, name, **fields))
            try:
                return self._result(request_id)
            except CallError as error:
                if error.status != 404:  # forgotten meanwhile
                    raise

    def download(self, url: str) -> bytes:
        return self._send(lambda: self._client.download(url))

    def all(
        self, work: Callable[[Any], dict[str, Any]], questions: Iterator[Any]
    ) -> Iterator[Settled]:
        """What `work` makes of each question, as it comes; questions are taken when there is room.

        Raises:
            ServiceAway: nobody answers.
        """
        waiting: queue.Queue[tuple[int, Any] | None] = queue.Queue()
        done: queue.Queue[Settled | ServiceAway] = queue.Queue()
        threads, running = 0, 0
        for number, question in enumerate(questions):
            waiting.put((number, question))
            running += 1
            if threads < self._parallel:
                threads += 1
                threading.Thread(
                    target=work_off, args=(work, waiting, done), daemon=True, name="asker"
                ).start()
            while running >= self._parallel or not done.empty():
                yield checked(done.get())
                running -= 1
        for _ in range(threads):
            waiting.put(None)
        while running:
            yield checked(done.get())
            running -= 1

    def _result(self, request_id: str) -> bytes:
        wait_s = FIRST_POLL_S
        while not self._send(lambda: self._client.is_completed(request_id), self._polls):
            time.sleep(wait_s)
            wait_s = min(MAX_POLL_S, 1.5 * wait_s)
        return self._send(lambda: self._client.result(request_id), self._polls)

    def _send(self, call: Callable[[], T], pace: Pace | None = None) -> T:
        """The result of a call, which is made again for as long as the service is busy or away."""
        pace = pace or self._pace
        while True:
            round_ = pace.begin()
            try:
                found = call()
            except CallError as error:
                if error.is_away:
                    if not pace.lost():
                        raise ServiceAway(str(error)) from None
                    time.sleep(AWAY_WAIT_S)
                elif error.status in BUSY:
                    pace.refused(round_)
                    time.sleep(min(MAX_WAIT_S, error.retry_after_s))
                else:
                    pace.answered()
                    raise
            else:
                pace.answered()
                return found


def work_off(
    work: Callable[[Any], dict[str, Any]],
    waiting: "queue.Queue[tuple[int, Any] | None]",
    done: "queue.Queue[Settled | ServiceAway]",
) -> None:
    """Answer questions until there is none."""
    while (found := waiting.get()) is not None:
        number, question = found
        began = time.monotonic()
        try:
            answer: dict[str, Any] | None = work(question)
            error = ""
        except CallError as failed:
            answer, error = None, str(failed)
        except ServiceAway as away:
            done.put(away)
            continue
        except Exception as failed:  # one question costs the others nothing
            answer, error = None, f"{type(failed).__name__}: {failed}"
        done.put(Settled(number, answer, error, time.monotonic() - began))


def checked(found: Settled | ServiceAway) -> Settled:
    if isinstance(found, ServiceAway):
        raise found
    return found
