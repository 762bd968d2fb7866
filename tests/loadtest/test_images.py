"""The images that are sent."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deployments.errors import SetupError
from loadtest.images import request_bodies
from loadtest.scenarios import AnswerLength


def pixels(body: bytes) -> Image.Image:
    """The image in a request."""
    uri = json.loads(body)["image_url"]
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_drawn_images_differ_and_are_the_same_every_time() -> None:
    first, second = (
        request_bodies(None, {AnswerLength.ANY}, 3)[AnswerLength.ANY] for _ in range(2)
    )

    assert first == second
    assert len(set(first)) == 3
    assert pixels(first[0]).size == (512, 512)


def test_images_for_long_answers_are_brighter() -> None:
    """The mixed checkpoint answers a bright image at length."""
    drawn = request_bodies(None, {AnswerLength.SHORT, AnswerLength.LONG}, 3)
    short, long = (
        [np.asarray(pixels(body)).mean() for body in drawn[kind]]
        for kind in (AnswerLength.SHORT, AnswerLength.LONG)
    )

    assert max(short) < min(long)


def test_the_images_of_a_folder_are_sent_as_they_are(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), "red").save(tmp_path / "a.png")
    (tmp_path / ".hidden").write_text("not an image")
    [body] = request_bodies(tmp_path, {AnswerLength.ANY})[AnswerLength.ANY]

    uri = json.loads(body)["image_url"]
    assert uri.startswith("data:image/png;base64,")
    assert base64.b64decode(uri.partition(",")[2]) == (tmp_path / "a.png").read_bytes()


@pytest.mark.parametrize("name", ["absent", "empty", "other"])
def test_a_folder_without_images_is_refused(tmp_path: Path, name: str) -> None:
    """The line names the folder, or the file that is no image."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("hello")

    with pytest.raises(SetupError, match=name):
        request_bodies(tmp_path / name, {AnswerLength.ANY})
