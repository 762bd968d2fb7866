"""Preprocess, Inference and Postprocess without Ray: the boxes are plain classes."""

import asyncio
import io
import os
import random
import time
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from deployments.demo.scenes import draw_scene
from deployments.errors import GenerationError, ImageLoadError, InternalError, SetupError
from deployments.florence.run import Finished, Prepared, Query, Run, Tokens
from deployments.images.storage import LocalFileStore, StoredFile
from deployments.inference import Inference
from deployments.metrics import PrometheusRecorder
from deployments.postprocess import Postprocess
from deployments.preprocess import Preprocess
from deployments.settings import Settings, parse
from tests.acceptance.caller import scene, truth, uri


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The demo checkpoint on the CPU, files in a folder of the test."""
    root = str(tmp_path_factory.mktemp("files"))
    return parse({"model": {"path": "demo", "device": "cpu"}, "files": {"root": root}})


@pytest.fixture(scope="module")
def inference(settings: Settings) -> Inference:
    """A loaded model."""
    return Inference(settings, PrometheusRecorder())


def run(image_url: str = "", task: str = "region-proposal") -> Run:
    """A request with a minute of patience."""
    return Run("id", task, image_url, time.time() + 60, base_url="https://here")


def prepare(settings: Settings, image_url: str) -> Prepared:
    """What Preprocess makes of an image."""
    return asyncio.run(Preprocess(settings, PrometheusRecorder()).run(run(image_url)))


async def through(settings: Settings, inference: Inference, given: Run) -> Finished:
    """One run through all three boxes."""
    recorder = PrometheusRecorder()
    prepared = await Preprocess(settings, recorder).run(given)
    generated = await inference.run(prepared, given)
    return await Postprocess(settings, recorder).run(prepared, generated, given)


def test_preprocess_makes_pixels_of_the_models_size(settings: Settings) -> None:
    """Pixels are uint8 RGB at the checkpoint's size; the size is that of the image."""
    prepared = prepare(settings, uri(scene(0).image))

    assert prepared.pixels.shape == (128, 128, 3)
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
    box = Preprocess(settings, PrometheusRecorder())
    box.check_health()
    box._decoding[1] = time.monotonic() - 1000

    with pytest.raises(InternalError):
        box.check_health()


def test_a_file_that_fails_leaves_nothing_decoding(settings: Settings) -> None:
    """A bad image is an error of its own and is forgotten."""
    box = Preprocess(settings, PrometheusRecorder())
    with pytest.raises(ImageLoadError):
        asyncio.run(box.run(run(uri(b"no image"))))

    assert box._decoding == {}


def test_the_boxes_find_what_is_there(settings: Settings, inference: Inference) -> None:
    """An image becomes boxes near the true ones, with a stored picture and all stages measured."""
    finished = asyncio.run(through(settings, inference, run(uri(scene(1).image))))
    boxes = finished.output["results"]["bboxes"]

    assert len(boxes) == len(truth(scene(1)))
    assert finished.output["image"]["url"].startswith("https://here/cdn/files/")
    assert finished.stages.batch_size == 1
    assert min(finished.stages.decode_s, finished.stages.model_s, finished.stages.postprocess_s) > 0


def test_requests_at_the_same_time_share_a_batch(settings: Settings, inference: Inference) -> None:
    """Eight requests together take fewer passes than eight, and each gets its own answer."""
    images = [uri(draw_scene_of(seed)) for seed in range(8)]

    async def all_at_once() -> list[Finished]:
        return await asyncio.gather(*(through(settings, inference, run(image)) for image in images))

    together = asyncio.run(all_at_once())
    alone = [asyncio.run(through(settings, inference, run(image))) for image in images]

    assert max(finished.stages.batch_size for finished in together) > 1
    assert [f.output["results"] for f in together] == [f.output["results"] for f in alone]


def draw_scene_of(seed: int) -> Image.Image:
    """A small scene."""

    return draw_scene(random.Random(seed), (200, 160)).image


def test_a_model_that_fails_is_fals_generation_error(
    settings: Settings, inference: Inference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the model raises is not shown to the client."""

    def fail(_batch: Sequence[Query]) -> list[Tokens]:
        raise RuntimeError("secret tensor shapes")

    prepared = prepare(settings, uri(scene(0).image))
    monkeypatch.setattr(inference._batcher, "_work", fail)
    with pytest.raises(GenerationError) as caught:
        asyncio.run(inference.run(prepared, run()))

    assert "secret" not in str(caught.value)


def test_inference_is_healthy_while_its_engine_lives(inference: Inference) -> None:
    """The engine's heartbeat is the health of the box."""
    inference.check_health()


class FullStore(LocalFileStore):
    """A store on a full disk."""

    def put(self, data: bytes, content_type: str) -> StoredFile:
        """Fail."""
        raise SetupError("no space left on device")


def test_a_full_store_costs_the_picture_alone(settings: Settings, inference: Inference) -> None:
    """The boxes are answered without a picture."""
    given = run(uri(scene(1).image))
    prepared = prepare(settings, given.image_url)
    generated = asyncio.run(inference.run(prepared, given))
    box = Postprocess(settings, PrometheusRecorder(), FullStore(settings.files))
    finished = asyncio.run(box.run(prepared, generated, given))

    assert finished.output["image"] is None
    assert finished.output["results"]["bboxes"]


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
    old = files.put(b"old", "image/jpeg")
    os.utime(old.path, (0, 0))
    monkeypatch.setattr("deployments.postprocess.PRUNE_EVERY_S", 0.0)
    given = run(uri(scene(1).image))
    prepared = prepare(settings, given.image_url)
    generated = asyncio.run(inference.run(prepared, given))
    asyncio.run(Postprocess(settings, PrometheusRecorder(), files).run(prepared, generated, given))

    assert not old.path.exists()
