"""Prompts: what is no text, or too much of it, is refused before anything is batched."""

from bisect import bisect_left
from functools import cache
from itertools import product

import pytest
from transformers import AutoProcessor

from deployments.errors import InvalidInput
from deployments.florence.checkpoint import Checkpoint
from deployments.florence.prompts import Prompts
from deployments.florence.tasks import TASKS, Task
from deployments.florence.vocabulary import Vocabulary
from deployments.settings import DEMO_CHECKPOINT, InferenceSettings
from tests.florence.questions import input_of

CHECKPOINT = Checkpoint(DEMO_CHECKPOINT)
PROMPTS = Prompts(CHECKPOINT, InferenceSettings())
SIZE = (640, 480)
TEXT_TASKS = [task for task in TASKS.values() if "text_input" in task.input.model_fields]
REGION_TASKS = [task for task in TASKS.values() if "region" in task.input.model_fields]

each_text_task = pytest.mark.parametrize("task", TEXT_TASKS, ids=lambda task: task.path)
each_region_task = pytest.mark.parametrize("task", REGION_TASKS, ids=lambda task: task.path)


@cache
def processor() -> AutoProcessor:
    """The library's."""
    return AutoProcessor.from_pretrained(DEMO_CHECKPOINT)  # type: ignore[no-any-return, no-untyped-call]


def refusal_of(task: Task, text: str, prompts: Prompts = PROMPTS) -> str:
    """Why a text is refused."""
    with pytest.raises(InvalidInput) as refused:
        prompts.encode(task, input_of(task, text_input=text), SIZE)
    [item] = refused.value.items()
    assert item["loc"] == ["body", "text_input"]
    return str(item["msg"])


@pytest.mark.parametrize(
    "text", ["", "square", "square <and> circle", "Größe café 東京", "🦒", "<b>"]
)
@each_text_task
def test_text_is_asked_as_the_library_asks(task: Task, text: str) -> None:
    """The ids are those of the library's processor, accents, emoji and the separator included."""
    ids = PROMPTS.encode(task, input_of(task, text_input=text), SIZE)
    [sentence] = processor()._construct_prompts(f"{task.marker}{text}")  # type: ignore[attr-defined]
    expected = processor().tokenizer(f"<s>{sentence}</s>", add_special_tokens=False)  # type: ignore[attr-defined]
    assert expected["input_ids"] == ids[CHECKPOINT.num_image_tokens :]


@pytest.mark.parametrize(
    "text",
    ["<OD>", "a<REGION_TO_OCR>", "</s>", "<pad>", "<loc_5>", "<image>", "a <poly> b", "a\0b"],
)
@each_text_task
def test_what_is_more_than_text_is_refused(task: Task, text: str) -> None:
    """Markers, special tokens and NUL would be read as something else."""
    assert "Input holds" in refusal_of(task, text)


@each_text_task
def test_a_text_may_be_as_long_as_the_encoder_reads(task: Task) -> None:
    """One token more is refused, and the limit is named; the engine has room for the longest."""
    room = CHECKPOINT.max_positions - CHECKPOINT.num_image_tokens
    room -= len(CHECKPOINT.vocabulary.encode(task.sentence.replace("{}", "")))
    longest = "\u00e9 " * CHECKPOINT.max_positions
    too_long = bisect_left(range(len(longest)), True, key=lambda n: not fits(task, longest[:n]))
    text = longest[: too_long - 1]
    ids = PROMPTS.encode(task, input_of(task, text_input=text), SIZE)
    assert CHECKPOINT.max_positions - 4 <= len(ids) <= len(PROMPTS.longest(task))
    assert f"at most {room}" in refusal_of(task, longest)


def fits(task: Task, text: str) -> bool:
    """Whether a text is taken."""
    try:
        PROMPTS.check(task, input_of(task, text_input=text))
    except InvalidInput:
        return False
    return True


@each_text_task
def test_a_deployment_may_take_less(task: Task) -> None:
    """`inference.max_text_tokens` bounds the text, and the room that the engine keeps for it."""
    few = Prompts(CHECKPOINT, InferenceSettings(max_text_tokens=8))
    assert "at most 8" in refusal_of(task, "red " * 40, few)
    assert len(few.longest(task)) < len(PROMPTS.longest(task))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every sentence that is tokenised."""
    sentences: list[str] = []
    encode = Vocabulary.encode

    def watched(vocabulary: Vocabulary, sentence: str) -> list[int]:
        sentences.append(sentence)
        return encode(vocabulary, sentence)

    monkeypatch.setattr(Vocabulary, "encode", watched)
    return sentences


@pytest.mark.parametrize("text", ["red circle", "red " * 1000])
@each_text_task
def test_a_text_is_tokenised_once(task: Task, text: str, read: list[str]) -> None:
    """And the task's own sentence, which never changes, not again."""
    fits(task, "")
    read.clear()
    fits(task, text)
    assert read == [task.sentence.replace("{}", text.strip())]


def test_a_huge_text_is_refused_before_it_is_read(read: list[str]) -> None:
    """By its number of characters, of which no token has so many."""
    assert "characters" in refusal_of(TEXT_TASKS[0], "a" * 5_000_000)
    assert not any("aaa" in sentence for sentence in read)


@pytest.mark.parametrize("most", [1, 3])
@each_text_task
def test_no_text_that_is_short_enough_has_too_many_characters(task: Task, most: int) -> None:
    """Tokens decide, also where each is as long as any."""
    prompts = Prompts(CHECKPOINT, InferenceSettings(max_text_tokens=most))
    vocabulary = CHECKPOINT.vocabulary
    words = (token for token, id_ in vocabulary._ids.items() if id_ not in vocabulary.special)
    longest = max(words, key=len).replace("\u0120", " ")
    assert prompts.encode(task, input_of(task, text_input=longest * most), SIZE)


@pytest.mark.parametrize(
    ("region", "words"),
    [
        ((0, 0, 1, 1), "<loc_0><loc_0><loc_1><loc_2>"),
        ((0, 0, 640, 480), "<loc_0><loc_0><loc_999><loc_999>"),
        ((-5, -(10**9), 10**9, 480), "<loc_0><loc_0><loc_999><loc_999>"),
        ((700, 500, 800, 600), "<loc_999><loc_999><loc_999><loc_999>"),
        ((320, 240, 321, 241), "<loc_500><loc_500><loc_501><loc_502>"),
    ],
)
@each_region_task
def test_a_region_is_asked_in_bins(
    task: Task, region: tuple[int, int, int, int], words: str
) -> None:
    """A pixel is a pixel, and what lies outside the image is cut off."""
    given = input_of(task, region=dict(zip(("x1", "y1", "x2", "y2"), region, strict=True)))
    assert task.prompt(given, SIZE) == task.sentence.replace("{}", words)
    assert len(PROMPTS.encode(task, given, SIZE)) <= len(PROMPTS.longest(task))


def test_bins_are_those_of_the_library() -> None:
    """Also at the edges of bins, where it divides floats of 32 bits."""
    import torch

    task = REGION_TASKS[0]
    quantize = processor().post_processor.quantize  # type: ignore[attr-defined]
    for size, x in product((333, 640, 1000, 1920), range(0, 1920, 7)):
        given = input_of(task, region={"x1": x, "y1": 0, "x2": x + 1, "y2": 1})
        [theirs] = quantize(torch.tensor([[x, 0, x + 1, 1]]), (size, size)).tolist()
        ours = [int(n) for n in task.words(given, (size, size)).strip("<>loc_").split("><loc_")]
        assert ours == theirs
