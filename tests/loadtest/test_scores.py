"""The benchmark of scores, on fewer scenes than its page has."""

import pytest

from loadtest.bench.scores import PATHS, SERVICE, aurocs, judge, service_score

pytestmark = pytest.mark.slow
NUM_SCENES = 192  # each kind of scene for each task, four times
SEED = 5_000_000


def test_scores_tell_right_items_from_wrong_ones() -> None:
    """Far more often than the half that chance would; every task has items."""
    judged = judge(NUM_SCENES, 1, SEED)
    row = aurocs(judged, {SERVICE: service_score})[-1]
    name, everything = [cell.strip() for cell in row.split("|")[1:3]]

    assert name == SERVICE
    assert float(everything) > 0.75
    assert {each.path for each in judged} == set(PATHS)
