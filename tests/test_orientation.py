"""A picture that a camera stored turned is asked about, and answered, as a person sees it."""

import asyncio
import io
import random
import time

import numpy as np
import pytest
from PIL import Image, ImageOps

from deployments.demo.scenes import draw_scene
from deployments.files.local import LocalFileStore
from deployments.florence.checkpoint import open_checkpoint
from deployments.florence.messages import Finished, Generated, Prepared, Request
from deployments.florence.prompts import Prompts
from deployments.florence.stages import Stages
from deployments.florence.tasks import TASKS, Task
from deployments.postprocess import Postprocess
from deployments.preprocess import Preprocess
from deployments.settings import Settings, parse
from deployments.telemetry.metrics import PrometheusRecorder
from tests.acceptance.caller import uri
from tests.florence.questions import input_of, shapes_of
from tests.images.test_decode import TURNED_BY

SIZE = (320, 240)
ORIENTATIONS = range(1, 9)
ORIENTATION = 0x0112  # in EXIF
CORNERS = (100, 200, 700, 250, 600, 900, 150, 800)  # bins of a quad, a polygon, or two boxes
DRAWN = [task for task in TASKS.values() if task.draw]
ASKED_BY_REGION = [task for task in TASKS.values() if "region" in task.input.model_fields]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The demo checkpoint, and files in a folder of the test."""
    root = str(tmp_path_factory.mktemp("files"))
    return parse({"model": {"path": "demo", "device": "cpu"}, "files": {"root": root}})


@pytest.fixture(scope="module")
def prepared(settings: Settings) -> dict[int, Prepared]:
    """The same picture in each orientation, as Preprocess passes it on."""
    preprocess = Preprocess(settings, PrometheusRecorder())
    return {each: asyncio.run(preprocess.run(about(stored(each)))) for each in ORIENTATIONS}


def stored(orientation: int) -> str:
    """The picture as a file that says how it is turned; a data URI."""
    upright = draw_scene(random.Random("turned"), SIZE).image
    method = TURNED_BY[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    buffer = io.BytesIO()
    (upright if method is None else upright.transpose(method)).save(buffer, "PNG", exif=exif)
    return uri(buffer.getvalue())


def about(image_url: str = "data:,", task: str = "object-detection") -> Request:
    """A request with a minute to go."""
    given = input_of(TASKS[task], image_url=image_url)
    return Request("id", task, given, time.time() + 60, base_url="https://here")


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_model_sees_it_upright(prepared: dict[int, Prepared], orientation: int) -> None:
    """To the pixel, and to the digest by which equal images share a pass."""
    found, upright = prepared[orientation], prepared[1]
    assert found.size == SIZE
    assert found.digest == upright.digest
    assert np.array_equal(found.pixels, upright.pixels)


@pytest.mark.parametrize("task", ASKED_BY_REGION, ids=lambda task: task.path)
def test_regions_are_of_the_upright_picture(
    prepared: dict[int, Prepared], settings: Settings, task: Task
) -> None:
    """One region is one prompt, however the file is turned."""
    checkpoint = open_checkpoint(settings.model)
    prompts = Prompts(checkpoint, settings.inference)
    asked = {tuple(prompts.encode(task, input_of(task), each.size)) for each in prepared.values()}
    bins = [checkpoint.vocabulary.bins.get(id_) for id_ in asked.pop()]
    assert not asked
    assert [bin_ for bin_ in bins if bin_ is not None] == [312, 416, 625, 833]


@pytest.mark.parametrize("task", DRAWN, ids=lambda task: task.path)
def test_answers_are_of_the_upright_picture(
    prepared: dict[int, Prepared], settings: Settings, task: Task
) -> None:
    """The same tokens are the same pixels, and the picture shows them on the upright image."""
    postprocess = Postprocess(settings, PrometheusRecorder())
    files = LocalFileStore(settings.files)
    generated = Generated(tokens(settings), Stages())

    async def answer(orientation: int) -> Finished:
        return await postprocess.run(prepared[orientation], generated, about(task=task.path))

    finished = [asyncio.run(answer(orientation)) for orientation in ORIENTATIONS]
    first = finished[0].output
    pictures = {files.path(name).read_bytes() for each in finished for name in each.files}

    assert [each.output["results"] for each in finished] == [first["results"]] * len(finished)
    assert shapes_of(task.output.model_validate(first).results)  # type: ignore[attr-defined]
    assert {
        (each.output["image"]["width"], each.output["image"]["height"]) for each in finished
    } == {SIZE}
    [picture] = pictures
    with Image.open(io.BytesIO(picture)) as drawn:
        assert drawn.size == ImageOps.exif_transpose(drawn).size == SIZE


def tokens(settings: Settings) -> tuple[int, ...]:
    """An answer that holds a shape for every task: a label, then the locations of four points."""
    vocabulary = open_checkpoint(settings.model).vocabulary
    ids = {bin_: id_ for id_, bin_ in vocabulary.bins.items()}
    first, *label, last = vocabulary.encode("red circle")
    return (last, first, *label, *(ids[bin_] for bin_ in CORNERS), last)
