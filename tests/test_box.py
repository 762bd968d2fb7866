"""What goes by value between boxes, and what by reference."""

from typing import Any

import pytest

from deployments.florence.checkpoint import image_size
from deployments.pipeline import Handle, are_small, handle_of
from deployments.settings import ModelSettings


async def ready() -> bool:
    """A box that is."""
    return True


def begins(*_: Any) -> Any:
    """Work that nobody waits for."""


@pytest.mark.parametrize(
    ("size", "small"),
    [((224, 224), True), ((418, 418), True), ((419, 418), False), ((768, 768), False)],
)
def test_half_a_megabyte_is_small(size: tuple[int, int], small: bool) -> None:
    """The real model's images are not."""
    assert are_small(size) is small


def test_the_demo_sees_small_images() -> None:
    """So its tests send them by value."""
    assert are_small(image_size(ModelSettings(path="demo")))


def test_a_box_stays_what_it_is() -> None:
    """Only a handle is wrapped."""
    box = Handle(begins, ready)
    assert handle_of(box) is box


def test_what_is_small_takes_the_way_that_there_is() -> None:
    """By value where a box knows how."""

    def small(*_: Any) -> Any: ...

    assert Handle(begins, ready).run_small is begins
    assert Handle(begins, ready, small).run_small is small
