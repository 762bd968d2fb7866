"""Clients that continue through every failure, and record what the service acknowledged."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, Self
from urllib.parse import quote

import httpx2

from tests.acceptance.caller import APP, scene, uri

TASKS = ("caption", "region-proposal")
NUM_SCENES = 6
NUM_CLIENTS = 8
CANCELLED_EVERY = 7
MAX_ATTEMPTS = 6  # a job that is back goes first, and may meet every fault of a test
RETRY_S = 0.2
POLL_S = 0.25  # of what takes a call
TIMEOUT_S = 120.0
RETRIED = (429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Question:
    """A task and the number of its scene."""

    task: str
    scene: int

    @property
    def path(self) -> str:
        """The endpoint."""
        return f"{APP}/{self.task}"

    @property
    def body(self) -> dict[str, str]:
        """The input: a small scene as a data URI."""
        return {"image_url": uri(scene(self.scene, (256, 256)).image)}


QUESTIONS = [Question(task, number) for task in TASKS for number in range(NUM_SCENES)]


class Crowd:
    """Submits, cancels and reads. A failed call is made again, as fal's clients do.

    `acknowledged` holds what was asked under each id that the service has given out;
    `unbegun` those ids whose cancel was acknowledged while no worker had begun them.
    """

    def __init__(self, url: str, key: str, webhook_url: str) -> None:
        self.acknowledged: dict[str, Question] = {}
        self.unbegun: set[str] = set()
        self._url = url
        self._webhook_url = webhook_url
        self._bodies = {question: question.body for question in QUESTIONS}
        headers = {"Authorization": f"Key {key}"}
        self._http = httpx2.AsyncClient(headers=headers, timeout=15, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def answers(self) -> dict[Question, Any]:
        """The results of a synchronous run for each question, without pictures."""
        return {question: await self._run(question) for question in QUESTIONS}

    async def submit(self, is_enough: asyncio.Event) -> None:
        """Submit jobs from several clients until it `is_enough`; cancel every seventh at once."""
        numbers = count()

        async def client() -> None:
            while not is_enough.is_set():
                number = next(numbers)
                id_ = await self._submit(QUESTIONS[number % len(QUESTIONS)])
                if number % CANCELLED_EVERY == 0:
                    await self._cancel(id_)

        await asyncio.gather(*(client() for _ in range(NUM_CLIENTS)))

    async def acknowledges(self, more: int) -> None:
        """Wait until `more` jobs are acknowledged than now."""
        goal = len(self.acknowledged) + more
        await until(lambda: self._has_reached(goal))

    async def first_endings(self) -> dict[str, dict[str, Any]]:
        """The statuses of all jobs when at least one has ended."""
        statuses: dict[str, dict[str, Any]] = {}

        async def is_one_completed() -> bool:
            statuses.update(await self.statuses())
            return any(status["status"] == "COMPLETED" for status in statuses.values())

        await until(is_one_completed, POLL_S)
        return statuses

    async def statuses(self) -> dict[str, dict[str, Any]]:
        """The status and log of every acknowledged job."""
        return await self._each(self._status)

    async def endings(self) -> dict[str, dict[str, Any]]:
        """The same, after all of them have ended."""
        return await self._each(self._ending)

    async def results(self) -> dict[str, httpx2.Response]:
        """The result of each acknowledged job."""
        url = f"{self._url}/queue{APP}/requests"
        return await self._each(lambda id_: self._http.get(f"{url}/{id_}"))

    async def downloads(self, urls: list[str]) -> list[int]:
        """The HTTP statuses of these pictures."""
        return [(await self._http.get(url)).status_code for url in urls]

    async def _has_reached(self, num: int) -> bool:
        return len(self.acknowledged) >= num

    async def _run(self, question: Question) -> Any:
        answer = await self._call("POST", question.path, json=self._bodies[question])
        assert answer.status_code == 200, answer.text
        return answer.json()["results"]

    async def _submit(self, question: Question) -> str:
        path = f"/queue{question.path}?fal_webhook={quote(self._webhook_url, safe='')}"
        answer = await self._call("POST", path, json=self._bodies[question])
        assert answer.status_code == 200, answer.text
        id_ = str(answer.json()["request_id"])
        self.acknowledged[id_] = question
        return id_

    async def _cancel(self, id_: str) -> None:
        answer = await self._call("PUT", f"/queue{APP}/requests/{id_}/cancel")
        assert answer.status_code in (202, 400), answer.text
        status = await self._status(id_)
        is_cancelled = status.get("error_type") == "client_cancelled"
        if answer.status_code == 202 and is_cancelled and not num_started(status):
            self.unbegun.add(id_)

    async def _status(self, id_: str) -> dict[str, Any]:
        answer = await self._call("GET", f"/queue{APP}/requests/{id_}/status?logs=1")
        assert answer.status_code in (200, 202), f"{id_}: {answer.text}"
        status: dict[str, Any] = answer.json()
        return status

    async def _ending(self, id_: str) -> dict[str, Any]:
        status: dict[str, Any] = {}

        async def has_ended() -> bool:
            status.update(await self._status(id_))
            return bool(status["status"] == "COMPLETED")

        await until(has_ended, POLL_S)
        return await self._status(id_)

    async def _call(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """The first answer that needs no retry."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                answer = await self._http.request(method, self._url + path, **options)
                if not is_passing(answer):
                    return answer
                failure = answer.text
            except httpx2.TransportError as error:
                failure = repr(error)
            assert time.monotonic() < deadline, f"{method} {path}: {failure}"
            await asyncio.sleep(RETRY_S)

    async def _each(self, ask: Callable[[str], Awaitable[Any]]) -> dict[str, Any]:
        """The answer of `ask` for each acknowledged id, from several clients."""
        ids = iter(list(self.acknowledged))
        answers: dict[str, Any] = {}

        async def client() -> None:
            for id_ in ids:
                answers[id_] = await ask(id_)

        await asyncio.gather(*(client() for _ in range(NUM_CLIENTS)))
        return answers


async def until(condition: Callable[[], Awaitable[bool]], poll_s: float = 0.02) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(TIMEOUT_S):
        while not await condition():  # noqa: ASYNC110, it is another process that changes
            await asyncio.sleep(poll_s)


def is_passing(answer: httpx2.Response) -> bool:
    """Whether a client would retry, because the service did not answer."""
    # While the service starts, Serve's proxy answers before it knows the way to the Ingress.
    has_no_route = answer.status_code == 404 and "x-fal-request-id" not in answer.headers
    return has_no_route or answer.status_code in RETRIED


def num_started(status: dict[str, Any]) -> int:
    """How often a worker started the job."""
    return sum(line["message"].startswith("Started") for line in status.get("logs") or ())
