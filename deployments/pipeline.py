"""The path of one run: Preprocess → Inference → Postprocess, begun again when a replica dies.

Serve does not repeat a request that a replica had accepted, because it cannot know
whether that is safe. Here it is: the answer depends on the input alone.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
)
from ray.serve.handle import DeploymentHandle

from deployments.errors import (
    NotReady,
    Overloaded,
    RequestTimeout,
    RunnerDisconnected,
)
from deployments.florence.run import Finished, Run
from deployments.metrics import Recorder

DEATHS = (RayActorError, ObjectLostError, ReplicaUnavailableError)
RETRY_DELAY_S = 0.2
READY_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Box:
    """A neighbour: methods of a handle in production, functions in a test.

    `run` begins the box's work; its arguments may be what another box has begun.
    """

    run: Callable[..., Awaitable[Any]]
    ready: Callable[[], Awaitable[bool]]


def box_of(neighbour: "Box | DeploymentHandle[Any]") -> Box:
    """A neighbour as the pipeline calls it, whichever way it was given."""
    if isinstance(neighbour, Box):
        return neighbour
    return Box(run=neighbour.run.remote, ready=neighbour.ready.remote)


class Pipeline:
    """Runs requests through three neighbours.

    What one box has begun is passed on without waiting for it,
    so an image goes from Preprocess to the others and never through this process.
    """

    def __init__(
        self,
        preprocess: Box,
        inference: Box,
        postprocess: Box,
        recorder: Recorder,
        max_attempts: int,
    ) -> None:
        self._preprocess = preprocess
        self._inference = inference
        self._postprocess = postprocess
        self._recorder = recorder
        self._max_attempts = max_attempts

    async def run(self, run: Run) -> Finished:
        """The finished run.

        Raises:
            ServiceError: what the client should see; nothing of Ray's gets out.
        """
        try:
            async with asyncio.timeout(run.deadline - time.time()):
                return await self._attempts(run)
        except TimeoutError:
            raise RequestTimeout() from None

    async def ready(self) -> bool:
        """Whether every box answers now."""
        boxes = (self._preprocess, self._inference, self._postprocess)
        with suppress(TimeoutError, RayError, RayServeException):
            async with asyncio.timeout(READY_TIMEOUT_S):
                return all(await asyncio.gather(*(box.ready() for box in boxes)))
        return False

    async def _attempts(self, run: Run) -> Finished:
        attempt = 1
        while True:
            try:
                return await self._attempt(run)
            except DEATHS as error:
                if attempt == self._max_attempts:
                    raise RunnerDisconnected() from error
            self._recorder.record("florence_ingress_retries_total")
            await asyncio.sleep(RETRY_DELAY_S * attempt)
            attempt += 1

    async def _attempt(self, run: Run) -> Finished:
        begun: list[Awaitable[Any]] = []
        light = run.without_image()
        try:
            begun.append(self._preprocess.run(run))
            begun.append(self._inference.run(begun[0], light))
            answer = await self._answer(begun[1])
            begun.append(self._postprocess.run(begun[0], answer, light))
            finished: Finished = await begun[2]
            return finished
        except BaseException as error:
            for awaitable in begun:
                cancel(awaitable)
            raise meant(error) from error

    async def _answer(self, begun: Any) -> Any:
        """What Postprocess is given of Inference's work: what has begun, without waiting for it."""
        return begun


def cancel(begun: Awaitable[Any]) -> None:
    """Let a box stop what nobody waits for any more."""
    stop = getattr(begun, "cancel", None)
    if stop is not None:
        with suppress(RayError, RayServeException):  # it tells of its own failure once more
            stop()


def meant(error: BaseException) -> BaseException:
    """The error that a box raised, out of what Ray made of it on the way."""
    match error:
        case RayTaskError():
            return meant(error.cause)
        case BackPressureError():
            return Overloaded()
        case DeploymentUnavailableError():
            return NotReady()
        case RayServeException(__cause__=RayActorError() as death):  # of a box before this one
            return meant(death)
        case _:
            return error
