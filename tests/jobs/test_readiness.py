"""Readiness: jobs wait for the model's first replica, and a busy replica is not asked."""

import asyncio

import pytest

from deployments.jobs.readiness import TRUST_S, Readiness

pytestmark = pytest.mark.anyio


class Model:
    """A model with or without a replica, and a clock that stands still."""

    def __init__(self) -> None:
        self.has_replica = False
        self.num_checks = 0
        self.now = 100.0
        self.readiness = Readiness(self.check, lambda: self.now)

    async def check(self) -> bool:
        self.num_checks += 1
        return self.has_replica


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    """No replica yet; it is asked often."""
    monkeypatch.setattr("deployments.jobs.readiness.CHECK_INTERVAL_S", 0.0)
    return Model()


async def test_a_job_waits_for_the_first_replica(model: Model) -> None:
    """The deployments are asked again and again until one answers."""
    waiting = asyncio.create_task(model.readiness.wait())
    async with asyncio.timeout(5):
        while model.num_checks < 3:  # noqa: ASYNC110, it is looked at from outside
            await asyncio.sleep(0)
        assert not waiting.done()
        assert not model.readiness.is_ready
        model.has_replica = True
        await waiting
    assert model.readiness.is_ready


async def test_a_replica_that_has_just_worked_is_not_asked(model: Model) -> None:
    """In a stream of jobs, readiness costs nothing."""
    model.readiness.confirm()
    await model.readiness.wait()

    assert model.num_checks == 0


def test_readiness_ends_without_a_confirmation(model: Model) -> None:
    """The replica may have been stopped."""
    model.readiness.confirm()
    model.now += TRUST_S - 1
    assert model.readiness.is_ready
    model.now += 1
    assert not model.readiness.is_ready
