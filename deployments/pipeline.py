"""The path of one run: Preprocess → Inference → Postprocess, begun again when a replica dies.

Serve does not repeat a request that a replica had accepted, because it cannot know
whether that is safe. Here it is: the answer depends on the input alone.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
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

from deployments.box import Box
from deployments.errors import (
    NotReady,
    Overloaded,
    RequestTimeout,
    RunnerDisconnected,
)
from deployments.florence.request import Finished, Generated, Prepared, Run
from deployments.images.data_uri import read_data_uri
from deployments.telemetry.metrics import Recorder

DEATHS = (RayActorError, ObjectLostError, ReplicaUnavailableError, AioRpcError)
RETRY_DELAY_S = 0.2
SMALL = 256 * 1024  # characters, unpacked in half a millisecond
READY_TIMEOUT_S = 2.0

Begin = Callable[..., Awaitable[Any]]  # calls a box, and remembers what that has begun


class Pipeline:
    """Runs requests through three neighbours.

    A small image that came with the request goes from box to box by value. For any other, what
    Preprocess has begun is passed on without waiting for it, so its pixels never come here.
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
                finished = await self._attempt(run)
                return finished if attempt == 1 else replace(finished, attempt=attempt)
            except DEATHS as error:
                if attempt == self._max_attempts:
                    raise RunnerDisconnected() from error
                cause = cause_of(error)
            self._recorder.record("florence_ingress_retries_total", cause=cause)
            await asyncio.sleep(RETRY_DELAY_S * attempt)
            attempt += 1

    async def _attempt(self, run: Run) -> Finished:
        begun: list[Awaitable[Any]] = []

        def begin(box: Callable[..., Awaitable[Any]], *given: Any) -> Awaitable[Any]:
            begun.append(box(*given))
            return begun[-1]

        path = self._by_value if self._is_small(run) else self._by_reference
        try:
            return await path(run, begin)
        except BaseException as error:
            for awaitable in begun:
                cancel(awaitable)
            raise meant(error) from error

    def _is_small(self, run: Run) -> bool:
        """Whether all that is made of the image on the way is small, as the image is."""
        return bool(self._preprocess.run_small and self._inference.run_small) and is_small(run)

    async def _by_value(self, run: Run, begin: Begin) -> Finished:
        """Every box is handed what it needs of what the one before it has made."""
        light = run.without_image()
        prepared: Prepared = await begin(self._preprocess.small, run)
        generated = await self._answer(begin(self._inference.small, prepared.to_read(), light))
        finished: Finished = await begin(
            self._postprocess.small, prepared.to_draw(), generated, light
        )
        return finished

    async def _by_reference(self, run: Run, begin: Begin) -> Finished:
        """Inference is handed what Preprocess has begun; Postprocess too, unless it is here."""
        light = run.without_image()
        prepared = begin(self._preprocess.run, run)
        generated = await self._answer(begin(self._inference.run, prepared, light))
        finished: Finished
        draw = self._postprocess.run_small
        if draw and is_small(run):
            finished = await begin(draw, held(run, generated), generated, light)
        else:
            finished = await begin(self._postprocess.run, prepared, generated, light)
        return finished

    async def _answer(self, begun: Any) -> Generated:
        """Inference's answer, out of what it has begun."""
        generated: Generated = await begun
        return generated


def cause_of(death: BaseException) -> str:
    """How the death of a replica showed."""
    match death:
        case RayActorError():
            return "replica_died"
        case ObjectLostError():
            return "object_lost"
        case ReplicaUnavailableError():
            return "replica_unavailable"
        case _:
            return "connection_lost"


def is_small(run: Run) -> bool:
    """Whether its image came with the request, and is soon unpacked."""
    return run.image_url[:5].lower() == "data:" and len(run.image_url) <= SMALL


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
