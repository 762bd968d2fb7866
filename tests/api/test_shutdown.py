"""The end of a service: nobody new, and an answer for everybody else."""

import asyncio

import pytest

from deployments.api.shutdown import Shutdown
from deployments.errors import NotReady
from tests.api.service import Service, do

pytestmark = pytest.mark.anyio


async def test_it_closes_when_the_last_has_left() -> None:
    """Whoever is inside is waited for."""
    shutdown = Shutdown()
    with shutdown.inside(), shutdown.inside():
        closed = asyncio.create_task(shutdown.drain(60))
        await asyncio.sleep(0)
        assert not closed.done()
    await closed


async def test_it_does_not_wait_for_ever() -> None:
    """Who takes too long is left behind."""
    shutdown = Shutdown()
    with shutdown.inside():
        await shutdown.drain(0.01)


async def test_nobody_comes_in_afterwards() -> None:
    """Not even while others are inside."""
    shutdown = Shutdown()
    await shutdown.drain(0)
    with pytest.raises(NotReady), shutdown.inside():
        pytest.fail("somebody came in")


def test_runs_and_submits_are_refused_and_all_else_is_answered(service: Service) -> None:
    """Each refusal says that it is worth another try."""
    told = service.submit().json()
    do(service.shutdown.drain(0))
    refused = [service.post({"image_url": "u"}), service.submit()]
    status = service.get(f"/queue/fal-ai/florence-2-large/requests/{told['request_id']}/status")

    assert [answer.status_code for answer in refused] == [503, 503]
    assert {answer.headers["x-fal-needs-retry"] for answer in refused} == {"1"}
    assert status.status_code == 202
