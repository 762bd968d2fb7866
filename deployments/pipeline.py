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

import numpy as np
from grpc.aio import AioRpcError  # type: ignore[import-untyped]
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
from deployments.florence.run import Finished, Generated, Prepared, Run
from deployments.images.data_uri import read_data_uri
from deployments.metrics import Recorder

DEATHS = (RayActorError, ObjectLostError, ReplicaUnavailableError, AioRpcError)
RETRY_DELAY_S = 0.2
SMALL = 256 * 1024  # characters, unpacked in half a millisecond; larger images go by reference
READY_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Box:
    """A neighbour: methods of a handle in production, functions in a test.

    `run` begins the box's work; its arguments may be what another box has begun.
    `run_small`, where there is one, begins the same if all arguments are here and small.
    """

    run: Callable[..., Awaitable[Any]]
    ready: Callable[[], Awaitable[bool]]
    run_small: Callable[..., Awaitable[Any]] | None = None


def box_of(neighbour: "Box | DeploymentHandle[Any]") -> Box:
    """A neighbour as the pipeline calls it, whichever way it was given."""
    if isinstance(neighbour, Box):
        return neighbour
    by_value = neighbour.options(_by_reference=False)  # over gRPC, not through the object store
    return Box(neighbour.run.remote, neighbour.ready.remote, by_value.run.remote)


class Pipeline:
    """Runs requests through three neighbours.

    What Preprocess has begun is passed on without waiting for it, so pixels never pass through
    this process. To draw on, a small image that came with the request goes from here by value.
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
            generated = await self._answer(begun[1])
            begun.append(self._finish(run, begun[0], generated))
            finished: Finished = await begun[2]
            return finished
        except BaseException as error:
            for awaitable in begun:
                cancel(awaitable)
            raise meant(error) from error

    async def _answer(self, begun: Any) -> Generated:
        """Inference's answer, out of what it has begun."""
        generated: Generated = await begun
        return generated

    def _finish(self, run: Run, prepared: Any, generated: Generated) -> Awaitable[Any]:
        """Begin Postprocess's work."""
        light, small = run.without_image(), self._postprocess.run_small
        if small and run.image_url[:5].lower() == "data:" and len(run.image_url) <= SMALL:
            return small(held(run, generated), generated, light)
        return self._postprocess.run(prepared, generated, light)


def held(run: Run, generated: Generated) -> Prepared:
    """The image in the data URI of `run`, to draw on; it has no pixels for the model."""
    source = np.frombuffer(read_data_uri(run.image_url, SMALL), np.uint8)
    stages = generated.stages
    return Prepared(source[:0], source, (stages.width, stages.height), stages)


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
