"""`florence serve` is stopped and killed: runs are answered, and no acknowledged job is lost."""

import asyncio
from collections.abc import Iterator
from functools import partial

import pytest

from tests.chaos import sigterm
from tests.chaos.crowd import MAX_ATTEMPTS, Crowd
from tests.chaos.inbox import Inbox
from tests.chaos.service import KEY, Service
from tests.chaos.verdict import amid, check

BEHIND_INGRESS = ("Preprocess", "Inference", "Postprocess", "Dispatcher")
SETTINGS = {
    "queue.lease_s": 5,
    "queue.max_running": 4,  # so that others wait
    "queue.max_attempts": MAX_ATTEMPTS,
    "inference.num_beams": 1,
    "webhooks.timeout_s": 5,  # a delivery that died with its sender is made again soon after
    "webhooks.span_s": 60,
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, inbox: Inbox) -> Iterator[Service]:
    """A service on SQLite, not started yet, whose webhooks reach the inbox."""
    hosts = f"--set=webhooks.allowed_hosts=['127.0.0.1:{inbox.port}']"
    flags = [hosts, *(f"--set={path}={value}" for path, value in SETTINGS.items())]
    service = Service(tmp_path_factory.mktemp("service"), flags)
    yield service
    if service.is_started:
        service.kill_everything()


def test_sigterm_answers_running_requests_and_requeues_jobs(service: Service) -> None:
    """Runs are answered; jobs are requeued and done after the next start."""
    result = sigterm.stop_and_start(service)

    assert result.complaints == []
    assert result.counts.raw == {}
    assert sum(result.counts.answers.values()) == sigterm.NUM_RUNS


@pytest.mark.anyio
async def test_deaths_lose_no_acknowledged_job(service: Service, inbox: Inbox) -> None:
    """The store's owner dies under load, then every replica, then everything.

    The next start finishes what was queued. Single deployments die in test_installation.py.
    """
    if not service.is_started:
        await asyncio.to_thread(service.start)
    async with Crowd(service.target.url, KEY, inbox.url("/jobs")) as crowd:
        answers = await crowd.answers()
        await amid(crowd, partial(service.kill, "StoreOwner"))
        await asyncio.to_thread(service.wait_until_ready)
        # Without a Dispatcher, no job that is cancelled meanwhile has begun.
        await amid(crowd, partial(service.kill, *BEHIND_INGRESS))
        await amid(crowd, partial(service.kill, "Ingress"))
        await asyncio.to_thread(service.wait_until_ready)
        before = await crowd.first_endings()

        def restart() -> None:
            service.kill_everything()
            service.start()

        await amid(crowd, restart)
        await check(crowd, answers, before, inbox)
