"""All fourteen tasks at the same time; `python -m tests.florence.engine.mixed_load` has more."""

import numpy as np
import pytest

from deployments.florence.tasks import TASKS
from tests.florence.engine.mixed_load import mixed_load

COUNT = 84  # each task twice with each number of beams
USUALLY = 1e-5  # by which log-probabilities differ, but for one of ten


@pytest.mark.slow
def test_a_mixed_load_is_answered_as_one_by_one() -> None:
    """Token for token, with scores and cuts, whatever came together and whatever was known."""
    load = mixed_load(COUNT)
    different = [question for question in load if not question.is_answered]

    assert [question for question in different if not question.is_near_tie] == []
    assert len(different) <= COUNT / 20
    assert {question.task for question in load} == TASKS.keys()
    same = [question for question in load if question not in different]
    assert np.percentile([d for question in same for d in question.differences()], 90) < USUALLY
    assert any(question.sequence.image_is_known for question in load)
