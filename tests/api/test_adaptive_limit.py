"""The window: as many runs as the pipeline gets through without a long wait."""

from collections import deque

import pytest

from deployments.api.adaptive_limit import Window

MODEL_S = 0.5
LEAST = 4


class Line:
    """A model that takes `at_once` runs at a time, MODEL_S each, and runs that wait for it.

    Somebody always wants a place in the window; a step is the time of one turn of the model.
    """

    def __init__(self, most: int, at_once: int) -> None:
        self.now = 0.0
        self.at_once = at_once
        self.window = Window(most, LEAST, lambda: self.now)
        self._waiting: deque[float] = deque()

    def turn(self) -> None:
        """Fill the window, and let the model take its turn."""
        while len(self._waiting) < self.window.size:
            self._waiting.append(self.now)
        under_way = len(self._waiting)
        taken = [self._waiting.popleft() for _ in range(min(self.at_once, under_way))]
        begun, self.now = self.now, self.now + MODEL_S
        for number, came in enumerate(taken):
            self.window.note(under_way - number, begun - came, MODEL_S)

    def turns(self, number: int) -> list[int]:
        """The window's sizes over so many turns."""
        sizes = []
        for _ in range(number):
            self.turn()
            sizes.append(self.window.size)
        return sizes


def test_it_begins_wide() -> None:
    """Nobody is refused for what has not been seen."""
    assert Window(256, LEAST).size == 256


@pytest.mark.parametrize("at_once", [8, 32])
def test_under_overload_a_run_waits_for_about_two_turns(at_once: int) -> None:
    """The window settles where twice as many wait as are in the model."""
    line = Line(256, at_once)
    line.turns(100)
    sizes = line.turns(200)

    assert at_once * 2 <= sum(sizes) / len(sizes) <= at_once * 4
    assert max(sizes) <= at_once * 5


def test_it_follows_replicas_that_come() -> None:
    """With twice the replicas it lets in twice as many, before long."""
    line = Line(256, 8)
    line.turns(200)
    line.at_once = 16
    line.turns(200)
    sizes = line.turns(200)

    assert sum(sizes) / len(sizes) >= 16 * 2


def test_it_does_not_shrink_below_a_few() -> None:
    """Somebody has to find out when it gets better; and never above what is allowed."""
    line = Line(256, 1)
    line.turns(500)
    assert line.window.size >= LEAST
    assert Window(2, LEAST).size == 2


def test_without_load_it_stays_as_it_is() -> None:
    """Runs that wait for nobody say nothing about how many more there could be."""
    line = Line(256, 8)
    line.turns(200)
    size = line.window.size
    for _ in range(1000):
        line.window.note(1, 0.0, MODEL_S)

    assert line.window.size == size


def test_one_unlucky_run_changes_nothing() -> None:
    """A single long wait is no overload."""
    window = Window(64, LEAST)
    window.note(10, 3.0, MODEL_S)

    assert window.size == 64
