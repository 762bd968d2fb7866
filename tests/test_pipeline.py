"""The path of one run, with functions in place of boxes; Ray is imported and never started."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
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
    ImageLoadError,
    NotReady,
    Overloaded,
    RequestTimeout,
    RunnerDisconnected,
    ServiceError,
)
from deployments.florence.request import Finished, Generated, Prepared, Request, Stages
from deployments.pipeline import Handle, Pipeline

NAMES = ("preprocess", "inference", "postprocess")
FINISHED = Finished({"results": "a red circle"}, Stages())
PREPARED = Prepared(
    np.zeros((2, 2, 3), np.uint8), np.ones(5, np.uint8), (640, 480), Stages(fetch_s=0.5)
)
GENERATED = Generated((5, 6), Stages(fetch_s=0.5, width=640, height=480))
RESULTS = {"preprocess": PREPARED, "inference": GENERATED, "postprocess": FINISHED}
BY_REFERENCE, BY_VALUE = "https://host/image.png", "data:,bytes"
both_ways = pytest.mark.parametrize("url", [BY_REFERENCE, BY_VALUE])


class Boxes:
    """Three neighbours that take turns, and what happened to them.

    `plans` says what a box does at each call: an error to raise, a time to take, or None.
    """

    def __init__(self, **plans: Sequence[BaseException | float | None]) -> None:
        self.plans = {box: list(plan) for box, plan in plans.items()}
        self.log: list[str] = []
        self.counted: list[str] = []
        self.causes: list[str] = []

    def pipeline(self, max_attempts: int = 3) -> Pipeline:
        """A pipeline through these boxes."""
        preprocess, inference, postprocess = map(self.box, NAMES)
        return Pipeline(preprocess, inference, postprocess, self, max_attempts)

    def record(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Count, as a recorder does."""
        self.counted.append(name)
        self.causes.append(labels["cause"])

    def refresh(self) -> None:
        """Nothing is forgotten here."""

    def box(self, name: str) -> Handle:
        """A box that begins its work in a task, as a handle does."""

        def run(*given: Any) -> Awaitable[Any]:
            return asyncio.create_task(self.work(name, given))

        return Handle(run=run, ready=self.ready, run_by_value=run)

    async def ready(self) -> bool:
        """Every box is ready."""
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


def a_run(seconds: float = 60, url: str = BY_REFERENCE) -> Request:
    """A run with some seconds to go."""
    return Request("r", "caption", url, deadline=time.time() + seconds)


def outcome(boxes: Boxes, run: Request | None = None, max_attempts: int = 3) -> Any:
    """What the pipeline returns or raises."""

    async def scenario() -> Any:
        try:
            return await boxes.pipeline(max_attempts).run(run or a_run())
        except Exception as error:
            return error

    return asyncio.run(scenario())


def task_error(cause: BaseException) -> Exception:
    """`cause` as Ray delivers it from a replica: an instance of both classes."""
    error: Any = RayTaskError("run", "a traceback", cause, ip="127.0.0.1")  # type: ignore[no-untyped-call]
    found: Exception = error.as_instanceof_cause()
    return found


@both_ways
def test_a_run_goes_through_the_boxes_in_order(url: str) -> None:
    """Each box runs once, on what the ones before it made, and the answer comes back."""
    boxes = Boxes()
    assert outcome(boxes, a_run(url=url)) == FINISHED
    assert boxes.log == ["preprocess", "inference", "postprocess"]
    assert boxes.counted == []


class Seen:
    """Neighbours that remember what they were given, and what they began."""

    def __init__(self) -> None:
        self.given: dict[str, tuple[Any, ...]] = {}
        self.begun: dict[str, Awaitable[Any]] = {}

    def begins(self, name: str, way: str = "") -> Callable[..., Awaitable[Any]]:
        """A function that begins a box's work in one of two ways."""

        def run(*given: Any) -> Awaitable[Any]:
            made: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            made.set_result(RESULTS[name])
            self.given[name + way], self.begun[name + way] = given, made
            return made

        return run

    def see(self, run: Request, small: Sequence[str]) -> Finished:
        """One run through them; those in `small` can be asked in two ways."""

        async def scenario() -> Finished:
            plain = {name: Handle(self.begins(name), Boxes().ready) for name in NAMES}
            boxes = plain | {
                name: replace(plain[name], run_by_value=self.begins(name, ", small"))
                for name in small
            }
            first, second, third = boxes.values()
            return await Pipeline(first, second, third, Boxes(), 1).run(run)

        return asyncio.run(scenario())


@pytest.mark.parametrize(
    ("url", "small"), [(BY_REFERENCE, NAMES), ("data:," + "x" * pipeline.SMALL, NAMES)]
)
def test_what_preprocess_has_begun_is_passed_on_unawaited(url: str, small: Sequence[str]) -> None:
    """Pixels never pass through here, and the image's address goes to Preprocess alone."""
    seen, run = Seen(), a_run(url=url)
    assert seen.see(run, small) == FINISHED
    prepared, light = seen.begun["preprocess"], run.without_image()
    assert seen.given == {
        "preprocess": (run,),
        "inference": (prepared, light),
        "postprocess": (prepared, GENERATED, light),
    }


@pytest.mark.parametrize("url", [BY_VALUE, BY_VALUE.replace("data", "Data")])
def test_a_small_image_of_the_request_itself_goes_by_value(url: str) -> None:
    """Each box gets what it needs: the model no source, the picture no pixels."""
    seen, run = Seen(), a_run(url=url)
    assert seen.see(run, NAMES) == FINISHED
    assert list(seen.given) == [f"{name}, small" for name in NAMES]
    assert seen.given["preprocess, small"] == (run,)
    to_read, light = seen.given["inference, small"]
    assert (to_read.pixels is PREPARED.pixels, to_read.source.size) == (True, 0)
    to_draw, generated, light = seen.given["postprocess, small"]
    assert (to_draw.source is PREPARED.source, to_draw.pixels.size) == (True, 0)
    assert (generated, light) == (GENERATED, run.without_image())


def test_large_pixels_go_by_reference_and_what_is_drawn_by_value() -> None:
    """Of a small image that the model sees large, Postprocess gets what is here."""
    seen, run = Seen(), a_run(url=BY_VALUE)
    assert seen.see(run, ["postprocess"]) == FINISHED
    assert seen.given["inference"][0] is seen.begun["preprocess"]
    held, generated, light = seen.given["postprocess, small"]
    assert held.source.tobytes() == b"bytes"
    assert (held.pixels.size, held.size, held.stages) == (0, (640, 480), GENERATED.stages)
    assert (generated, light) == (GENERATED, run.without_image())


def upstream_crash() -> RayServeException:
    """What Serve makes of the death of a box whose answer another box waited for."""
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
]


CAUSES = {
    ObjectLostError: "object_lost",
    ReplicaUnavailableError: "replica_unavailable",
    AioRpcError: "connection_lost",
}


@pytest.mark.parametrize("death", DEATHS, ids=lambda death: type(death).__name__)
@pytest.mark.parametrize("box", NAMES)
@both_ways
def test_a_run_is_begun_again_when_a_replica_dies(url: str, box: str, death: Exception) -> None:
    """A death under the run, in any box, costs an attempt and not the request."""
    boxes = Boxes(**{box: [death, task_error(death)]})
    assert outcome(boxes, a_run(url=url)) == replace(FINISHED, attempt=3)
    assert boxes.log.count(box) == 3
    assert boxes.counted == ["florence_ingress_retries_total"] * 2
    assert boxes.causes == [CAUSES.get(type(death), "replica_died")] * 2


@pytest.mark.parametrize("max_attempts", [1, 2, 4])
def test_a_run_is_given_up_after_max_attempts(max_attempts: int) -> None:
    """The client hears that the replicas died, and nothing of Ray's; no attempt is uncounted."""
    boxes = Boxes(inference=[ActorDiedError() for _ in range(10)])
    error = outcome(boxes, max_attempts=max_attempts)
    assert type(error) is RunnerDisconnected
    assert isinstance(error.__cause__, RayActorError)
    assert boxes.log.count("inference") == max_attempts
    assert boxes.counted == ["florence_ingress_retries_total"] * (max_attempts - 1)


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
@pytest.mark.parametrize("box", NAMES)
@both_ways
def test_a_refusal_arrives_as_it_was_meant(
    url: str, box: str, raised: Exception, expected: type[ServiceError]
) -> None:
    """A box's own error comes out of Ray's wrapping, at the first attempt."""
    boxes = Boxes(**{box: [raised]})
    error = outcome(boxes, a_run(url=url))
    assert type(error) is expected
    assert "traceback" not in error.message
    assert boxes.log.count("preprocess") == 1


def test_an_unwrapped_error_keeps_what_it_carries() -> None:
    """The time in Retry-After crosses with the error."""
    error = outcome(Boxes(inference=[task_error(Overloaded.after(7))]))
    assert error.headers()["Retry-After"] == "7"


def test_an_unforeseen_error_is_not_dressed_up() -> None:
    """A bug in a box arrives as what it is, for the log."""
    error = outcome(Boxes(inference=[task_error(ZeroDivisionError("bug"))]))
    assert type(error) is ZeroDivisionError


@pytest.mark.parametrize("box", NAMES)
@both_ways
def test_a_run_ends_at_its_deadline(url: str, box: str) -> None:
    """A box that hangs is left, and what was begun is cancelled."""
    boxes = Boxes(**{box: [30.0]})
    began = time.perf_counter()
    assert type(outcome(boxes, a_run(0.05, url))) is RequestTimeout
    assert time.perf_counter() - began < 5
    assert f"{box} cancelled" in boxes.log


def test_retries_end_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts are made inside the request's time."""
    monkeypatch.setattr(pipeline, "RETRY_DELAY_S", 30)
    boxes = Boxes(inference=[ActorDiedError()])
    assert type(outcome(boxes, a_run(0.05))) is RequestTimeout


def test_a_run_that_is_too_late_costs_nothing() -> None:
    """After its deadline a run is refused, and no box finishes any of it."""
    boxes = Boxes()
    assert type(outcome(boxes, a_run(-1))) is RequestTimeout
    assert "postprocess" not in boxes.log


@both_ways
def test_a_caller_who_leaves_cancels_what_was_begun(url: str) -> None:
    """Every box is told to stop."""
    boxes = Boxes(inference=[30.0])

    async def scenario() -> None:
        task = asyncio.create_task(boxes.pipeline().run(a_run(url=url)))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)

    asyncio.run(scenario())
    assert boxes.log == ["preprocess", "inference", "inference cancelled"]


def test_a_box_that_fails_at_once_cancels_the_others() -> None:
    """An error while beginning leaves nothing running."""
    boxes = Boxes(preprocess=[30.0])

    def broken(*_: Any) -> Awaitable[Any]:
        raise BackPressureError(1, 1)

    async def scenario() -> None:
        first, third = boxes.box("preprocess"), boxes.box("postprocess")
        with pytest.raises(Overloaded):
            await Pipeline(first, Handle(broken, boxes.ready), third, boxes, 3).run(a_run())
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scenario())


def test_what_cannot_be_cancelled_is_left() -> None:
    """A neighbour may return any awaitable."""

    class Plain:
        def __await__(self) -> Iterator[Any]:
            return iter(())

    pipeline.cancel(Plain())  # type: ignore[arg-type]


async def hangs() -> bool:
    """Never answers."""
    await asyncio.sleep(30)
    return True


def answers(value: bool) -> Callable[[], Awaitable[bool]]:
    """A box that says so."""

    async def ready() -> bool:
        return value

    return ready


def fails(error: Exception) -> Callable[[], Awaitable[bool]]:
    """A box that cannot be asked."""

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
def test_ready_means_that_every_box_answers(
    position: int, ready: Callable[[], Awaitable[bool]], expected: bool
) -> None:
    """One box that says no, hangs or fails is enough for no, and soon."""
    boxes = [Handle(Boxes().box("x").run, answers(True)) for _ in range(3)]
    boxes[position] = Handle(boxes[0].run, ready)

    async def scenario() -> bool:
        first, second, third = boxes
        return await Pipeline(first, second, third, Boxes(), 1).ready()

    assert expected == asyncio.run(scenario())


def test_a_failure_while_cancelling_is_not_the_answer() -> None:
    """Serve raises a request's own failure again when it is cancelled; the first one counts."""

    class Failed:
        def cancel(self) -> None:
            raise upstream_crash()

        def __await__(self) -> Any:
            yield

    pipeline.cancel(Failed())
