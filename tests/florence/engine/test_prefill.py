"""The encoder's input, and images whose tokens are cached."""

from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor

from deployments.florence.engine.encoder import Encoder
from deployments.florence.engine.engine import Engine
from deployments.florence.engine.prefill import Inputs, Prefill
from deployments.florence.image_cache import ImageCache
from deployments.florence.open import open_engine
from deployments.florence.sequence import Sequence, Tokens
from deployments.florence.tasks import TASKS
from deployments.settings import DEMO_CHECKPOINT, InferenceSettings
from tests.florence.engine.pool import Pool
from tests.florence.sequences import answers, model, prompt

PAD = 1
IMAGE = [9, 9]


def inputs(num_text_tokens: int | None = None) -> Inputs:
    """Two tokens for an image."""
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.1, 0.3])
    return Inputs(mean, std, len(IMAGE), PAD, num_text_tokens, torch.float32)


def test_images_are_normalised_as_by_the_library(demo: Pool) -> None:
    """What transformers' processor would have shown, with the channels last."""
    processor = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)  # type: ignore[no-untyped-call]
    pixels = [each.pixels for each in demo.sequences[:2]]
    pictures = [Image.fromarray(each) for each in pixels]
    theirs = processor(text=["<OD>"] * 2, images=pictures, return_tensors="pt")["pixel_values"]
    ours = demo.model.inputs.images(pixels)
    torch.testing.assert_close(ours.permute(0, 3, 1, 2), theirs, atol=1e-5, rtol=0)


def test_images_may_be_read_only() -> None:
    """As they come out of Ray's object store; torch would warn of sharing such memory."""
    pixels = np.full((4, 6, 3), 255, np.uint8)
    pixels.flags.writeable = False
    images = inputs().images([pixels, pixels])
    assert images.shape == (2, 4, 6, 3)
    torch.testing.assert_close(images[1, 2, 3], torch.tensor([2.5, 6.0, 0.7 / 0.3]))


@pytest.mark.parametrize(("num_text_tokens", "width"), [(None, 3), (5, 5)])
def test_prompts_are_padded_on_the_right_and_masked(
    num_text_tokens: int | None, width: int
) -> None:
    """To the longest, or to a fixed length; the image's tokens are no part of the text."""
    text, mask = inputs(num_text_tokens).text([[*IMAGE, 5, 6, 7], [*IMAGE, 8]])
    assert text.tolist() == [[5, 6, 7, *[PAD] * (width - 3)], [8, *[PAD] * (width - 1)]]
    assert mask.shape == (2, 1, 1, len(IMAGE) + width)
    seen = (mask == 0)[:, 0, 0].sum(dim=1)
    assert seen.tolist() == [5, 3]
    assert set(mask.flatten().tolist()) == {0.0, float("-inf")}


def about(seed: int, task: str = "region-proposal", key: str | None = None) -> Sequence:
    """A sequence about noise."""
    width, height = model().checkpoint.image_size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Sequence(pixels, prompt(task), image_key=key)


class Watched:
    """An engine with a cache, and how many images each pass of its vision tower saw."""

    def __init__(self, max_bytes: int) -> None:
        self.cache: ImageCache[Tensor] = ImageCache(max_bytes)
        self.engine = open_engine(model(), InferenceSettings(prefill_batch_size=8), 200, self.cache)
        self.passes: list[int] = []
        self.fails = False
        prefill = self.engine._prefill
        self._encode_images = prefill._encode_images
        prefill._encode_images = self  # type: ignore[assignment]

    def __call__(self, images: Tensor) -> Tensor:
        """The pass, seen."""
        self.passes.append(len(images))
        if self.fails:
            raise RuntimeError("the tower fell")
        return self._encode_images(images)

    def begin(self, *sequences: Sequence) -> list[bool]:
        """Send sequences to the encoder; which of their images were known."""
        self.engine.add(sequences)
        return [sequence.image_is_known for sequence in sequences]


@pytest.fixture(scope="module")
def shared() -> Watched:
    """One engine for all tests, each of which has image keys of its own."""
    return Watched(1_000_000)


@pytest.fixture
def watched(shared: Watched) -> Watched:
    """The engine without sequences, and nothing counted."""
    shared.engine.reset()
    shared.passes.clear()
    shared.fails = False
    return shared


@cache
def alone(seed: int, task: str) -> Tokens:
    """The answer of an engine that shares nothing."""
    [tokens] = answers(plain_engine(), [about(seed, task)])
    return tokens


@cache
def plain_engine() -> Engine:
    """An engine without a cache."""
    return open_engine(model(), InferenceSettings(), 200)


@pytest.mark.slow
def test_questions_that_begin_together_share_a_pass(watched: Watched) -> None:
    """Each image goes through the tower once; the first question of each counts as the miss."""
    sequences = [about(seed, task, f"together {seed}") for task in TASKS for seed in (1, 2)][:8]
    assert watched.begin(*sequences) == [False] * 2 + [True] * (len(sequences) - 2)
    assert watched.passes == [2]


@pytest.mark.slow
def test_the_answers_are_those_that_each_gets_alone(watched: Watched) -> None:
    """Whether its image comes with it, from its batch or from the cache, next to new images."""
    asked = [(seed, task) for task in TASKS for seed in (1, 2, 1)]
    found = answers(watched.engine, [about(seed, task, f"alone {seed}") for seed, task in asked])
    assert found == [alone(*each) for each in asked]
    assert sum(watched.passes) == 2


@pytest.mark.slow
def test_the_next_question_needs_no_pass(watched: Watched) -> None:
    """Also while the first is still being answered; a batch of known images has none at all."""
    assert watched.begin(about(1, key="next")) == [False]
    assert watched.begin(about(1, "caption", "next"), about(2, key="next 2")) == [True, False]
    assert watched.begin(about(1, key="next"), about(2, key="next 2")) == [True, True]
    assert watched.passes == [1, 1]


@pytest.mark.slow
def test_other_keys_share_nothing(watched: Watched) -> None:
    """The same image of another API key, or of none, goes through the tower itself."""
    sequences = [about(1, key="mine"), about(1, key="yours"), about(1), about(1)]
    assert watched.begin(*sequences) == [False] * 4
    assert watched.begin(about(1), about(1, key="mine")) == [False, True]
    assert watched.passes == [4, 1]


@pytest.mark.slow
def test_the_second_goes_on_without_the_first(watched: Watched) -> None:
    """A caller that leaves takes nothing from another that shares its image."""
    first, second = about(1, key="left"), about(1, "caption", "left")
    watched.begin(first, second)
    watched.engine.drop(first)
    while not second.tokens:
        watched.engine.step()
    assert second.tokens == alone(1, "caption")
    assert watched.passes == [1]


@pytest.mark.slow
def test_a_pass_that_fails_is_not_remembered(watched: Watched) -> None:
    """The next question sees the image itself."""
    watched.fails = True
    with pytest.raises(RuntimeError, match="the tower fell"):
        watched.begin(about(1, key="failed"), about(1, key="failed"))
    watched.fails = False
    assert watched.begin(about(1, key="failed")) == [False]
    assert watched.passes == [1, 1]


@pytest.mark.slow
def test_memory_is_bounded_by_whole_images() -> None:
    """A budget for one image keeps one; without any, a batch still shares, and nothing is kept."""
    width = model().florence.config.text_config.d_model
    num_bytes = 4 * width * model().checkpoint.num_image_tokens
    watched = Watched(num_bytes)
    watched.begin(*(about(seed, key=str(seed)) for seed in range(3)))
    assert watched.cache.num_bytes == num_bytes
    assert watched.begin(about(2, key="2"), about(1, key="1")) == [True, False]
    nothing = Watched(0)
    assert nothing.begin(about(1, key="a"), about(1, key="a")) == [False, True]
    assert nothing.begin(about(1, key="a")) == [False]
    assert nothing.passes == [1, 1]


@torch.inference_mode()
def test_images_one_by_one(uneven: Pool) -> None:
    """Five have the same keys and values as in one pass of the tower."""
    sequences = uneven.sequences[:5]
    prefill = Prefill(Encoder(uneven.model.florence), uneven.model.inputs)
    expected = prefill(sequences).cross_kv
    prefill.one_by_one = True
    torch.testing.assert_close(prefill(sequences).cross_kv, expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_measurement_changes_no_tokens(uneven: Pool) -> None:
    """Whichever way is quicker here; nothing is measured before."""
    sequences = uneven.sequences[:5]
    prefill = Prefill(Encoder(uneven.model.florence), uneven.model.inputs)
    assert not prefill.one_by_one
    expected = prefill(sequences).cross_kv
    prefill.measure(sequences)
    torch.testing.assert_close(prefill(sequences).cross_kv, expected, atol=1e-5, rtol=0)
