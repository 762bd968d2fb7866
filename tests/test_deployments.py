"""Preprocess, Inference and Postprocess without Ray: the deployments are plain classes."""

import asyncio
import io
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from deployments.demo.scenes import draw_scene
from deployments.errors import (
    EngineStopped,
    FileDownloadError,
    GenerationError,
    ImageLoadError,
    InternalError,
    SetupError,
    StoreUnavailable,
)
from deployments.files.base import StoredFile, expiry_of, new_name
from deployments.files.local import LocalFileStore
from deployments.files.pending_pictures import is_pending
from deployments.florence import parsing
from deployments.florence.checkpoint import open_checkpoint
from deployments.florence.generate_backend import Generate
from deployments.florence.messages import Finished, Generated, PartialOutput, Prepared, Request
from deployments.florence.schemas import (
    BoundingBoxes,
    BoundingBoxOutput,
    ImageInput,
    ImageWithTextInput,
)
from deployments.florence.tasks import TASKS, Task
from deployments.images.annotate import LARGEST_SIDE
from deployments.inference import Inference
from deployments.pipeline import Handle, Pipeline, prepared_here
from deployments.postprocess import Postprocess
from deployments.preprocess import Preprocess
from deployments.settings import Settings, TracingSettings, parse
from deployments.telemetry.metrics import PrometheusRecorder
from deployments.telemetry.tracing import OFF, Tracer, open_tracer
from tests.acceptance.caller import scene, truth, uri
from tests.florence.questions import input_of
from tests.telemetry.spans import spans_in, tree

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The demo checkpoint on the CPU, files in a folder of the test."""
    root = str(tmp_path_factory.mktemp("files"))
    return parse({"model": {"path": "demo", "device": "cpu"}, "files": {"root": root}})


@pytest.fixture(scope="module")
def inference(settings: Settings) -> Inference:
    """A loaded model."""
    return Inference(settings, PrometheusRecorder())


def run(
    image_url: str = "data:,", task: str = "region-proposal", num_beams: int | None = None
) -> Request:
    """A request with a minute to go."""
    image = ImageInput(image_url=image_url, num_beams=num_beams)
    return Request("id", task, image, time.time() + 60, base_url="https://here")


def prepare(settings: Settings, image_url: str) -> Prepared:
    """What Preprocess makes of an image."""
    return asyncio.run(Preprocess(settings, PrometheusRecorder()).run(run(image_url)))


async def through(settings: Settings, inference: Inference, given: Request) -> Finished:
    """One run through all three deployments."""
    recorder = PrometheusRecorder()
    prepared = await Preprocess(settings, recorder).run(given)
    generated = await inference.run(prepared, given)
    return await Postprocess(settings, recorder).run(prepared, generated, given)


def test_preprocess_makes_pixels_of_the_models_size(settings: Settings) -> None:
    """Pixels are uint8 RGB at the checkpoint's size; the size is that of the image."""
    prepared = prepare(settings, uri(scene(0).image))

    assert prepared.pixels.shape == (160, 160, 3)
    assert prepared.pixels.dtype == np.dtype(np.uint8)
    assert prepared.size == (640, 480)
    assert prepared.stages.decode_s > 0


def test_preprocess_keeps_the_bytes_as_they_came(settings: Settings) -> None:
    """The source is the file itself, so nothing is lost for drawing."""
    buffer = io.BytesIO()
    scene(0).image.save(buffer, "PNG")
    prepared = prepare(settings, uri(buffer.getvalue()))

    assert prepared.source.tobytes() == buffer.getvalue()


def test_preprocess_is_healthy_while_images_decode_in_time(settings: Settings) -> None:
    """An image that has been decoding for minutes makes the replica unhealthy."""
    preprocess = Preprocess(settings, PrometheusRecorder())
    preprocess.check_health()
    preprocess._decoding[1] = time.monotonic() - 1000

    with pytest.raises(InternalError):
        preprocess.check_health()


class Downloads:
    """Serves one picture on loopback, when the test lets it, and counts who asks."""

    def __init__(self, picture: bytes) -> None:
        self._picture = picture
        self.count = 0
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One download."""
        await reader.readuntil(b"\r\n\r\n")
        self.count += 1
        self.asked.set()
        await self.may_answer.wait()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(self._picture)}\r\n\r\n"
        writer.write(head.encode() + self._picture)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def downloads(
    settings: Settings, picture: bytes
) -> AsyncIterator[tuple[Downloads, Preprocess, Callable[[str], "asyncio.Task[Prepared]"]]]:
    """A server, a Preprocess that may fetch from it, and how to ask that one as a key."""
    served = Downloads(picture)
    server = await asyncio.start_server(served.handle, "127.0.0.1", 0)
    host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    allowed = settings.preprocess.model_copy(update={"allowed_hosts": (host,)})
    changed = settings.model_copy(update={"preprocess": allowed})
    preprocess = Preprocess(changed, PrometheusRecorder())

    def ask(key_id: str) -> "asyncio.Task[Prepared]":
        request = replace(run(f"http://{host}/a.png"), key_id=key_id)
        return asyncio.create_task(preprocess.run(request))

    async with server:
        yield served, preprocess, ask


def png(seed: int) -> bytes:
    """A scene as a file."""
    buffer = io.BytesIO()
    scene(seed).image.save(buffer, "PNG")
    return buffer.getvalue()


def test_a_url_asked_for_twice_at_the_same_time_is_fetched_once(settings: Settings) -> None:
    """By one key; another key fetches for itself, and so does who comes later."""

    async def scenario() -> None:
        async with downloads(settings, png(0)) as (served, preprocess, ask):
            calls = [ask(key_id) for key_id in ("mine", "mine", "yours", "mine")]
            await served.asked.wait()
            served.may_answer.set()
            first, second, other, third = await asyncio.gather(*calls)
            assert served.count == 2
            assert [each.stages.fetches_shared for each in (first, second, other, third)] == [
                0, 1, 0, 1,
            ]  # fmt: skip
            assert first.digest == second.digest == other.digest != ""
            await ask("mine")
            assert served.count == 3
            text = preprocess._recorder.exposition().decode()  # type: ignore[attr-defined]
            assert "florence_preprocess_shared_total 2.0" in text
            assert "florence_preprocess_fetch_seconds_count 3.0" in text
            assert "florence_preprocess_decode_seconds_count 3.0" in text

    asyncio.run(scenario())


def test_who_leaves_takes_no_download_from_another(settings: Settings) -> None:
    """The first caller's end is its own: the second gets the image that the first asked for."""

    async def scenario() -> None:
        async with downloads(settings, png(0)) as (served, _, ask):
            first, second = ask("mine"), ask("mine")
            await served.asked.wait()
            first.cancel()
            await asyncio.wait([first])
            served.may_answer.set()
            assert (await second).size == (640, 480)
            assert served.count == 1

    asyncio.run(scenario())


def test_a_bad_file_is_an_error_for_all_who_asked(settings: Settings) -> None:
    """With one download, and nothing of it is remembered."""

    async def scenario() -> None:
        async with downloads(settings, b"no image") as (served, _, ask):
            calls = [ask("mine"), ask("mine")]
            served.may_answer.set()
            errors = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(each) for each in errors] == [ImageLoadError] * 2
            assert served.count == 1
            with pytest.raises(ImageLoadError):
                await ask("mine")
            assert served.count == 2

    asyncio.run(scenario())


def test_a_file_that_fails_leaves_nothing_decoding(settings: Settings) -> None:
    """A bad image is an error of its own and is forgotten."""
    preprocess = Preprocess(settings, PrometheusRecorder())
    with pytest.raises(ImageLoadError):
        asyncio.run(preprocess.run(run(uri(b"no image"))))

    assert preprocess._decoding == {}


def test_the_deployments_find_what_is_there(settings: Settings, inference: Inference) -> None:
    """An image becomes boxes near the true ones, with a stored picture and all stages measured."""
    finished = asyncio.run(through(settings, inference, run(uri(scene(1).image))))
    boxes = finished.output["results"]["bboxes"]

    assert len(boxes) == len(truth(scene(1)))
    assert finished.output["image"]["url"].startswith("https://here/cdn/files/")
    assert finished.stages.batch_size == 1
    assert min(finished.stages.decode_s, finished.stages.model_s, finished.stages.postprocess_s) > 0


class LargeInput(ImageWithTextInput):
    """What to look for, and how long the shorter side of a box must be, in pixels."""

    min_side: float


LARGE = Task(
    path="large-regions",
    marker="<LARGE_REGIONS>",
    sentence="Locate the {} in the image.",
    summary="Find large regions",
    input=LargeInput,
    output=BoundingBoxOutput,
    words=lambda given, _size: given.text_input,
    parse=lambda answer, given: BoundingBoxes(
        bboxes=[
            box
            for box in parsing.unlabelled_boxes(answer).bboxes
            if min(box.w, box.h) >= given.min_side
        ]
    ),
    draw=attrgetter("bboxes"),
)


def test_a_new_task_is_one_row(
    settings: Settings, inference: Inference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its prompt, its parser, its picture and its stream need nothing but the row."""
    monkeypatch.setitem(TASKS, LARGE.path, LARGE)
    pipeline = pipeline_of(settings, inference)
    image = uri(scene(1).image)
    everything = asyncio.run(pipeline.run(run(image, num_beams=1))).output["results"]["bboxes"]
    *small, largest = sorted(min(box["w"], box["h"]) for box in everything)
    given: dict[str, Any] = {"text_input": "region proposals", "min_side": largest}
    given |= {"image_url": image, "num_beams": 1}
    request = replace(run(), task=LARGE.path, input=LARGE.input.model_validate(given))
    partial: list[Any] = []
    outputs = [
        asyncio.run(pipeline.run(request, on_partial)).output
        for on_partial in (None, partial.append)
    ]

    assert small
    for output in outputs:
        [box] = output["results"]["bboxes"]
        assert min(box["w"], box["h"]) == largest
        assert output["image"]["url"].startswith("https://here/cdn/files/")
    [part] = partial
    assert part == PartialOutput({"results": outputs[0]["results"], "image": None}, "demo")


def pipeline_of(settings: Settings, inference: Inference) -> Pipeline:
    """The three deployments, called as the application calls them."""
    preprocess = Preprocess(settings, PrometheusRecorder())
    postprocess = Postprocess(settings, PrometheusRecorder())
    return Pipeline(
        Handle(begin(preprocess.run), preprocess.ready),
        Handle(begin(inference.run), inference.ready, stream=begin_stream(inference)),
        Handle(begin(postprocess.run), postprocess.ready),
        PrometheusRecorder(),
        max_attempts=1,
        vocabulary=open_checkpoint(settings.model).vocabulary,
    )


def begin(work: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Awaitable[Any]]:
    """Begins `work` when its arguments are there, as Ray's handle does."""

    async def call(given: tuple[Any, ...]) -> Any:
        return await work(*[await each if isinstance(each, Awaitable) else each for each in given])

    return lambda *given: asyncio.create_task(call(given))


def begin_stream(inference: Inference) -> Callable[..., AsyncIterator[Any]]:
    """The same for a stream."""

    async def stream(prepared: Awaitable[Prepared], request: Request) -> AsyncIterator[Any]:
        async for each in inference.stream(await prepared, request):
            yield each

    return stream


def test_an_image_in_the_request_is_drawn_on_without_preprocess(
    settings: Settings, inference: Inference
) -> None:
    """The same answer, stages and picture come of what the pipeline knows as of the whole."""
    given = run(uri(scene(1).image))
    prepared = prepare(settings, given.input.image_url)
    generated = asyncio.run(inference.run(prepared, given))
    postprocess = Postprocess(settings, PrometheusRecorder())
    whole, known = (
        asyncio.run(postprocess.run(each, generated, given.without_image()))
        for each in (prepared, prepared_here(given, generated))
    )

    assert whole.output["results"] == known.output["results"]
    assert whole.stages.with_(postprocess_s=0) == known.stages.with_(postprocess_s=0)
    assert known.stages.fetch_s == prepared.stages.fetch_s > 0
    files = LocalFileStore(settings.files)
    pictures = [files.path(name) for [name] in (whole.files, known.files)]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


@pytest.mark.slow
def test_an_answer_that_its_limit_cuts_has_whole_items(
    settings: Settings, inference: Inference
) -> None:
    """Those that it would have had without the limit; no other answer says that it was cut."""
    image = uri(scene(3).image)

    def answer(task: Task, **given: Any) -> dict[str, Any]:
        asked = input_of(task, image_url=image, num_beams=1, **given)
        request = replace(run(task=task.path), input=asked)
        return asyncio.run(through(settings, inference, request)).output

    cut = set()
    for task in TASKS.values():
        whole, short = answer(task), answer(task, max_new_tokens=7)
        assert "truncated" not in whole
        if "truncated" not in short:
            assert short["results"] == whole["results"]
            continue
        assert short["truncated"] is True
        cut.add(task.path)
        if task.draw:
            [(items, of)] = [
                (each, whole["results"][name]) for name, each in short["results"].items()
            ]
            assert items == of[: len(items)]
        else:
            assert whole["results"].startswith(short["results"])
    assert "region-proposal" in cut  # three boxes have twelve tokens


def test_an_answer_that_its_limit_cuts_has_as_many_tokens(
    settings: Settings, inference: Inference
) -> None:
    """The log says so, too."""
    asked = input_of(TASKS["region-proposal"], num_beams=1, max_new_tokens=7)
    prepared = prepare(settings, uri(scene(3).image))
    stages = asyncio.run(inference.run(prepared, replace(run(), input=asked))).stages

    assert (stages.num_tokens, stages.truncated) == (7, 1)
    assert (stages.logged()["tokens"], stages.logged()["truncated"]) == (7, 1)
    assert any("7 tokens, cut at the limit" in line for line, _ in stages.lines())


@pytest.mark.parametrize("num_beams", [1, 3])
def test_scores_are_given_to_those_who_ask(
    settings: Settings, inference: Inference, num_beams: int
) -> None:
    """Of boxes and of text, the streamed ones too; what is below `min_score` is dropped."""
    image = uri(scene(1).image)

    def answer(path: str, **given: Any) -> dict[str, Any]:
        asked = input_of(TASKS[path], image_url=image, num_beams=num_beams, **given)
        return asyncio.run(
            through(settings, inference, replace(run(), task=path, input=asked))
        ).output

    plain = answer("object-detection")["results"]["bboxes"]
    scored = answer("object-detection", scores=True)["results"]["bboxes"]
    scores = [box.pop("score") for box in scored]
    assert scored == plain != []
    assert all(0 < score <= 1 for score in scores)
    sure = answer("object-detection", min_score=max(scores))["results"]["bboxes"]
    assert [box["score"] for box in sure] == [each for each in scores if each == max(scores)]
    assert 0 < answer("caption", scores=True)["score"] <= 1
    assert "score" not in answer("caption")


def test_a_stream_carries_scores(settings: Settings, inference: Inference) -> None:
    """Each event those of its boxes, as the whole answer has them."""
    task = TASKS["object-detection"]
    asked = input_of(task, image_url=uri(scene(1).image), num_beams=1, scores=True)
    request = replace(run(), task=task.path, input=asked)
    pipeline, partial = pipeline_of(settings, inference), list[PartialOutput]()
    output = asyncio.run(pipeline.run(request, partial.append)).output

    boxes = output["results"]["bboxes"]
    assert all("score" in box for box in boxes)
    assert partial
    for part in partial:
        early = part.output["results"]["bboxes"]
        assert early == boxes[: len(early)] != []


def test_what_a_request_asks_of_the_search_is_passed_on(
    settings: Settings, inference: Inference
) -> None:
    """Its beams, its limit, its n-grams and whether it wants scores."""
    prepared = prepare(settings, uri(scene(0).image))
    wishes: dict[str, Any] = {"num_beams": 2, "max_new_tokens": 9, "no_repeat_ngram_size": 4}
    asked = input_of(TASKS["caption"], scores=True, **wishes)
    sequence = inference._sequence(prepared, replace(run(task="caption"), input=asked))

    assert {name: getattr(sequence, name) for name in wishes} == wishes
    assert sequence.scored
    usual = inference._sequence(prepared, run(task="caption"))
    assert (usual.no_repeat_ngram_size, usual.max_new_tokens, usual.scored) == (None, None, False)


@pytest.mark.slow
def test_requests_at_the_same_time_share_a_batch(settings: Settings, inference: Inference) -> None:
    """Eight requests together share the model's steps, and each gets its own answer."""
    images = [uri(draw_scene_of(seed)) for seed in range(8)]

    async def all_at_once() -> list[Finished]:
        return await asyncio.gather(*(through(settings, inference, run(image)) for image in images))

    together = asyncio.run(all_at_once())
    alone = [asyncio.run(through(settings, inference, run(image))) for image in images]

    assert max(finished.stages.batch_size for finished in together) > 1
    assert sum(finished.stages.batch_share for finished in together) < 8
    assert [f.output["results"] for f in together] == [f.output["results"] for f in alone]


def draw_scene_of(seed: int) -> Image.Image:
    """A small scene."""

    return draw_scene(random.Random(seed), (200, 160)).image


def test_a_model_that_fails_is_fals_generation_error(
    settings: Settings, inference: Inference
) -> None:
    """What the model raises is not shown to the client, and the next request is answered."""
    prepared = prepare(settings, uri(scene(0).image))
    two_colours = replace(prepared, pixels=prepared.pixels[..., :2], digest="")
    with pytest.raises(GenerationError) as caught:
        asyncio.run(inference.run(two_colours, run()))

    assert "tensor" in str(caught.value.__cause__)
    assert "tensor" not in str(caught.value)
    assert asyncio.run(inference.run(prepared, run())).tokens


class BrokenDecoder:
    """A decoder whose device fails from one step on."""

    def __init__(self, inference: Inference, steps: int) -> None:
        backend: Any = inference._batcher._backend
        self._decoder, backend._decoder = backend._decoder, self
        self._steps_left = steps

    def __call__(self, *given: Any) -> Any:
        """Compute, or fail as torch says it."""
        self._steps_left -= 1
        if self._steps_left < 0:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure\nCUDA kernel …")
        return self._decoder(*given)


@pytest.mark.slow
def test_a_broken_device_ends_the_replica_and_no_request(settings: Settings) -> None:
    """All that it has, and all that comes, can be tried elsewhere; its health says why."""
    ended = threading.Event()
    inference = Inference(settings, PrometheusRecorder(), on_failure=ended.set)
    prepared = prepare(settings, uri(scene(0).image))
    BrokenDecoder(inference, steps=3)

    async def scenario() -> list[Generated | BaseException]:
        calls = (inference.run(prepared, run()) for _ in range(20))
        return await asyncio.gather(*calls, return_exceptions=True)

    assert {type(each) for each in asyncio.run(scenario())} == {EngineStopped}
    assert ended.wait(30)
    assert {type(each) for each in asyncio.run(scenario())} == {EngineStopped}
    why = "The engine has stopped: DeviceFault: CUDA error: unspecified launch failure"
    with pytest.raises(EngineStopped, match=f"^{why}$"):
        inference.check_health()


@pytest.mark.slow
def test_a_bad_mate_spoils_no_shared_image(settings: Settings) -> None:
    """The others of its batch get their answers, and their image is known afterwards."""
    patient = settings.inference.model_copy(update={"max_wait_ms": 2000.0})
    inference = Inference(settings.model_copy(update={"inference": patient}), PrometheusRecorder())
    good = prepare(settings, uri(scene(3).image))
    bad = replace(good, pixels=good.pixels[..., :2], digest="another")

    async def scenario() -> list[Generated | BaseException]:
        calls = (inference.run(each, run()) for each in (good, bad, good, good))
        return await asyncio.gather(*calls, return_exceptions=True)

    first, failed, *others = asyncio.run(scenario())

    assert isinstance(failed, GenerationError)
    assert isinstance(first, Generated)
    assert first.stages.image_hits == 0
    for each in others:
        assert isinstance(each, Generated)
        assert (each.tokens, each.stages.image_hits) == (first.tokens, 1)


@pytest.mark.slow
def test_no_image_is_known_to_another_key(settings: Settings) -> None:
    """Each key's first question is a miss."""
    inference = Inference(settings, PrometheusRecorder())
    prepared = prepare(settings, uri(scene(3).image))

    def hits(key_id: str) -> int:
        request = replace(run(), key_id=key_id)
        return asyncio.run(inference.run(prepared, request)).stages.image_hits

    assert [hits(key_id) for key_id in ("mine", "mine", "yours", "yours")] == [0, 1, 0, 1]


def test_a_run_costs_what_it_reads_and_what_its_beams_will_write(
    settings: Settings, inference: Inference
) -> None:
    """The queue is bounded by it; how much a task's answers say is learned from them."""
    prepared, given = prepare(settings, uri(scene(0).image)), run(task="caption")
    costs = []
    for beams in (1, 3):
        asked = run(task="caption", num_beams=beams)
        costs.append(inference._sequence(prepared, asked).num_tokens)
    length = inference._forecast.num_tokens("caption")
    generated = asyncio.run(inference.run(prepared, given))

    assert costs == [
        len(inference._sequence(prepared, given).prompt) + beams * length for beams in (1, 3)
    ]
    assert len(generated.tokens) < length
    assert inference._forecast.num_tokens("caption") < length


class Steps:
    """Counts a model's steps and lets it take as many as it is allowed to."""

    def __init__(self, inference: Inference) -> None:
        self.taken = 0
        self.reached = threading.Semaphore(0)
        self.allowed = threading.Semaphore(0)
        backend: Any = inference._batcher._backend
        if isinstance(backend, Generate):
            backend._model.florence.register_forward_pre_hook(self.take)
        else:
            self._decoder, backend._decoder = backend._decoder, self

    def take(self, *_given: Any) -> None:
        """One more step."""
        self.taken += 1
        self.reached.release()
        assert self.allowed.acquire(timeout=30)

    def __call__(self, *given: Any) -> Any:
        """What the engine's decoder does, as one step."""
        self.take()
        return self._decoder(*given)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["engine", "generate"])
def test_a_run_that_is_cancelled_frees_the_model(settings: Settings, backend: str) -> None:
    """A long generation stops at the step at which its caller leaves; the next run begins then."""
    limits = {"min_new_tokens": 500, "max_wait_ms": 0.0, "max_batch_size": 1}
    update = {"backend": backend, "num_beams": 1} | limits
    long = settings.inference.model_copy(update=update)
    inference = Inference(settings.model_copy(update={"inference": long}), PrometheusRecorder())
    prepared = prepare(settings, uri(scene(0).image))
    steps = Steps(inference)

    async def scenario() -> Generated:
        left = asyncio.create_task(inference.run(prepared, run()))
        next_ = asyncio.create_task(inference.run(prepared, run()))
        steps.allowed.release(4)
        for _ in range(5):
            assert await asyncio.to_thread(steps.reached.acquire, timeout=30)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        steps.allowed.release(10_000)
        return await next_

    generated = asyncio.run(scenario())
    assert generated.stages.num_tokens >= 500
    assert steps.taken == 5 + generated.stages.num_tokens


def test_inference_is_healthy_while_its_engine_lives(inference: Inference) -> None:
    """The engine's heartbeat is the health of the replica."""
    inference.check_health()


def test_boxes_that_are_none_are_counted(settings: Settings) -> None:
    """By their endpoint; the answer has only the others."""
    recorder = PrometheusRecorder()
    bins = {bin_: id_ for id_, bin_ in open_checkpoint(settings.model).vocabulary.bins.items()}
    tokens = tuple(bins[n] for n in (5, 1, 5, 9, 1, 2, 3, 4))
    prepared = prepare(settings, uri(scene(1).image))
    answer = Postprocess(settings, recorder).run(
        prepared, Generated(tokens, prepared.stages), run()
    )
    assert len(asyncio.run(answer).output["results"]["bboxes"]) == 1
    name = "florence_postprocess_shapes_dropped_total"
    assert f'{name}{{endpoint="fal-ai/florence-2-large/region-proposal"}} 1.0' in (
        recorder.exposition().decode()
    )


class FullStore(LocalFileStore):
    """A store on a full disk."""

    def keep(self, name: str, data: bytes) -> StoredFile:
        """Fail."""
        raise StoreUnavailable

    def prune(self) -> int:
        """Fail."""
        raise StoreUnavailable


def test_a_store_that_is_away_costs_the_picture_alone(
    settings: Settings, inference: Inference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The boxes are answered without a picture, also when it is time to prune."""
    monkeypatch.setattr("deployments.postprocess.PRUNE_EVERY_S", 0.0)
    given = run(uri(scene(1).image))
    prepared = prepare(settings, given.input.image_url)
    generated = asyncio.run(inference.run(prepared, given))
    postprocess = Postprocess(settings, PrometheusRecorder(), FullStore(settings.files))
    finished = asyncio.run(postprocess.run(prepared, generated, given))

    assert finished.output["image"] is None
    assert finished.files == ()
    assert finished.output["results"]["bboxes"]


class SlowStore(LocalFileStore):
    """A store that takes its time."""

    def keep(self, name: str, data: bytes) -> StoredFile:
        """See FileStore."""
        time.sleep(0.5)
        return super().keep(name, data)


def test_a_run_with_a_key_is_answered_before_its_picture(
    settings: Settings, inference: Inference
) -> None:
    """The answer names a pending picture; a replica that Serve stops still writes it."""
    given = replace(run(uri(scene(1).image)), picture_key="key")
    prepared = prepare(settings, given.input.image_url)
    generated = asyncio.run(inference.run(prepared, given))
    files = SlowStore(settings.files)

    async def scenario() -> Finished:
        postprocess = Postprocess(settings, PrometheusRecorder(), files)
        finished = await postprocess.run(prepared, generated, given)
        [name] = finished.files
        assert files.find(name) is None
        stopping = postprocess.__del__()
        assert stopping
        await stopping
        assert files.find(name)
        assert postprocess.__del__() is None
        return finished

    finished = asyncio.run(scenario())
    assert is_pending(finished.files[0], "key")
    assert finished.output["image"] == {
        "url": f"https://here/cdn/files/{finished.files[0]}",
        "content_type": "image/jpeg",
        "file_name": finished.files[0],
        "file_size": None,
        "width": 640,
        "height": 480,
    }
    assert finished.stages.postprocess_s < 0.5


def test_a_run_without_a_key_is_answered_with_its_picture(
    settings: Settings, inference: Inference
) -> None:
    """What its answer names is stored, and its size is known."""
    given = run(uri(scene(1).image))
    prepared = prepare(settings, given.input.image_url)
    generated = asyncio.run(inference.run(prepared, given))
    files = SlowStore(settings.files)
    finished = asyncio.run(
        Postprocess(settings, PrometheusRecorder(), files).run(prepared, generated, given)
    )

    stored = files.find(finished.files[0])
    assert stored
    assert finished.output["image"]["file_size"] == stored.size
    assert finished.stages.postprocess_s > 0.5


@pytest.mark.parametrize("key", ["", "key"])
def test_an_image_too_long_for_a_picture_has_boxes_alone(
    settings: Settings, inference: Inference, key: str
) -> None:
    """An image too long for a JPEG gets no picture, which is no error."""
    strip = Image.new("RGB", (LARGEST_SIDE + 1, 2), "white")
    given = replace(run(uri(strip)), picture_key=key)
    finished = asyncio.run(through(settings, inference, given))

    assert finished.output["image"] is None
    assert finished.files == ()


def test_a_box_that_could_not_be_made_is_stopped_in_silence(settings: Settings) -> None:
    """Serve stops those too; the error that it shows is the first one."""
    files = settings.files.model_copy(update={"root": "ftp://nowhere"})
    with pytest.raises(SetupError, match=r"files\.root"):
        Postprocess(settings.model_copy(update={"files": files}), PrometheusRecorder())


def test_a_picture_lives_as_long_as_it_is_wanted(settings: Settings, inference: Inference) -> None:
    """The name of the picture is returned with the output, and holds the requested lifetime."""
    given = replace(run(uri(scene(1).image)), files_ttl_s=60.0)
    finished = asyncio.run(through(settings, inference, given))
    [name] = finished.files

    assert finished.output["image"]["file_name"] == name
    assert time.time() + 50 < expiry_of(name) <= time.time() + 61


def test_an_own_file_is_read_without_a_call(settings: Settings) -> None:
    """A URL of our own is read from the store; no server listens at its address."""
    buffer = io.BytesIO()
    scene(0).image.save(buffer, "PNG")
    file = LocalFileStore(settings.files).put(buffer.getvalue(), "image/png")
    prepared = prepare(settings, f"https://here/cdn/files/{file.name}")

    assert prepared.source.tobytes() == buffer.getvalue()


def test_an_own_file_that_is_gone_is_explained(settings: Settings) -> None:
    """A file that has expired is a download that failed."""
    gone = new_name("image/png", -1)
    with pytest.raises(FileDownloadError, match="no file of this name, or it has expired"):
        prepare(settings, f"https://here/cdn/files/{gone}")


def test_base64_that_is_no_data_uri_gets_a_hint(settings: Settings) -> None:
    """Its URL is refused as before, and what it lacks is named."""
    with pytest.raises(FileDownloadError) as error:
        prepare(settings, uri(scene(0).image).partition(",")[2])

    assert error.value.body()["hint"].startswith("Put `data:image/")


def test_pictures_can_be_turned_off(inference: Inference, settings: Settings) -> None:
    """Without annotate there is no picture and no file."""
    plain = settings.model_copy(
        update={"postprocess": settings.postprocess.model_copy(update={"annotate": False})}
    )
    finished = asyncio.run(through(plain, inference, run(uri(scene(1).image))))

    assert set(finished.output) == {"results"}


def test_expired_pictures_are_removed_now_and_then(
    settings: Settings, inference: Inference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work that comes after a while prunes the store."""
    files = LocalFileStore(settings.files)
    old = files.put(b"old", "image/jpeg", -1)
    monkeypatch.setattr("deployments.postprocess.PRUNE_EVERY_S", 0.0)
    given = run(uri(scene(1).image))
    prepared = prepare(settings, given.input.image_url)
    generated = asyncio.run(inference.run(prepared, given))
    asyncio.run(Postprocess(settings, PrometheusRecorder(), files).run(prepared, generated, given))

    assert not files.path(old.name).exists()


def test_an_answer_can_be_heard_while_it_is_written(
    settings: Settings, inference: Inference
) -> None:
    """Partial answers grow, begin the whole one, and end with it."""
    given = run(uri(scene(3).image), num_beams=1)
    prepared = prepare(settings, given.input.image_url)

    async def heard() -> list[Any]:
        return [each async for each in inference.stream(prepared, given)]

    *partial, generated = asyncio.run(heard())
    lengths = [len(each.tokens) for each in partial]
    assert generated.tokens == asyncio.run(inference.run(prepared, given)).tokens
    assert generated.stages.num_tokens == len(generated.tokens) - 1  # without the start token
    assert len(lengths) > 1
    assert lengths == sorted(set(lengths))
    for each in partial:
        assert each.tokens == generated.tokens[: len(each.tokens)]
        assert each.size == (640, 480)


def test_an_answer_without_a_caller_is_stopped(settings: Settings) -> None:
    """Who stops listening has freed the model."""
    long = settings.inference.model_copy(update={"num_beams": 1, "min_new_tokens": 500})
    inference = Inference(settings.model_copy(update={"inference": long}), PrometheusRecorder())
    given = run(uri(scene(0).image))
    prepared = prepare(settings, given.input.image_url)

    async def hear_the_first() -> Any:
        stream = inference.stream(prepared, given)
        await anext(stream)
        [sequence] = inference._batcher._running
        await stream.aclose()
        return sequence

    sequence = asyncio.run(hear_the_first())
    deadline = time.monotonic() + 30
    while inference._batcher._running:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert sequence.num_steps < 250


@pytest.mark.parametrize("num_beams", [3, 99])
def test_a_run_has_no_more_beams_than_the_deployment(
    settings: Settings, inference: Inference, num_beams: int
) -> None:
    """A request may have been queued when there were more."""
    given = run(uri(scene(1).image))
    prepared = prepare(settings, given.input.image_url)
    asked = run(num_beams=num_beams)

    tokens = [asyncio.run(inference.run(prepared, each)).tokens for each in (given, asked)]
    assert tokens[0] == tokens[1]


def test_inference_reports_how_full_the_batch_is(settings: Settings) -> None:
    """Slots, steps and their requests, why batches began, and how long the model worked."""
    recorder = PrometheusRecorder()
    inference = Inference(settings, recorder)
    asyncio.run(through(settings, inference, run(uri(scene(0).image))))
    inference._metrics.record()
    inference._metrics.record()
    text = recorder.exposition().decode()
    families = text_string_to_metric_families(text)
    values = {each.name: each.value for family in families for each in family.samples}
    assert values["florence_inference_slots"] == settings.inference.max_batch_size
    assert values["florence_inference_slots_taken"] == values["florence_inference_waiting"] == 0
    assert values["florence_inference_steps_total"] == values["florence_inference_rows_total"] > 1
    assert values["florence_inference_busy_seconds_total"] > 0
    assert (
        values["florence_inference_written_tokens_total"] == values["florence_inference_tokens_sum"]
    )
    assert 'florence_inference_begun_total{reason="waited"} 1.0' in text
    assert 'florence_inference_begun_total{reason="joined"} 0.0' in text


def test_images_that_were_seen_before_are_counted(settings: Settings) -> None:
    """The second question about one image is a hit; the first is none, and no error."""
    recorder = PrometheusRecorder()
    inference = Inference(settings, recorder)
    for _ in range(2):
        asyncio.run(through(settings, inference, run(uri(scene(0).image))))
    families = text_string_to_metric_families(recorder.exposition().decode())
    values = {each.name: each.value for family in families for each in family.samples}
    assert values["florence_inference_image_hits_total"] == 1
    assert values["florence_inference_image_cache_bytes"] > 0


@pytest.fixture
def tracer(tmp_path: Path) -> Tracer:
    """Writes spans into the folder of the test."""
    return open_tracer(
        TracingSettings(exporter="file", folder=str(tmp_path / "traces")), "Postprocess"
    )


def test_the_deployments_report_where_a_run_was(
    settings: Settings, inference: Inference, tracer: Tracer, tmp_path: Path
) -> None:
    """Each has a span in the run's trace, and below it one for each of its stages."""
    given = replace(run(uri(scene(1).image)), trace=TRACE)
    recorder = PrometheusRecorder()
    inference._tracer = tracer
    try:
        preprocess = Preprocess(settings, recorder, tracer=tracer)
        prepared = asyncio.run(preprocess.run(given))
        generated = asyncio.run(inference.run(prepared, given))
        postprocess = Postprocess(settings, recorder, tracer=tracer)
        finished = asyncio.run(postprocess.run(prepared, generated, given))
    finally:
        inference._tracer = OFF
    tracer.close()
    spans = spans_in(tmp_path / "traces")
    named = {span.name: span for span in spans}

    assert tree(spans) == {
        ("", "preprocess"),
        ("preprocess", "fetch"),
        ("preprocess", "decode"),
        ("", "inference"),
        ("inference", "wait"),
        ("inference", "batch"),
        ("", "postprocess"),
        ("postprocess", "picture"),
    }
    above = [named[name] for name in ("preprocess", "inference", "postprocess")]
    assert {f"00-{span.trace}-{span.parent}-01" for span in above} == {TRACE}
    assert {span.trace for span in spans} == {TRACE[3:35]}
    assert {span.attributes["florence.request_id"] for span in above} == {"id"}
    assert named["batch"].attributes["florence.tokens"] == finished.stages.num_tokens
    assert named["batch"].attributes["florence.batch_size"] == 1
    assert named["preprocess"].attributes["florence.width"] == 640


def test_a_picture_that_comes_later_belongs_to_the_trace(
    settings: Settings, inference: Inference, tracer: Tracer, tmp_path: Path
) -> None:
    """It is drawn after the answer, and exported when the replica is stopped."""
    given = replace(run(uri(scene(1).image)), trace=TRACE, picture_key="ab" * 16)
    prepared = prepare(settings, given.input.image_url)
    generated = asyncio.run(inference.run(prepared, given))

    async def answered() -> None:
        postprocess = Postprocess(settings, PrometheusRecorder(), tracer=tracer)
        await postprocess.run(prepared, generated, given)
        await postprocess.stop()

    asyncio.run(answered())
    assert tree(spans_in(tmp_path / "traces")) == {("", "postprocess"), ("postprocess", "picture")}


def test_an_image_that_cannot_be_read_is_seen_in_the_trace(
    settings: Settings, tracer: Tracer, tmp_path: Path
) -> None:
    """By the name that the client gets for it, and as no fault of ours."""
    preprocess = Preprocess(settings, PrometheusRecorder(), tracer=tracer)
    with pytest.raises(ImageLoadError):
        asyncio.run(preprocess.run(replace(run(uri(b"no image")), trace=TRACE)))
    tracer.close()
    [span] = spans_in(tmp_path / "traces")
    assert (span.name, span.attributes["error.type"]) == ("preprocess", "image_load_error")
    assert span.status == "UNSET"
