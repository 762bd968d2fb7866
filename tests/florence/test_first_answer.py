"""A model that says one token over and over is not served."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import Florence2ForConditionalGeneration

from deployments.florence.first_answer import check_answer, picture, without_frame
from deployments.florence.generate_backend import Generate
from deployments.florence.model import Model
from deployments.florence.open import open_engine
from deployments.settings import DEMO_CHECKPOINT, InferenceSettings
from tests.florence.sequences import demo, model
from tests.refusal import refusal_of

SETTINGS = InferenceSettings(max_new_tokens=20)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo with random weights."""
    folder = tmp_path_factory.mktemp("noise")
    shutil.copytree(DEMO_CHECKPOINT, folder, dirs_exist_ok=True)
    torch.manual_seed(0)
    florence = Florence2ForConditionalGeneration(model().florence.config)
    florence.generation_config = model().florence.generation_config
    florence.save_pretrained(folder)
    return folder


def test_the_demo_is_served() -> None:
    """By both backends."""
    check_answer(open_engine(model(), SETTINGS, 120), model().checkpoint)
    check_answer(Generate(model(), SETTINGS), model().checkpoint)


def test_random_weights_are_refused(noise: Path) -> None:
    """The line names the token and the setting, by both backends."""
    random = Model(demo(path=str(noise)))
    for backend in (open_engine(random, SETTINGS, 120), Generate(random, SETTINGS)):
        line = refusal_of(check_answer, backend, random.checkpoint)
        assert f"the model in {noise} answers with nothing but '" in line
        assert "set model.check_answer to false" in line


def test_an_answer_loses_its_frame_only() -> None:
    """`</s>`, a forced `<s>`, and the last `</s>`; an endless `<s>` stays."""
    checkpoint = model().checkpoint
    assert without_frame((2, 0, 5, 6, 2), checkpoint) == (5, 6)
    assert without_frame((2, 0, 2), checkpoint) == ()
    assert without_frame((2, 0, 0, 0, 0, 0, 2), checkpoint) == (0, 0, 0, 0)


def test_the_picture_has_a_disc() -> None:
    """(height, width, 3), red in the middle."""
    drawn = picture((8, 4))
    assert drawn.shape == (4, 8, 3)
    assert drawn[2, 4].tolist() == [200, 30, 30]
    assert drawn[0, 0].tolist() == [235, 235, 235]
