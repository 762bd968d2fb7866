"""A crowd's jobs around a fault, and the conditions afterwards."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2

from tests.chaos.crowd import Crowd, Question, num_started, until
from tests.chaos.inbox import Inbox

BEFORE = 12  # jobs that are acknowledged before the fault
AFTER = 16  # and after it: so many that some were submitted and cancelled since


async def amid(crowd: Crowd, fault: Callable[[], None]) -> None:
    """Cause the fault while jobs are submitted: from before it until after it."""
    is_enough = asyncio.Event()
    async with asyncio.TaskGroup() as both:
        both.create_task(crowd.submit(is_enough))
        await crowd.acknowledges(BEFORE)
        await asyncio.to_thread(fault)
        await crowd.acknowledges(AFTER)
        is_enough.set()


async def check(
    crowd: Crowd, answers: dict[Question, Any], before: dict[str, Any], inbox: Inbox
) -> None:
    """Every acknowledged job ended once, with the right result, and was delivered.

    Args:
        answers: what a synchronous run answers to each question.
        before: the statuses before the last fault, by job.
    """
    statuses = await crowd.endings()
    results = await crowd.results()

    async def all_delivered() -> bool:
        return crowd.acknowledged.keys() <= inbox.bodies.keys()

    await until(all_delivered)
    assert_ended_once(before, statuses)
    assert_never_begun(crowd, statuses)
    assert_right(crowd, answers, statuses, results)
    assert_delivered(inbox, results)
    pictures = [r.json()["image"]["url"] for r in results.values() if "image" in r.json()]
    assert set(await crowd.downloads(pictures[::10])) == {200}


def assert_ended_once(before: dict[str, Any], after: dict[str, Any]) -> None:
    """A job that ended before the fault has the same end."""
    ended = {id_: status for id_, status in before.items() if status["status"] == "COMPLETED"}
    assert ended
    assert ended == {id_: after[id_] for id_ in ended}


def assert_never_begun(crowd: Crowd, statuses: dict[str, Any]) -> None:
    """A job that was cancelled in the queue never started."""
    assert crowd.unbegun
    assert {id_: num_started(statuses[id_]) for id_ in crowd.unbegun} == dict.fromkeys(
        crowd.unbegun, 0
    )
    assert {statuses[id_]["error_type"] for id_ in crowd.unbegun} == {"client_cancelled"}
    done = [status for status in statuses.values() if "error" not in status]
    assert all(map(num_started, done))


def assert_right(
    crowd: Crowd,
    answers: dict[Question, Any],
    statuses: dict[str, Any],
    results: dict[str, httpx2.Response],
) -> None:
    """Every job that was not cancelled has the answer of a synchronous run."""
    failed = {
        id_: (result.text, [(line["timestamp"], line["message"]) for line in statuses[id_]["logs"]])
        for id_, result in results.items()
        if result.status_code not in (200, 499)
    }
    assert not failed, failed
    done = {id_: r.json()["results"] for id_, r in results.items() if r.status_code == 200}
    assert {id_: answers[crowd.acknowledged[id_]] for id_ in done} == done
    assert len(done) >= len(results) * 0.8


def assert_delivered(inbox: Inbox, results: dict[str, httpx2.Response]) -> None:
    """Each delivery of a webhook equals the result."""
    for id_, result in results.items():
        verdict = "OK" if result.status_code == 200 else "ERROR"
        received = [(each["status"], each["payload"]) for each in inbox.bodies[id_]]
        assert set(map(str, received)) == {str((verdict, result.json()))}
