"""The path of one run: Preprocess → Inference → Postprocess, begun again when a replica dies.

Serve does not repeat a request that a replica had accepted, because it cannot know
whether that is safe. Here it is: the answer depends on the input alone.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
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
from deployments.florence.request import Finished, Generated, Prepared, Request
from deployments.images.data_uri import read_data_uri
from deployments.telemetry.metrics import Recorder

DEATHS = (RayActorError, ObjectLostError, ReplicaUnavailableError, AioRpcError)
RETRY_DELAY_S = 0.2
SMALL = 256 * 1024  # characters, unpacked in half a millisecond
READY_TIMEOUT_S = 2.0
SMALL_PIXELS = 512 * 1024  # bytes

Begin = Callable[..., Awaitable[Any]]  # calls a deployment, and remembers what that has begun


@dataclass(frozen=True)
class Handle:
    """How a deployment is called: methods of Ray's handle in production, functions in a test.

    `run` begins its work; the arguments may be what another deployment has begun.
    `run_by_value`, where there is one, begins the same if all arguments are here and small:
    Serve passes arguments and results through Ray's object store, by reference. What is small is
    cheaper by value, over gRPC: an image's two hops take 2.6 ms of processor time instead of 8
    with 150 kB of pixels, as much with 0.8 MB, and a quarter more with the 1.8 MB of the real
    model's (`docs/benchmarks.md`).
    """

    run: Callable[..., Awaitable[Any]]
    ready: Callable[[], Awaitable[bool]]
    run_by_value: Callable[..., Awaitable[Any]] | None = None

    @property
    def run_small(self) -> Callable[..., Awaitable[Any]]:
        """The better way to begin when all arguments are here and small."""
        return self.run_by_value or self.run


def handle_of(deployment: Handle | DeploymentHandle[Any], small: bool = True) -> Handle:
    """A deployment as the pipeline calls it, whichever way it was given.

    Without `small`, what it takes or returns can be large.
    """
    if isinstance(deployment, Handle):
        return deployment
    run, ready = deployment.run.remote, deployment.ready.remote
    by_value = deployment.options(_by_reference=False).run.remote if small else None
    return Handle(run, ready, by_value)


def are_small(image_size: tuple[int, int]) -> bool:
    """Whether images of this (width, height), three bytes a pixel, are worth passing by value."""
    width, height = image_size
    return 3 * width * height <= SMALL_PIXELS


class Pipeline:
    """Runs requests through three neighbours.

    A small image that came with the request goes from one to the next by value. For any other, what
    Preprocess has begun is passed on without waiting for it, so its pixels never come here.
    """

    def __init__(
        self,
        preprocess: Handle,
        inference: Handle,
        postprocess: Handle,
        recorder: Recorder,
        max_attempts: int,
    ) -> None:
        self._preprocess = preprocess
        self._inference = inference
        self._postprocess = postprocess
        self._recorder = recorder
        self._max_attempts = max_attempts

    async def run(self, run: Request) -> Finished:
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
        """Whether every deployment answers now."""
        handles = (self._preprocess, self._inference, self._postprocess)
        with suppress(TimeoutError, RayError, RayServeException):
            async with asyncio.timeout(READY_TIMEOUT_S):
                return all(await asyncio.gather(*(handle.ready() for handle in handles)))
        return False

    async def _attempts(self, run: Request) -> Finished:
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

    async def _attempt(self, run: Request) -> Finished:
        begun: list[Awaitable[Any]] = []

        def begin(call: Callable[..., Awaitable[Any]], *given: Any) -> Awaitable[Any]:
            begun.append(call(*given))
            return begun[-1]

        path = self._by_value if self._is_small(run) else self._by_reference
        try:
            return await path(run, begin)
        except BaseException as error:
            for awaitable in begun:
                cancel(awaitable)
            raise meant(error) from error

    def _is_small(self, run: Request) -> bool:
        """Whether all that is made of the image on the way is small, as the image is."""
        return bool(self._preprocess.run_by_value and self._inference.run_by_value) and is_small(
            run
        )

    async def _by_value(self, run: Request, begin: Begin) -> Finished:
        """Every deployment is handed what it needs of what the one before it has made."""
        light = run.without_image()
        prepared: Prepared = await begin(self._preprocess.run_small, run)
        generated = await self._answer(begin(self._inference.run_small, prepared.to_read(), light))
        finished: Finished = await begin(
            self._postprocess.run_small, prepared.to_draw(), generated, light
        )
        return finished

    async def _by_reference(self, run: Request, begin: Begin) -> Finished:
        """Inference is handed what Preprocess has begun; Postprocess too, unless it is here."""
        light = run.without_image()
        prepared = begin(self._preprocess.run, run)
        generated = await self._answer(begin(self._inference.run, prepared, light))
        finished: Finished
        draw = self._postprocess.run_by_value
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


def is_small(run: Request) -> bool:
    """Whether its image came with the request, and is soon unpacked."""
    return run.image_url[:5].lower() == "data:" and len(run.image_url) <= SMALL


def held(run: Request, generated: Generated) -> Prepared:
    """The image in the data URI of `run`, to draw on; it has no pixels for the model."""
    source = np.frombuffer(read_data_uri(run.image_url, SMALL), np.uint8)
    stages = generated.stages
    return Prepared(source[:0], source, (stages.width, stages.height), stages)


def cancel(begun: Awaitable[Any]) -> None:
    """Let a deployment stop what nobody waits for any more."""
    stop = getattr(begun, "cancel", None)
    if stop is not None:
        with suppress(RayError, RayServeException):  # it tells of its own failure once more
            stop()


def meant(error: BaseException) -> BaseException:
    """The error that a deployment raised, out of what Ray made of it on the way."""
    match error:
        case RayTaskError():
            return meant(error.cause)
        case BackPressureError():
            return Overloaded()
        case DeploymentUnavailableError():
            return NotReady()
        case RayServeException(__cause__=RayActorError() as death):  # of one before this one
            return meant(death)
        case _:
            return error
