"""`florence serve` gets kill -9: no acknowledged job is lost."""

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.crowd import Crowd
from tests.chaos.inbox import Inbox
from tests.chaos.service import KEY, Service
from tests.chaos.verdict import amid, check

PARTS = ("Inference", "Preprocess", "Dispatcher", "Ingress", "StoreOwner")
NUM_JOBS = 450
PER_DEATH = 70  # of them around each death
SETTINGS = {
    "queue.lease_s": 5,
    "inference.num_beams": 1,
    "webhooks.timeout_s": 5,  # a delivery that died with its sender is made again soon after
    "webhooks.span_s": 60,
}


@pytest.fixture
def service(tmp_path: Path, inbox: Inbox) -> Iterator[Service]:
    """A service on SQLite whose webhooks reach the inbox."""
    hosts = f"--set=webhooks.allowed_hosts=['127.0.0.1:{inbox.port}']"
    flags = [hosts, *(f"--set={path}={value}" for path, value in SETTINGS.items())]
    started = Service(tmp_path, flags)
    try:
        started.start()
        yield started
    finally:
        started.stop()


@pytest.mark.anyio
async def test_deaths_lose_no_acknowledged_job(service: Service, inbox: Inbox) -> None:
    """Each part dies under load, then all at once; the next start finishes what was queued."""
    async with Crowd(service.target.url, KEY, inbox.url("/jobs")) as crowd:
        answers = await crowd.answers()
        for part in PARTS:
            await amid(crowd, PER_DEATH, partial(service.kill, part))
            await asyncio.to_thread(service.wait_until_ready)
        before = await crowd.statuses()

        def restart() -> None:
            service.kill_everything()
            service.start()

        await amid(crowd, NUM_JOBS - len(PARTS) * PER_DEATH, restart)
        await check(crowd, answers, before, inbox)
