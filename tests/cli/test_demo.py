"""The demonstration's table and exit code."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from deployments.cli.demo import report, written
from deployments.demo.scoring import Match, SceneScore, box_of

BOX = box_of((0, 0, 1, 1))


@pytest.mark.parametrize(
    ("overlaps", "expected"),
    [([1.0] * 10, 0), ([1.0] * 9 + [0.4], 0), ([1.0] * 8 + [0.4] * 2, 1), ([0.0], 1), ([0.5], 0)],
)
def test_the_exit_code_is_the_verdict(overlaps: list[float], expected: int) -> None:
    """Nine in ten true boxes at half an overlap are enough."""
    console = Console(file=io.StringIO(), width=100)
    matches = [Match(BOX, BOX if overlap else None, overlap) for overlap in overlaps]
    assert expected == report(console, [SceneScore(matches)], Path("out"))


def test_what_is_found_where_nothing_is_stands_in_the_table() -> None:
    """A stray box has a row of its own and is counted, but is not the verdict."""
    console = Console(file=io.StringIO(), width=100)
    code = report(
        console, [SceneScore([Match(BOX, BOX, 1.0)], [box_of((5, 5, 9, 9))])], Path("out")
    )
    assert isinstance(console.file, io.StringIO)
    assert "1 found where nothing is" in console.file.getvalue()
    assert code == 0


def test_boxes_are_written_for_people() -> None:
    """Whole pixels are enough for a table."""
    assert written(box_of((1, 2, 3.6, 9))) == "1, 2, 3, 7"
