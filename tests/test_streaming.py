"""The path of one run that tells of its answer, with functions in place of boxes."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from deployments import pipeline
from deployments.errors import GenerationError, RequestTimeout, RunnerDisconnected
from deployments.florence.checkpoint import open_checkpoint
from deployments.florence.request import Finished, Generated, Partial, Request, Stages
from deployments.pipeline import Handle
from deployments.settings import ModelSettings
from deployments.streaming import Streaming

pytestmark = pytest.mark.anyio

VOCABULARY = open_checkpoint(ModelSettings(path="demo")).vocabulary
LOCATIONS = {bin_: id_ for id_, bin_ in VOCABULARY.bins.items()}
TOKENS = tuple(LOCATIONS[bin_] for bin_ in (0, 0, 9, 9, 10, 10, 19, 19, 20, 20, 29, 29))
GENERATED = Generated(TOKENS, Stages())
FINISHED = Finished({"results": "all"}, Stages())

Step = int | float | BaseException | Generated


class Said:
    """A stream as a handle begins it: its steps are lengths told, waits, an error or the answer."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.is_cancelled = False
        self._stream = self._say(steps)

    def __aiter__(self) -> AsyncIterator[Partial | Generated]:
        return self._stream

    def cancel(self) -> None:
        """Stop."""
        self.is_cancelled = True

    async def _say(self, steps: Sequence[Step]) -> AsyncIterator[Partial | Generated]:
        for step in steps:
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, Generated):
                yield step
            elif isinstance(step, float):
                await asyncio.sleep(step)
            else:
                yield Partial(TOKENS[:step], (1000, 1000))


class Boxes:
    """Three neighbours; Inference says what is planned for each attempt."""

    def __init__(self, *attempts: Sequence[Step]) -> None:
        self.said = [Said(steps) for steps in attempts]
        self.told: list[int] = []
        self.finished_with: list[tuple[Any, ...]] = []
        self.retries = 0
        self._left = list(self.said)

    def record(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Count, as a recorder does."""
        self.retries += name == "florence_ingress_retries_total"

    def refresh(self) -> None:
        """Nothing is forgotten here."""

    async def run(self, seconds: float = 60, max_attempts: int = 3) -> Finished:
        """A run through them."""
        run = Request("r", "region-proposal", "u", deadline=time.time() + seconds)
        streaming = Streaming(
            Handle(self._preprocess, self._ready),
            Handle(self._inference, self._ready),
            Handle(self._postprocess, self._ready),
            VOCABULARY,
            self,
            max_attempts,
        )
        return await streaming.run(run, self._tell)

    def _tell(self, output: Any) -> None:
        self.told.append(len(output["results"]["bboxes"]))

    def _preprocess(self, run: Request) -> Awaitable[Any]:
        assert run.image_url == "u"
        prepared: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        prepared.set_result("prepared")
        return prepared

    def _inference(self, prepared: Any, run: Request) -> Any:
        assert isinstance(prepared, asyncio.Future)  # pixels are passed on unawaited
        assert run.image_url == ""
        return self._left.pop(0)

    def _postprocess(self, *given: Any) -> Awaitable[Any]:
        self.finished_with.append(given)
        return asyncio.sleep(0, FINISHED)

    async def _ready(self) -> bool:
        return True


@pytest.fixture
def anyio_backend() -> str:
    """Our code speaks asyncio."""
    return "asyncio"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not wait between attempts."""
    monkeypatch.setattr(pipeline, "RETRY_DELAY_S", 0.001)


def task_error(cause: BaseException) -> Exception:
    """`cause` as Ray delivers it from a replica."""
    error: Any = RayTaskError("stream", "a traceback", cause, ip="127.0.0.1")  # type: ignore[no-untyped-call]
    found: Exception = error.as_instanceof_cause()
    return found


async def test_boxes_are_told_as_they_come() -> None:
    """Each event has one more; Postprocess gets the image as it was begun, and the whole answer."""
    boxes = Boxes([2, 4, 6, 8, GENERATED])

    assert await boxes.run() == FINISHED
    assert boxes.told == [1, 2]
    [(prepared, generated, run)] = boxes.finished_with
    assert (await prepared, generated, run.id) == ("prepared", GENERATED, "r")


async def test_a_death_is_not_told() -> None:
    """The run is begun again, and goes on from where it was."""
    boxes = Boxes(
        [4, 8, ActorDiedError()], [4, task_error(ActorDiedError())], [4, 8, 12, GENERATED]
    )

    assert await boxes.run() == replace(FINISHED, attempt=3)
    assert boxes.told == [1, 2, 3]
    assert (boxes.retries, len(boxes.finished_with)) == (2, 1)


async def test_too_many_deaths_are() -> None:
    """The client hears that the replicas died."""
    boxes = Boxes([4, ActorDiedError()], [ActorDiedError()])

    with pytest.raises(RunnerDisconnected):
        await boxes.run(max_attempts=2)
    assert boxes.told == [1]


async def test_a_refusal_arrives_as_it_was_meant() -> None:
    """Out of Ray's wrapping, at the first attempt."""
    boxes = Boxes([4, task_error(GenerationError())])

    with pytest.raises(GenerationError):
        await boxes.run()
    assert boxes.said[0].is_cancelled


async def test_a_run_ends_at_its_deadline() -> None:
    """The box is told to stop."""
    boxes = Boxes([4, 30.0])

    with pytest.raises(RequestTimeout):
        await boxes.run(seconds=0.05)
    assert boxes.told == [1]
    assert boxes.said[0].is_cancelled


async def test_a_caller_who_leaves_ends_it() -> None:
    """The box is told to stop."""
    boxes = Boxes([4, 30.0])
    running = asyncio.create_task(boxes.run())
    await asyncio.sleep(0.02)
    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert boxes.said[0].is_cancelled
