"""Two replicas of the model, one of which gets a device that fails: no request is ended by it.

The pipeline and the engines' batchers are the real ones; Serve's part, which sends a request to
the replica with the fewest and replaces one whose process has ended, is played here.
"""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from ray.exceptions import RayTaskError

from deployments import pipeline
from deployments.errors import RunnerDisconnected
from deployments.florence.backend import DeviceFault
from deployments.florence.batcher import Batcher
from deployments.florence.messages import Finished, Generated, Prepared, Request
from deployments.florence.schemas import ImageInput
from deployments.florence.stages import Stages
from deployments.pipeline import Handle, Pipeline
from deployments.telemetry.metrics import PrometheusRecorder
from tests.florence.counting_backend import SOON_S, CountingBackend, Item, poison

PREPARED = Prepared(np.zeros((1, 1, 3), np.uint8), np.zeros(1, np.uint8), (1, 1), Stages())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not wait between attempts."""
    monkeypatch.setattr(pipeline, "RETRY_DELAY_S", 0.001)


class Replica:
    """One engine that Serve could send requests to."""

    def __init__(self, on_failure: Callable[["Replica"], None]) -> None:
        self.backend = CountingBackend()
        self.backend.open(100_000)
        limits = {"max_wait_s": 0.0, "max_queue": 1000}
        self.batcher = Batcher(self.backend, **limits, on_failure=lambda: on_failure(self))  # type: ignore[arg-type]


class Replicas:
    """Two of them, and `make` of the item for a request."""

    def __init__(self, make: Callable[[int], Item]) -> None:
        self._make = make
        self.replaced: list[Replica] = []
        self.live = [Replica(self._replace), Replica(self._replace)]

    def _replace(self, dead: Replica) -> None:
        self.replaced.append(dead)
        self.live[self.live.index(dead)] = Replica(self._replace)

    async def run(self, prepared: Awaitable[Prepared], request: Request) -> Generated:
        """The answer of the replica that has the fewest requests, as Ray delivers it."""
        await prepared
        least = min(self.live, key=lambda replica: replica.batcher.num_ongoing)
        try:
            tokens = await least.batcher.submit(self._make(int(request.id)))
        except Exception as error:
            wrapped: Any = RayTaskError("run", "a traceback", error, ip="127.0.0.1")  # type: ignore[no-untyped-call]
            raise wrapped.as_instanceof_cause() from error
        return Generated(tokens, Stages())

    async def ask(self, number: int) -> list[Any]:
        """What becomes of so many requests at the same time."""
        through = Pipeline(
            Handle(begin(prepare), ready),
            Handle(begin(self.run), ready),
            Handle(begin(finish), ready),
            PrometheusRecorder(),
            max_attempts=3,
        )
        image = ImageInput(image_url="https://host/image.png")
        requests = [Request(str(n), "caption", image, SOON_S + 1e10) for n in range(number)]
        async with asyncio.timeout(SOON_S):
            calls = (through.run(request) for request in requests)
            return await asyncio.gather(*calls, return_exceptions=True)

    def close(self) -> None:
        """Stop the engines."""
        for replica in self.live:
            replica.batcher.close()


async def ready() -> bool:
    """Always."""
    return True


async def prepare(_request: Request) -> Prepared:
    """Nothing of an image is needed."""
    return PREPARED


async def finish(_prepared: Any, generated: Generated, _request: Request) -> Finished:
    """The number of the item whose answer it is."""
    return Finished({"results": generated.tokens[0]}, Stages())


def begin(work: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., asyncio.Task[Any]]:
    """The same begun at once, as by Ray's handle."""
    return lambda *given: asyncio.create_task(work(*given))


@pytest.mark.parametrize("sickness", [RuntimeError, DeviceFault])
def test_a_replica_with_a_sick_device_ends_no_request(sickness: type[Exception]) -> None:
    """Though it is the first to be free, and gets most of them for as long as it is there."""
    replicas = Replicas(lambda number: Item(number, steps=2))
    sick = replicas.live[0]
    sick.backend.is_sick, sick.backend.sickness = True, sickness

    found = asyncio.run(replicas.ask(500))

    assert [each.output["results"] for each in found] == list(range(500))
    assert replicas.replaced == [sick]
    replicas.close()


def test_a_request_that_breaks_every_device_ends_after_its_attempts() -> None:
    """With an error that says so; the others are answered, or have been as unlucky."""
    deadly = 3
    replicas = Replicas(
        lambda number: poison(number, error=DeviceFault) if number == deadly else Item(number)
    )

    found = asyncio.run(replicas.ask(deadly + 1))

    assert isinstance(found[deadly], RunnerDisconnected)
    assert len(replicas.replaced) == 3
    replicas.close()


def test_a_replica_whose_engine_has_stopped_is_no_process_any_more() -> None:
    """Whatever else its process does."""
    script = (
        "import threading, time\n"
        "from deployments.inference import end_process\n"
        "threading.Thread(target=end_process).start()\n"
        "time.sleep(600)"
    )
    done = subprocess.run([sys.executable, "-c", script], timeout=120)
    assert done.returncode == 1
