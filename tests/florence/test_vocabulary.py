"""The tokenizer without transformers: the same ids, and answers cut out of their frame."""

from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoProcessor

from deployments.errors import SetupError
from deployments.florence.tasks import TASKS
from deployments.florence.vocabulary import Vocabulary
from deployments.settings import DEMO_CHECKPOINT

VOCABULARY = Vocabulary(DEMO_CHECKPOINT)
START, PAD, END = (VOCABULARY.id(token) for token in ("<s>", "<pad>", "</s>"))

plain_ids = st.lists(
    st.integers(0, len(VOCABULARY._ids) - 1).filter(lambda id_: id_ not in VOCABULARY.frame),
    max_size=20,
)


def test_there_are_a_thousand_locations() -> None:
    """Each location token has its own bin, from 0 to 999."""
    assert list(range(1000)) == sorted(VOCABULARY.bins.values())


@cache
def library_ids(sentence: str) -> list[int]:
    """The ids that the library's tokenizer gives."""
    processor = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)  # type: ignore[no-untyped-call]
    return list(processor.tokenizer(sentence)["input_ids"])


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.path)
def test_prompts_have_the_ids_of_the_library(task: object) -> None:
    """A sentence is tokenised as transformers does it."""
    sentence = str(task.sentence)  # type: ignore[attr-defined]
    assert library_ids(sentence) == VOCABULARY.encode(sentence)


# `<s>` and its like are tokens of their own, which frame a text and are no part of it.
@given(
    text=st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=40).map(str.strip)
)
def test_text_comes_back(text: str) -> None:
    """Any text without special tokens survives encoding and decoding."""
    assert text == VOCABULARY.decode(VOCABULARY.encode(text))


@given(ids=plain_ids, rest=st.lists(st.integers(0, 1400), max_size=8))
def test_an_answer_ends_at_its_end_token(ids: list[int], rest: list[int]) -> None:
    """The frame goes, and so does whatever a model says after its end."""
    assert tuple(ids) == VOCABULARY.trim([END, START, *ids, *([END, *rest] if ids else [END])])


def test_an_answer_without_an_end_is_whole() -> None:
    """An answer that was cut short by its length is kept up to the cut."""
    assert VOCABULARY.trim([END, START, 100, 101]) == (100, 101)


@pytest.mark.parametrize("ids", [[], [END], [END, START, END], [END, START, PAD, PAD]])
def test_an_empty_answer_is_empty(ids: list[int]) -> None:
    """A frame around nothing is nothing."""
    assert VOCABULARY.trim(ids) == ()


def test_an_unknown_token_is_a_wrong_checkpoint() -> None:
    """A tokenizer without one of Florence-2's tokens is named as such."""
    with pytest.raises(SetupError, match="no token <nothing>"):
        VOCABULARY.id("<nothing>")


def test_a_tokenizer_without_locations_is_refused(tmp_path: Path) -> None:
    """A tokenizer of another model is not taken for Florence-2's."""
    (tmp_path / "tokenizer.json").write_text(
        '{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],'
        '"normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,'
        '"model": {"type": "WordLevel", "vocab": {"<s>": 0}, "unk_token": "<s>"}}'
    )
    with pytest.raises(SetupError, match="not Florence-2's"):
        Vocabulary(tmp_path)
