"""One request through three deployments: Preprocess → Inference → Postprocess.

A request whose replica dies, or whose engine stops, is attempted again. Serve does not repeat what
a replica had accepted, because it cannot know whether that is safe. Here it is: the answer depends
on the input alone.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Self

import numpy as np
from grpc.aio import AioRpcError  # type: ignore[import-untyped]
from ray.exceptions import ObjectLostError, RayActorError, RayError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
)
from ray.serve.handle import DeploymentHandle

from deployments.errors import (
    EngineStopped,
    InternalError,
    NotReady,
    Overloaded,
    RequestTimeout,
    RunnerDisconnected,
)
from deployments.florence.messages import Finished, Generated, Partial, Prepared, Request
from deployments.florence.partial_parser import OnPartial, PartialParser
from deployments.florence.tasks import TASKS
from deployments.florence.vocabulary import Vocabulary
from deployments.images.data_uri import read_data_uri
from deployments.ray_compat import original_error, pass_by_value, raise_loss
from deployments.telemetry.metrics import Recorder

DEATHS = (RayActorError, ObjectLostError, ReplicaUnavailableError, AioRpcError, EngineStopped)
RETRY_DELAY_S = 0.2
READY_TIMEOUT_S = 2.0
LOSS_CHECK_S = 1.0
SMALL_URI = 256 * 1024  # characters, unpacked in half a millisecond
SMALL_PIXELS = 512 * 1024  # bytes

Call = Callable[..., Awaitable[Any]]
Begin = Callable[..., Any]  # makes a call, and remembers it until the attempt has ended


@dataclass(frozen=True)
class Handle:
    """How a deployment is called: methods of Ray's handle in production, functions in a test.

    `run` begins its work; the arguments may be what another deployment has begun.
    `run_by_value`, where there is one, begins the same if all arguments are here and small:
    Serve passes arguments and results through Ray's object store, by reference. What is small is
    cheaper by value, over gRPC: an image's two hops take 2.6 ms of processor time instead of 8
    with 150 kB of pixels, as much with 0.8 MB, and a quarter more with the 1.8 MB of the real
    model's (docs/benchmarks.md).
    `stream`, of Inference, begins the same and returns `Partial` each time there is more, at last
    `Generated`.
    `raise_loss`, where there is one, raises what became of what `run` has begun, if a lost node
    had it.
    """

    run: Call
    ready: Callable[[], Awaitable[bool]]
    run_by_value: Call | None = None
    stream: Callable[..., AsyncIterator[Partial | Generated]] | None = None
    raise_loss: Call | None = None

    @classmethod
    def to(cls, deployment: "AnyHandle", by_value: bool = True) -> "Handle":
        """The handle to a deployment; without `by_value`, what it takes or returns can be large."""
        if isinstance(deployment, Handle):
            return deployment
        stream: Any = deployment.options(stream=True).stream.remote
        small = pass_by_value(deployment).run.remote if by_value else None
        return cls(deployment.run.remote, deployment.ready.remote, small, stream, raise_loss)


AnyHandle = Handle | DeploymentHandle[Any]


class Pipeline:
    """Runs requests.

    Args:
        vocabulary: of the model's answers, where `run` is given an `on_partial`.
        max_attempts: how often a request is tried while replicas die.
    """

    def __init__(
        self,
        preprocess: Handle,
        inference: Handle,
        postprocess: Handle,
        recorder: Recorder,
        max_attempts: int,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        self._preprocess = preprocess
        self._inference = inference
        self._postprocess = postprocess
        self._recorder = recorder
        self._max_attempts = max_attempts
        self._vocabulary = vocabulary

    @classmethod
    def between(
        cls,
        preprocess: AnyHandle,
        inference: AnyHandle,
        postprocess: AnyHandle,
        image_size: tuple[int, int],
        **more: Any,
    ) -> Self:
        """The pipeline between deployments; the model sees images of this (width, height)."""
        by_value = are_small(image_size)
        handles = Handle.to(preprocess, by_value), Handle.to(inference, by_value)
        return cls(*handles, Handle.to(postprocess), **more)

    async def run(self, request: Request, on_partial: OnPartial | None = None) -> Finished:
        """The finished request.

        `on_partial` gets the output so far each time it has grown.

        Raises:
            ServiceError: what the client should see; nothing of Ray's gets out.
        """
        parser = self._parser(request, on_partial) if on_partial else None
        try:
            async with asyncio.timeout(request.deadline - time.time()):
                return await self._attempts(request, parser)
        except TimeoutError:
            raise RequestTimeout() from None

    async def ready(self) -> bool:
        """Whether every deployment answers now."""
        handles = (self._preprocess, self._inference, self._postprocess)
        with suppress(TimeoutError, RayError, RayServeException):
            async with asyncio.timeout(READY_TIMEOUT_S):
                return all(await asyncio.gather(*(handle.ready() for handle in handles)))
        return False

    def _parser(self, request: Request, on_partial: OnPartial) -> PartialParser:
        assert self._vocabulary
        return PartialParser(TASKS[request.task], request.input, self._vocabulary, on_partial)

    async def _attempts(self, request: Request, parser: PartialParser | None) -> Finished:
        attempt = 1
        while True:
            try:
                finished = await self._attempt(request, parser)
                return finished if attempt == 1 else replace(finished, attempt=attempt)
            except DEATHS as error:
                if attempt == self._max_attempts:
                    raise RunnerDisconnected() from error
                cause = cause_of(error)
            self._recorder.record("florence_ingress_retries_total", cause=cause)
            await asyncio.sleep(RETRY_DELAY_S * attempt)
            attempt += 1

    async def _attempt(self, request: Request, parser: PartialParser | None) -> Finished:
        begun: list[Any] = []

        def begin(call: Callable[..., Any], *given: Any) -> Any:
            begun.append(call(*given))
            return begun[-1]

        try:
            if parser is None and self._is_small(request):
                return await self._by_value(request, begin)
            return await self._by_reference(request, begin, parser)
        except BaseException as error:
            for each in begun:
                cancel(each)
            raise unwrapped(error) from error

    def _is_small(self, request: Request) -> bool:
        by_value = self._preprocess.run_by_value and self._inference.run_by_value
        return bool(by_value) and has_small_image(request)

    async def _by_value(self, request: Request, begin: Begin) -> Finished:
        """Each deployment gets what it needs of what the one before it has made."""
        light = request.without_image()
        prepared: Prepared = await begin(self._preprocess.run_by_value, request)
        generated: Generated = await begin(
            self._inference.run_by_value, prepared.without_source(), light
        )
        draw = self._postprocess.run_by_value or self._postprocess.run
        finished: Finished = await begin(draw, prepared.without_pixels(), generated, light)
        return finished

    async def _by_reference(
        self, request: Request, begin: Begin, parser: PartialParser | None
    ) -> Finished:
        """What Preprocess has begun is passed on unawaited, so that its pixels never come here."""
        prepared = begin(self._preprocess.run, request)
        return await self._unless_lost(prepared, self._with(prepared, request, begin, parser))

    async def _unless_lost(self, prepared: Any, rest: Coroutine[Any, Any, Finished]) -> Finished:
        """What `rest` returns, or the error of `prepared`, for which it could wait in vain."""
        tasks = asyncio.ensure_future(rest), asyncio.ensure_future(self._watch(prepared))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return next(task.result() for task in tasks if task.done())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, prepared: Any) -> NoReturn:
        while True:
            await asyncio.sleep(LOSS_CHECK_S)
            if self._preprocess.raise_loss:
                await self._preprocess.raise_loss(prepared)

    async def _with(
        self, prepared: Any, request: Request, begin: Begin, parser: PartialParser | None
    ) -> Finished:
        light = request.without_image()
        generated = await self._generate(prepared, light, begin, parser)
        finished: Finished
        if self._postprocess.run_by_value and has_small_image(request):
            prepared = prepared_here(request, generated)
            finished = await begin(self._postprocess.run_by_value, prepared, generated, light)
        else:
            finished = await begin(self._postprocess.run, prepared, generated, light)
        return finished

    async def _generate(
        self, prepared: Any, light: Request, begin: Begin, parser: PartialParser | None
    ) -> Generated:
        if parser is None:
            generated: Generated = await begin(self._inference.run, prepared, light)
            return generated
        async for partial in begin(self._inference.stream, prepared, light):
            if isinstance(partial, Generated):
                return partial
            parser.parse(partial)
        raise InternalError("The model's answer has no end.")


def are_small(image_size: tuple[int, int]) -> bool:
    """Whether images of this (width, height), three bytes a pixel, are worth passing by value."""
    width, height = image_size
    return 3 * width * height <= SMALL_PIXELS


def has_small_image(request: Request) -> bool:
    """Whether its image came with the request, and is soon unpacked."""
    url = request.input.image_url
    return url[:5].lower() == "data:" and len(url) <= SMALL_URI


def prepared_here(request: Request, generated: Generated) -> Prepared:
    """The image in the data URI of `request`, to draw on; it has no pixels for the model."""
    source = np.frombuffer(read_data_uri(request.input.image_url, SMALL_URI), np.uint8)
    stages = generated.stages
    return Prepared(source[:0], source, (stages.width, stages.height), stages)


def cause_of(death: BaseException) -> str:
    """How the death of a replica showed."""
    match death:
        case RayActorError():
            return "replica_died"
        case ObjectLostError():
            return "object_lost"
        case ReplicaUnavailableError():
            return "replica_unavailable"
        case EngineStopped():
            return "engine_stopped"
        case _:
            return "connection_lost"


def cancel(begun: Any) -> None:
    """Stop a call whose result is not needed any more."""
    stop = getattr(begun, "cancel", None)
    if stop is not None:
        with suppress(RayError, RayServeException):  # the call's own failure is raised once more
            stop()


def unwrapped(error: BaseException) -> BaseException:
    """The error that a deployment raised, out of what Ray made of it on the way."""
    match original_error(error):
        case BackPressureError():
            return Overloaded()
        case DeploymentUnavailableError():
            return NotReady()
        case original:
            return original
