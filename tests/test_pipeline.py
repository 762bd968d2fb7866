"""One request through three deployments that are functions; Ray is imported, never started."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from grpc import StatusCode  # type: ignore[import-untyped]
from grpc.aio import AioRpcError, Metadata  # type: ignore[import-untyped]
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ObjectLostError,
    RayActorError,
    RayTaskError,
)
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
)

from deployments import pipeline
from deployments.errors import (
    EngineStopped,
    GenerationError,
    ImageLoadError,
    InternalError,
    NotReady,
    Overloaded,
    RequestTimeout,
    RunnerDisconnected,
    ServiceError,
)
from deployments.florence.checkpoint import image_size, open_checkpoint
from deployments.florence.messages import (
    Finished,
    Generated,
    Partial,
    PartialOutput,
    Prepared,
    Request,
)
from deployments.florence.schemas import ImageInput
from deployments.florence.stages import Stages
from deployments.pipeline import Handle, Pipeline, are_small
from deployments.settings import ModelSettings

NAMES = ("preprocess", "inference", "postprocess")
FINISHED = Finished({"results": "a red circle"}, Stages())
PREPARED = Prepared(
    np.zeros((2, 2, 3), np.uint8), np.ones(5, np.uint8), (640, 480), Stages(fetch_s=0.5)
)
GENERATED = Generated((5, 6), Stages(fetch_s=0.5, width=640, height=480))
RESULTS = {"preprocess": PREPARED, "inference": GENERATED, "postprocess": FINISHED}
BY_REFERENCE, BY_VALUE = "https://host/image.png", "data:,bytes"
both_ways = pytest.mark.parametrize("url", [BY_REFERENCE, BY_VALUE])


class Deployments:
    """Three deployments that take turns, and what happened to them.

    `plans` says what one does at each call: an error to raise, a time to take, or None.
    """

    def __init__(self, **plans: Sequence[BaseException | float | None]) -> None:
        self.plans = {name: list(plan) for name, plan in plans.items()}
        self.log: list[str] = []
        self.counted: list[str] = []
        self.causes: list[str] = []
        self.lost: list[BaseException] = []

    def pipeline(self, max_attempts: int = 3) -> Pipeline:
        """A pipeline through them."""
        preprocess, inference, postprocess = map(self.handle, NAMES)
        return Pipeline(preprocess, inference, postprocess, self, max_attempts)

    def record(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Count, as a recorder does."""
        self.counted.append(name)
        self.causes.append(labels["cause"])

    def refresh(self) -> None:
        """Nothing is forgotten here."""

    def handle(self, name: str) -> Handle:
        """Begins the work in a task, as Ray's handle does."""

        def run(*given: Any) -> Awaitable[Any]:
            return asyncio.create_task(self.work(name, given))

        return Handle(run, self.ready, run_by_value=run, raise_loss=self.raise_loss)

    async def raise_loss(self, begun: Any) -> None:
        """Raise what became of it, once if `lost` says so."""
        if self.lost:
            raise self.lost.pop()

    async def ready(self) -> bool:
        """Every deployment is ready."""
        return True

    async def work(self, name: str, given: tuple[Any, ...]) -> Any:
        """Wait for what came before, then do as planned."""
        try:
            before = [await each if isinstance(each, asyncio.Task) else each for each in given]
            self.log.append(name)
            plan = self.plans[name].pop(0) if self.plans.get(name) else None
            if isinstance(plan, BaseException):
                raise plan
            await asyncio.sleep(plan or 0)
        except asyncio.CancelledError:
            self.log.append(f"{name} cancelled")
            raise
        assert isinstance(before[-1], Request)
        return RESULTS[name]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not wait between attempts."""
    monkeypatch.setattr(pipeline, "RETRY_DELAY_S", 0.001)
    monkeypatch.setattr(pipeline, "READY_TIMEOUT_S", 0.1)
    monkeypatch.setattr(pipeline, "LOSS_CHECK_S", 0.001)


def a_request(seconds: float = 60, url: str = BY_REFERENCE) -> Request:
    """A request with some seconds to go."""
    image = ImageInput(image_url=url)
    return Request("r", "region-proposal", image, deadline=time.time() + seconds)


def outcome(deployments: Deployments, request: Request | None = None, max_attempts: int = 3) -> Any:
    """What the pipeline returns or raises."""

    async def scenario() -> Any:
        try:
            return await deployments.pipeline(max_attempts).run(request or a_request())
        except Exception as error:
            return error

    return asyncio.run(scenario())


def task_error(cause: BaseException) -> Exception:
    """`cause` as Ray delivers it from a replica: an instance of both classes."""
    error: Any = RayTaskError("run", "a traceback", cause, ip="127.0.0.1")  # type: ignore[no-untyped-call]
    found: Exception = error.as_instanceof_cause()
    return found


@both_ways
def test_a_request_goes_through_the_deployments_in_order(url: str) -> None:
    """Each runs once, on what the ones before it made, and the answer comes back."""
    deployments = Deployments()
    assert outcome(deployments, a_request(url=url)) == FINISHED
    assert deployments.log == ["preprocess", "inference", "postprocess"]
    assert deployments.counted == []


class Seen:
    """Deployments that remember what they were given, and what they began."""

    def __init__(self) -> None:
        self.given: dict[str, tuple[Any, ...]] = {}
        self.begun: dict[str, Awaitable[Any]] = {}

    def begins(self, name: str, way: str = "") -> Callable[..., Awaitable[Any]]:
        """A function that begins the work in one of two ways."""

        def run(*given: Any) -> Awaitable[Any]:
            made: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            made.set_result(RESULTS[name])
            self.given[name + way], self.begun[name + way] = given, made
            return made

        return run

    def see(self, request: Request, small: Sequence[str]) -> Finished:
        """One request through them; those in `small` can be asked in two ways."""

        async def scenario() -> Finished:
            plain = {name: Handle(self.begins(name), Deployments().ready) for name in NAMES}
            handles = plain | {
                name: replace(plain[name], run_by_value=self.begins(name, ", small"))
                for name in small
            }
            first, second, third = handles.values()
            return await Pipeline(first, second, third, Deployments(), 1).run(request)

        return asyncio.run(scenario())


@pytest.mark.parametrize(
    ("url", "small"), [(BY_REFERENCE, NAMES), ("data:," + "x" * pipeline.SMALL_URI, NAMES)]
)
def test_what_preprocess_has_begun_is_passed_on_unawaited(url: str, small: Sequence[str]) -> None:
    """Pixels never pass through here, and the image's address goes to Preprocess alone."""
    seen, request = Seen(), a_request(url=url)
    assert seen.see(request, small) == FINISHED
    prepared, light = seen.begun["preprocess"], request.without_image()
    assert seen.given == {
        "preprocess": (request,),
        "inference": (prepared, light),
        "postprocess": (prepared, GENERATED, light),
    }


@pytest.mark.parametrize("url", [BY_VALUE, BY_VALUE.replace("data", "Data")])
def test_a_small_image_of_the_request_itself_goes_by_value(url: str) -> None:
    """Each gets what it needs: the model no source, the picture no pixels."""
    seen, request = Seen(), a_request(url=url)
    assert seen.see(request, NAMES) == FINISHED
    assert list(seen.given) == [f"{name}, small" for name in NAMES]
    assert seen.given["preprocess, small"] == (request,)
    to_read, light = seen.given["inference, small"]
    assert (to_read.pixels is PREPARED.pixels, to_read.source.size) == (True, 0)
    to_draw, generated, light = seen.given["postprocess, small"]
    assert (to_draw.source is PREPARED.source, to_draw.pixels.size) == (True, 0)
    assert (generated, light) == (GENERATED, request.without_image())


def test_large_pixels_go_by_reference_and_what_is_drawn_by_value() -> None:
    """Of a small image that the model sees large, Postprocess gets what is here."""
    seen, request = Seen(), a_request(url=BY_VALUE)
    assert seen.see(request, ["postprocess"]) == FINISHED
    assert seen.given["inference"][0] is seen.begun["preprocess"]
    held, generated, light = seen.given["postprocess, small"]
    assert held.source.tobytes() == b"bytes"
    assert (held.pixels.size, held.size, held.stages) == (0, (640, 480), GENERATED.stages)
    assert (generated, light) == (GENERATED, request.without_image())


@pytest.mark.parametrize(
    ("size", "small"),
    [((224, 224), True), ((418, 418), True), ((419, 418), False), ((768, 768), False)],
)
def test_half_a_megabyte_is_small(size: tuple[int, int], small: bool) -> None:
    """The real model's images are not."""
    assert are_small(size) is small


def test_the_demo_sees_small_images() -> None:
    """So its tests send them by value."""
    assert are_small(image_size(ModelSettings(path="demo")))


def upstream_crash() -> RayServeException:
    """What Serve makes of the death of a deployment whose answer another one waited for."""
    error = RayServeException("an upstream actor died before finishing a dependent task")
    error.__cause__ = task_error(ActorDiedError())
    return error


DEATHS = [
    ActorDiedError(),
    ActorUnavailableError("x", None),
    ObjectLostError("ab", None, "y"),
    ReplicaUnavailableError("replica"),
    AioRpcError(StatusCode.CANCELLED, Metadata(), Metadata()),
    upstream_crash(),
    EngineStopped(),
]


CAUSES = {
    ObjectLostError: "object_lost",
    ReplicaUnavailableError: "replica_unavailable",
    AioRpcError: "connection_lost",
    EngineStopped: "engine_stopped",
}


@pytest.mark.parametrize("death", DEATHS, ids=lambda death: type(death).__name__)
@pytest.mark.parametrize("name", NAMES)
@both_ways
def test_a_request_is_attempted_again_when_a_replica_dies(
    url: str, name: str, death: Exception
) -> None:
    """And not the request, in whichever deployment the replica dies."""
    deployments = Deployments(**{name: [death, task_error(death)]})
    assert outcome(deployments, a_request(url=url)) == replace(FINISHED, attempt=3)
    assert deployments.log.count(name) == 3
    assert deployments.counted == ["florence_ingress_retries_total"] * 2
    assert deployments.causes == [CAUSES.get(type(death), "replica_died")] * 2


def test_a_request_does_not_wait_for_what_was_lost_with_a_node() -> None:
    """The call that got it would wait for ever; the process that made it alone knows."""
    deployments = Deployments(inference=[60.0, None])
    deployments.lost = [ActorUnavailableError("x", None)]
    assert outcome(deployments) == replace(FINISHED, attempt=2)
    assert deployments.causes == ["replica_died"]
    assert "inference cancelled" in deployments.log


@pytest.mark.parametrize("max_attempts", [1, 2, 4])
def test_a_request_is_given_up_after_max_attempts(max_attempts: int) -> None:
    """The client hears that the replicas died, and nothing of Ray's; no attempt is uncounted."""
    deployments = Deployments(inference=[ActorDiedError() for _ in range(10)])
    error = outcome(deployments, max_attempts=max_attempts)
    assert type(error) is RunnerDisconnected
    assert isinstance(error.__cause__, RayActorError)
    assert deployments.log.count("inference") == max_attempts
    assert deployments.counted == ["florence_ingress_retries_total"] * (max_attempts - 1)


@both_ways
def test_a_request_that_stops_one_engine_after_another_is_given_up(url: str) -> None:
    """It is told so, and stops no more of them than it has attempts."""
    stops = [task_error(EngineStopped()) for _ in range(9)]
    deployments = Deployments(inference=stops)
    error = outcome(deployments, a_request(url=url))
    assert type(error) is RunnerDisconnected
    assert (error.status, error.retryable) == (503, True)
    assert "died, and so did those that tried again" in error.message
    assert deployments.log.count("inference") == 3


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (task_error(ImageLoadError("unreadable")), ImageLoadError),
        (task_error(task_error(ImageLoadError("unreadable"))), ImageLoadError),
        (task_error(Overloaded.after(7)), Overloaded),
        (BackPressureError(5, 4), Overloaded),
        (task_error(BackPressureError(5, 4)), Overloaded),
        (DeploymentUnavailableError(DeploymentID("Inference")), NotReady),
        (RequestTimeout(), RequestTimeout),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
@pytest.mark.parametrize("name", NAMES)
@both_ways
def test_a_refusal_arrives_as_it_was_meant(
    url: str, name: str, raised: Exception, expected: type[ServiceError]
) -> None:
    """A deployment's own error comes out of Ray's wrapping, at the first attempt."""
    deployments = Deployments(**{name: [raised]})
    error = outcome(deployments, a_request(url=url))
    assert type(error) is expected
    assert "traceback" not in error.message
    assert deployments.log.count("preprocess") == 1


def test_an_unwrapped_error_keeps_what_it_carries() -> None:
    """The time in Retry-After crosses with the error."""
    error = outcome(Deployments(inference=[task_error(Overloaded.after(7))]))
    assert error.headers()["Retry-After"] == "7"


def test_an_unforeseen_error_is_not_dressed_up() -> None:
    """A bug in a deployment arrives as what it is, for the log."""
    error = outcome(Deployments(inference=[task_error(ZeroDivisionError("bug"))]))
    assert type(error) is ZeroDivisionError


@pytest.mark.parametrize("name", NAMES)
@both_ways
def test_a_request_ends_at_its_deadline(url: str, name: str) -> None:
    """A deployment that hangs is left, and what was begun is cancelled."""
    deployments = Deployments(**{name: [30.0]})
    began = time.perf_counter()
    assert type(outcome(deployments, a_request(0.05, url))) is RequestTimeout
    assert time.perf_counter() - began < 5
    assert f"{name} cancelled" in deployments.log


def test_retries_end_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts are made inside the request's time."""
    monkeypatch.setattr(pipeline, "RETRY_DELAY_S", 30)
    deployments = Deployments(inference=[ActorDiedError()])
    assert type(outcome(deployments, a_request(0.05))) is RequestTimeout


def test_a_request_that_is_too_late_costs_nothing() -> None:
    """After its deadline a request is refused, and nothing of it is finished."""
    deployments = Deployments()
    assert type(outcome(deployments, a_request(-1))) is RequestTimeout
    assert "postprocess" not in deployments.log


@both_ways
def test_a_caller_who_leaves_cancels_what_was_begun(url: str) -> None:
    """Every stage that was started is cancelled."""
    deployments = Deployments(inference=[30.0])

    async def scenario() -> None:
        task = asyncio.create_task(deployments.pipeline().run(a_request(url=url)))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)

    asyncio.run(scenario())
    assert deployments.log == ["preprocess", "inference", "inference cancelled"]


def broken(*_: Any) -> Awaitable[Any]:
    """Fails before anything has begun."""
    raise BackPressureError(1, 1)


def test_a_deployment_that_fails_at_once_cancels_the_others() -> None:
    """An error while beginning leaves nothing running."""
    deployments = Deployments(preprocess=[30.0])

    async def scenario() -> None:
        first, third = deployments.handle("preprocess"), deployments.handle("postprocess")
        with pytest.raises(Overloaded):
            await Pipeline(first, Handle(broken, deployments.ready), third, deployments, 3).run(
                a_request()
            )
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scenario())


def test_what_cannot_be_cancelled_is_left() -> None:
    """A function may return any awaitable."""

    class Plain:
        def __await__(self) -> Iterator[Any]:
            return iter(())

    pipeline.cancel(Plain())


async def hangs() -> bool:
    """Never answers."""
    await asyncio.sleep(30)
    return True


def answers(value: bool) -> Callable[[], Awaitable[bool]]:
    """A deployment that says so."""

    async def ready() -> bool:
        return value

    return ready


def fails(error: Exception) -> Callable[[], Awaitable[bool]]:
    """A deployment that cannot be asked."""

    async def ready() -> bool:
        raise error

    return ready


@pytest.mark.parametrize("position", range(3))
@pytest.mark.parametrize(
    ("ready", "expected"),
    [
        (answers(True), True),
        (answers(False), False),
        (hangs, False),
        (fails(ActorDiedError()), False),
        (fails(task_error(ValueError("broken"))), False),
        (fails(DeploymentUnavailableError(DeploymentID("Inference"))), False),
        (fails(BackPressureError(1, 1)), False),
    ],
)
def test_ready_means_that_every_deployment_answers(
    position: int, ready: Callable[[], Awaitable[bool]], expected: bool
) -> None:
    """One that says no, hangs or fails is enough for no, and soon."""
    handles = [Handle(Deployments().handle("x").run, answers(True)) for _ in range(3)]
    handles[position] = Handle(handles[0].run, ready)

    async def scenario() -> bool:
        first, second, third = handles
        return await Pipeline(first, second, third, Deployments(), 1).ready()

    assert expected == asyncio.run(scenario())


def test_a_failure_while_cancelling_is_not_the_answer() -> None:
    """Serve raises a request's own failure again when it is cancelled; the first one counts."""

    class Failed:
        def cancel(self) -> None:
            raise upstream_crash()

        def __await__(self) -> Any:
            yield

    pipeline.cancel(Failed())


VOCABULARY = open_checkpoint(ModelSettings(path="demo")).vocabulary
LOCATIONS = {bin_: id_ for id_, bin_ in VOCABULARY.bins.items()}
TOKENS = tuple(LOCATIONS[bin_] for bin_ in (0, 0, 9, 9, 10, 10, 19, 19, 20, 20, 29, 29))

Step = int | float | BaseException | Generated


class Stream:
    """What Inference's handle begins: steps are lengths, waits, an error or the answer."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.is_cancelled = False
        self._stream = self._steps(steps)

    def __aiter__(self) -> AsyncIterator[Partial | Generated]:
        return self._stream

    def cancel(self) -> None:
        """Stop."""
        self.is_cancelled = True

    async def _steps(self, steps: Sequence[Step]) -> AsyncIterator[Partial | Generated]:
        for step in steps:
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, Generated):
                yield step
            elif isinstance(step, float):
                await asyncio.sleep(step)
            else:
                yield Partial(TOKENS[:step], (1000, 1000))


class Streaming(Deployments):
    """Deployments of which Inference streams what is planned for each attempt."""

    def __init__(self, *attempts: Sequence[Step]) -> None:
        super().__init__()
        self.streams = [Stream(steps) for steps in attempts]
        self.num_boxes: list[int] = []
        self._left = list(self.streams)

    async def run(self, seconds: float = 60, max_attempts: int = 3) -> Finished:
        """A request through them."""
        streaming = Handle(broken, self.ready, stream=self._stream)
        first, third = self.handle("preprocess"), self.handle("postprocess")
        through = Pipeline(first, streaming, third, self, max_attempts, VOCABULARY)
        return await through.run(a_request(seconds), self._count)

    def _stream(self, prepared: Any, request: Request) -> Any:
        assert isinstance(prepared, asyncio.Task)  # pixels are passed on unawaited
        assert request.input.image_url == ""
        return self._left.pop(0)

    def _count(self, partial: PartialOutput) -> None:
        self.num_boxes.append(len(partial.output["results"]["bboxes"]))


def test_partial_answers_come_as_they_are_written() -> None:
    """Each has one box more; Postprocess gets the whole answer."""
    streaming = Streaming([2, 4, 6, 8, GENERATED])

    assert asyncio.run(streaming.run()) == FINISHED
    assert streaming.num_boxes == [1, 2]
    assert streaming.log == ["preprocess", "postprocess"]


def test_a_streamed_request_is_attempted_again() -> None:
    """It goes on from where it was."""
    died = task_error(ActorDiedError())
    streaming = Streaming([4, 8, ActorDiedError()], [4, died], [4, 8, 12, GENERATED])

    assert asyncio.run(streaming.run()) == replace(FINISHED, attempt=3)
    assert streaming.num_boxes == [1, 2, 3]
    assert streaming.causes == ["replica_died"] * 2


def test_a_streamed_request_does_not_wait_for_what_was_lost_with_a_node() -> None:
    """It goes on from where it was, likewise."""
    streaming = Streaming([4, 8, 60.0], [4, 8, 12, GENERATED])
    streaming.lost = [ActorUnavailableError("x", None)]
    assert asyncio.run(streaming.run()) == replace(FINISHED, attempt=2)
    assert streaming.num_boxes == [1, 2, 3]
    assert streaming.streams[0].is_cancelled


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([4, ActorDiedError()], RunnerDisconnected),
        ([4, task_error(GenerationError())], GenerationError),
        ([4, 30.0], RequestTimeout),
        ([4], InternalError),
    ],
)
def test_a_stream_that_fails_is_cancelled(
    steps: Sequence[Step], expected: type[ServiceError]
) -> None:
    """After a death, at an error of its own, at the deadline, or without an end."""
    streaming = Streaming(steps)

    with pytest.raises(expected):
        asyncio.run(streaming.run(seconds=0.05 if 30.0 in steps else 60, max_attempts=1))
    assert streaming.num_boxes == [1]
    assert streaming.streams[0].is_cancelled


def test_a_caller_who_leaves_ends_the_stream() -> None:
    """Inference is cancelled."""
    streaming = Streaming([4, 30.0])

    async def scenario() -> None:
        running = asyncio.create_task(streaming.run())
        await asyncio.sleep(0.02)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(scenario())
    assert streaming.streams[0].is_cancelled
