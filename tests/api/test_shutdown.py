"""Shutdown: no new request begins, and those that have begun get their answer."""

import asyncio

import pytest

from deployments.api.shutdown import Shutdown
from deployments.errors import NotReady
from tests.api.service import Service, do

pytestmark = pytest.mark.anyio


async def test_it_drains_when_the_last_request_has_ended() -> None:
    """A request that has begun is waited for."""
    shutdown = Shutdown()
    with shutdown.postponed(), shutdown.postponed():
        drained = asyncio.create_task(shutdown.drain(60))
        await asyncio.sleep(0)
        assert not drained.done()
    await drained


async def test_it_does_not_wait_for_ever() -> None:
    """A request that takes too long is given up."""
    shutdown = Shutdown()
    with shutdown.postponed():
        await shutdown.drain(0.01)


async def test_no_request_begins_afterwards() -> None:
    """It is refused at once."""
    shutdown = Shutdown()
    await shutdown.drain(0)
    with pytest.raises(NotReady), shutdown.postponed():
        pytest.fail("it began")


def test_runs_and_submits_are_refused_and_all_else_is_answered(service: Service) -> None:
    """Each 503 says that it is worth another try."""
    job = service.submit().json()
    do(service.shutdown.drain(0))
    refused = [service.post({"image_url": "u"}), service.submit()]
    status = service.get(f"/queue/fal-ai/florence-2-large/requests/{job['request_id']}/status")

    assert [answer.status_code for answer in refused] == [503, 503]
    assert {answer.headers["x-fal-needs-retry"] for answer in refused} == {"1"}
    assert status.status_code == 202
