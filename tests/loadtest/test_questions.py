"""The benchmark of many questions about one picture does what it says."""

import pytest

from loadtest.bench.questions import Questions, QuestionsBench, Round, Shape, summary


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 3])
def test_the_questions_share_a_pass_and_get_their_own_answers(beams: int) -> None:
    """Five and twenty go through the tower once; the engine without a cache says the same."""
    questions = Questions(QuestionsBench(6, beams, 1, 1, 8, 4, Shape.SMALL))
    prefill, passes = questions._engine._prefill, []
    encode_images = prefill._encode_images

    def seen(images: object) -> object:
        passes.append(len(images))  # type: ignore[arg-type]
        return encode_images(images)  # type: ignore[arg-type]

    prefill._encode_images = seen  # type: ignore[assignment]
    measured = questions.round()
    assert passes == [1, 1, 1]
    assert min(measured.one, measured.five, measured.twenty) > 0
    assert questions.apart_s() > 0
    assert passes == [1] * 23
    assert min(questions.pair(0)) > 0
    assert passes == [1] * 25


def test_ratios_are_medians_of_rounds() -> None:
    """So that one round on a busy machine decides nothing; a pair's are of the least times."""
    rounds = [Round(1.0, 1.5, 3.0), Round(2.0, 3.2, 6.2), Round(1.0, 9.0, 9.0)]
    found = summary(rounds, [(1.0, 3.0), (4.0, 1.0)], 20.0)
    assert {name: way["ratio"] for name, way in found.items()} == {
        "one": 1.0,
        "five": 1.6,
        "twenty": 3.1,
        "twenty, one by one": 20.0,
        "one, against no cache": 1.0,
    }
