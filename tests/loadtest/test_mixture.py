"""A checkpoint with random weights whose answers are as long as their images are bright."""

from collections import Counter
from pathlib import Path

import pytest

from loadtest.bench.answer_lengths import brightness, lengths
from loadtest.bench.checkpoint import mixed_checkpoint
from loadtest.bench.reference import Reference
from loadtest.scenes import photograph

WANTED = [20, 350, 20, 60, 20, 20, 150, 20, 30, 240]
END = 2


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder: Path = tmp_path_factory.mktemp("mixed")
    return Reference(mixed_checkpoint(folder))


@pytest.mark.slow
def test_an_answer_is_as_long_as_its_image_asks(reference: Reference) -> None:
    answers = reference.answers(photographs())
    found = [len(answer) - 1 for answer in answers]
    assert found == pytest.approx(WANTED, rel=0.1)
    assert all(answer[-1] == END and END not in answer[1:-1] for answer in answers)


@pytest.mark.slow
def test_an_answer_is_the_same_alone_and_in_a_batch(reference: Reference) -> None:
    jpegs = photographs()
    alone = [reference.generate([reference.pixels(jpeg)])[0] for jpeg in jpegs]
    assert alone == reference.answers(jpegs)


def photographs() -> list[bytes]:
    """Images that the checkpoint was not fitted to."""
    seeds = range(1000, 1000 + len(WANTED))
    sizes = zip(seeds, WANTED, strict=True)
    return [photograph(seed, brightness=brightness(length)) for seed, length in sizes]


def test_most_are_short_and_a_few_very_long() -> None:
    wanted = lengths(100)
    assert Counter(wanted)[20] == 60
    long = sorted(length for length in wanted if length != 20)
    assert 110 < long[20] < 130
    assert max(long) == 400
    assert wanted[:60] != [20] * 60  # they are shuffled
