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

CHOSEN = (
    "ingress",
    "controller",
    "database-away",
    "files-away",
    "bad-model",
    "weights",
    "head",
)
AWAY_S = 3.0


@pytest.mark.anyio
async def test_faults_lose_no_acknowledged_job(whole: Installation, inbox: Inbox) -> None:
    """All replicas of a deployment die, then PostgreSQL's processes, by signal and by command."""

    def all_die(deployment: str) -> None:
        replicas = whole.cluster.replicas(deployment)
        assert replicas
        end(replicas)

    url = whole.database.url
    faults = (
        *(partial(all_die, name) for name in ("Preprocess", "Inference", "Dispatcher")),
        partial(kill_backends, url),
        partial(terminate_backends, url),
    )
    async with Crowd(whole.target.url, whole.target.key, inbox.url("/jobs")) as crowd:
        answers = await crowd.answers()
        for fault in faults:
            before = await crowd.first_endings() if crowd.acknowledged else {}
            await amid(crowd, fault)
            await asyncio.to_thread(until, whole.is_whole, 120, "not mended")
        await check(crowd, answers, before, inbox)


@pytest.mark.parametrize("name", CHOSEN)
def test_no_request_fails(whole: Installation, name: str) -> None:
    """Each is answered rightly; each acknowledged job is done; the part comes back."""
    drill = DRILLS[name]()
    drill.away_s = min(drill.away_s, AWAY_S)
    result = perform(drill, whole, num_pairs=2)

    assert result.complaints == []
    assert result.counts.final == {}
    assert result.counts.acknowledged
