"""A course in the terminal: who waits, and the replicas, over time, in blocks."""

from collections.abc import Sequence
from itertools import pairwise

from loadtest.plan.simulation import Course

BLOCKS = " ▁▂▃▄▅▆▇█"
MARGIN = 9  # columns left of a chart


def chart(course: Course, width: int) -> str:
    """Two charts, one below the other, in `width` columns."""
    columns = max(10, width - MARGIN)
    waiting = spread([moment.waiting for moment in course.moments], columns)
    up = spread([moment.up for moment in course.moments], columns)
    target = spread([moment.target for moment in course.moments], columns)
    lines = ["requests that wait for the model", *bars(waiting, 6)]
    lines += ["replicas that answer (█) and that are on their way (░)", *steps(up, target)]
    return "\n".join([*lines, axis(course.ended_s, columns)])


def spread(values: Sequence[int], columns: int) -> list[int]:
    """The largest of the values that fall into each column."""
    edges = [len(values) * i // columns for i in range(columns + 1)]
    return [max(values[start : max(end, start + 1)]) for start, end in pairwise(edges)]


def bars(values: Sequence[int], height: int) -> list[str]:
    """Bars in eighths of a line, the largest value as high as the chart."""
    top = max(1, *values)
    levels = [-(-value * height * 8 // top) for value in values]  # what is not nothing is seen
    lines = []
    for row in reversed(range(height)):
        label = f"{top:,}" if row == height - 1 else "0" if row == 0 else ""
        blocks = (BLOCKS[min(8, max(0, level - 8 * row))] for level in levels)
        lines.append(f"{label:>{MARGIN - 2}} │{''.join(blocks)}")
    return lines


def steps(up: Sequence[int], target: Sequence[int]) -> list[str]:
    """A line for each replica; of many, for every few."""
    top = max(1, *up, *target)
    each = -(-top // 8)
    lines = []
    for level in range(-(-top // each) * each, 0, -each):
        cells = ("█" if u >= level else "░" if t >= level else " " for u, t in pairs(up, target))
        lines.append(f"{level:>{MARGIN - 2}} │{''.join(cells)}")
    return lines


def pairs(up: Sequence[int], target: Sequence[int]) -> list[tuple[int, int]]:
    """Both, column by column."""
    return list(zip(up, target, strict=True))


def axis(seconds: float, columns: int) -> str:
    """The line below, with the time at its ends and in its middle."""
    middle, end = clock(seconds / 2), clock(seconds)
    gap = " " * (columns // 2 - 1 - len(middle) // 2)
    labels = f"0{gap}{middle}"
    labels += " " * (columns - len(labels) - len(end)) + end
    return f"{'':>{MARGIN - 2}} └{'─' * columns}\n{'':>{MARGIN}}{labels}"


def clock(seconds: float) -> str:
    """A time since the beginning."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"
