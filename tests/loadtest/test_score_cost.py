"""The benchmark of scores' cost compares the same work, step by step."""

import pytest

from loadtest.bench.questions import Shape
from loadtest.bench.score_cost import Pair, ScoreBench, summary


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 3])
def test_both_engines_take_the_same_steps(beams: int) -> None:
    """As many in each round, after the encoder's; one of them scores."""
    pair = Pair(ScoreBench(Shape.SMALL, beams, 3, 5, 2))
    rounds = [pair.round(number) for number in range(2)]
    assert [len(turns) for turns in rounds] == [6, 6]


def test_each_step_counts_with_its_least_time() -> None:
    """So that one busy moment decides nothing; the first is the encoder's."""
    found = summary([[(3.0, 3.0), (1.0, 9.0)], [(5.0, 5.0), (2.0, 1.5)]], 2)
    assert found["an answer"]["plain_ms"] == 2000.0
    assert found["an answer"]["scored_ms"] == 2250.0
    assert found["without the encoder"]["ratio"] == 1.5
