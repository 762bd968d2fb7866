"""Every part of a whole installation is broken in turn, and no client's request fails."""

import asyncio
from functools import partial

import pytest

from tests.chaos.__main__ import DRILLS
from tests.chaos.cluster import end
from tests.chaos.crowd import Crowd
from tests.chaos.drill import perform
from tests.chaos.faults import kill_backends, terminate_backends
from tests.chaos.inbox import Inbox
from tests.chaos.installation import Installation
from tests.chaos.load import until
from tests.chaos.verdict import amid, check

SECONDS = 4.0
PER_FAULT = 70  # jobs submitted around each fault
CHOSEN = (
    "ingress",
    "dispatcher",
    "controller",
    "database-away",
    "files-away",
    "bad-model",
    "weights",
    "head",
)


@pytest.mark.anyio
async def test_faults_of_the_database_lose_no_acknowledged_job(
    whole: Installation, inbox: Inbox
) -> None:
    """All Dispatchers die, then PostgreSQL's processes, by signal and by command."""
    url = whole.database.url
    faults = (
        lambda: end(whole.cluster.replicas("Dispatcher")),
        partial(kill_backends, url),
        partial(terminate_backends, url),
    )
    async with Crowd(whole.target.url, whole.target.key, inbox.url("/jobs")) as crowd:
        answers = await crowd.answers()
        for fault in faults:
            before = await crowd.statuses()
            await amid(crowd, PER_FAULT, fault)
            await asyncio.to_thread(until, whole.is_whole, 120, "not mended")
        await check(crowd, answers, before, inbox)


@pytest.mark.parametrize("name", CHOSEN)
def test_no_request_fails(whole: Installation, name: str) -> None:
    """Each is answered rightly; each acknowledged job is done; the part comes back."""
    result = perform(DRILLS[name](), whole, SECONDS)

    assert result.complaints == []
    assert result.counts.final == {}
    assert result.counts.runs > 0
    assert result.counts.acknowledged
