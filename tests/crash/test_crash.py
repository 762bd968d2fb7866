"""What kill -9 costs the clients of a running service: nothing that was acknowledged."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.crash.backends import kill_backends, terminate_backends
from tests.crash.crowd import Crowd, Question, num_started, until
from tests.crash.inbox import Inbox
from tests.crash.supervisor import KEY, Supervisor
from tests.jobs.postgres import server

pytestmark = pytest.mark.anyio

PARTS = ("Inference", "Preprocess", "Dispatcher", "Ingress", "StoreOwner")
PER_DEATH = 150  # requests around each death
AMID = 40  # of them are acknowledged when it comes
LEASE_S = 5
SETTINGS = {
    "queue.lease_s": LEASE_S,
    "inference.num_beams": 1,
    "webhooks.timeout_s": 5,  # a delivery that died with its sender is made again soon after
    "webhooks.span_s": 60,
}


@pytest.fixture
def service(tmp_path: Path, inbox: Inbox) -> Iterator[Supervisor]:
    """A service on SQLite that may tell the inbox."""
    with started(Supervisor(tmp_path, flags(inbox))) as supervisor:
        yield supervisor


@pytest.fixture
def database() -> Iterator[str]:
    """The URL of a PostgreSQL server whose processes nobody else needs."""
    with server() as url:
        yield url


@pytest.fixture
def service_on_postgres(tmp_path: Path, inbox: Inbox, database: str) -> Iterator[Supervisor]:
    """A service on PostgreSQL that may tell the inbox."""
    with started(Supervisor(tmp_path, [f"--store={database}", *flags(inbox)])) as supervisor:
        yield supervisor


@contextmanager
def started(supervisor: Supervisor) -> Iterator[Supervisor]:
    """A service that runs inside the block, whatever is done to it."""
    try:
        supervisor.start()
        yield supervisor
    finally:
        supervisor.stop()


def flags(inbox: Inbox) -> list[str]:
    """The settings as the command line takes them."""
    hosts = f"--set=webhooks.allowed_hosts=['127.0.0.1:{inbox.port}']"
    return [hosts, *(f"--set={path}={value}" for path, value in SETTINGS.items())]


@asynccontextmanager
async def crowd_at(service: Supervisor, inbox: Inbox) -> AsyncIterator[Crowd]:
    """Clients for as long as the block runs."""
    crowd = Crowd(service.url, KEY, inbox.url("/told"))
    try:
        yield crowd
    finally:
        await crowd.close()


async def amid(crowd: Crowd, num: int, act: Callable[[], None]) -> None:
    """Submit `num` requests; `act` when some of them are acknowledged."""
    goal = len(crowd.acknowledged) + AMID
    async with asyncio.TaskGroup() as both:
        both.create_task(crowd.submit(num))
        await crowd.reached(goal)
        await asyncio.to_thread(act)


async def test_deaths_cost_nothing_that_was_acknowledged(service: Supervisor, inbox: Inbox) -> None:
    """Each part dies under load, then all at once; the next start finishes what was queued."""
    async with crowd_at(service, inbox) as crowd:
        answers = await crowd.answers()
        for part in PARTS:
            await amid(crowd, PER_DEATH, partial(service.kill, part))
            await asyncio.to_thread(service.wait_until_ready)
        before = await crowd.statuses()

        def restart() -> None:
            service.kill_everything()
            service.start()

        await amid(crowd, 1000 - len(PARTS) * PER_DEATH, restart)
        await check(crowd, answers, before, inbox)


async def test_deaths_at_the_database_cost_nothing_that_was_acknowledged(
    service_on_postgres: Supervisor, database: str, inbox: Inbox
) -> None:
    """The Dispatcher dies, then PostgreSQL's backends, by signal and by command."""
    service = service_on_postgres
    deaths = (
        partial(service.kill, "Dispatcher"),
        partial(kill_backends, database),
        partial(terminate_backends, database),
    )
    async with crowd_at(service, inbox) as crowd:
        answers = await crowd.answers()
        for death in deaths:
            before = await crowd.statuses()
            await amid(crowd, PER_DEATH, death)
            await asyncio.to_thread(service.wait_until_ready)
        await check(crowd, answers, before, inbox)


async def check(
    crowd: Crowd, answers: dict[Question, Any], before: dict[str, Any], inbox: Inbox
) -> None:
    """Everything that was acknowledged has come true, and stays true."""
    statuses = await crowd.endings()
    results = await crowd.results()
    await until(lambda: has_told_all(inbox, crowd))
    assert_ended_once(before, statuses)
    assert_never_begun(crowd, statuses)
    assert_right(crowd, answers, results)
    assert_told(inbox, results)
    pictures = [r.json()["image"]["url"] for r in results.values() if "image" in r.json()]
    assert set(await crowd.downloads(pictures[::10])) == {200}


async def has_told_all(inbox: Inbox, crowd: Crowd) -> bool:
    """Whether the inbox has heard of every acknowledged request."""
    return crowd.acknowledged.keys() <= inbox.told.keys()


def assert_ended_once(before: dict[str, Any], after: dict[str, Any]) -> None:
    """What had ended before the last death has not ended in another way since."""
    ended = {id_: status for id_, status in before.items() if status["status"] == "COMPLETED"}
    assert ended
    assert ended == {id_: after[id_] for id_ in ended}


def assert_never_begun(crowd: Crowd, statuses: dict[str, Any]) -> None:
    """What was cancelled in the queue was not begun afterwards."""
    assert crowd.unbegun
    assert {id_: num_started(statuses[id_]) for id_ in crowd.unbegun} == dict.fromkeys(
        crowd.unbegun, 0
    )
    assert {statuses[id_]["error_type"] for id_ in crowd.unbegun} == {"client_cancelled"}
    done = [status for status in statuses.values() if "error" not in status]
    assert all(map(num_started, done))


def assert_right(
    crowd: Crowd, answers: dict[Question, Any], results: dict[str, httpx2.Response]
) -> None:
    """Every request that nobody cancelled has the answer that a run of its own would have had."""
    failed = {id_: r.text for id_, r in results.items() if r.status_code not in (200, 499)}
    assert failed == {}
    done = {id_: r.json()["results"] for id_, r in results.items() if r.status_code == 200}
    assert {id_: answers[crowd.acknowledged[id_]] for id_ in done} == done
    assert len(done) >= len(results) * 0.8


def assert_told(inbox: Inbox, results: dict[str, httpx2.Response]) -> None:
    """Each webhook says what the result says, however often it came."""
    for id_, result in results.items():
        verdict = "OK" if result.status_code == 200 else "ERROR"
        told = [(each["status"], each["payload"]) for each in inbox.told[id_]]
        assert set(map(str, told)) == {str((verdict, result.json()))}
