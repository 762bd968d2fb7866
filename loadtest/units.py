"""Times and bounds as people write and read them: `250ms`, `2.5s`, `10m`, `1h`, `none`."""

import re
from argparse import ArgumentTypeError

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
WRITTEN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|)")
NONE = "none"
INF = float("inf")


def seconds(text: str) -> float:
    """A length of time.

    Raises:
        ArgumentTypeError: it is none; the message is a line for a person.
    """
    found = WRITTEN.fullmatch(text.strip())
    value = float(found[1]) * UNITS[found[2]] if found else 0.0
    if value <= 0:
        raise ArgumentTypeError(f"{text!r} is no length of time: write 500ms, 2.5s, 10m or 1h")
    return value


def bound_s(text: str) -> float:
    """A bound in seconds; `none`, which no value exceeds, is infinite.

    Raises:
        ArgumentTypeError: as for `seconds`.
    """
    return INF if text == NONE else seconds(text)


def bound(text: str) -> float:
    """A bound without a unit; `none` is infinite.

    Raises:
        ArgumentTypeError: it is no number from 0 on.
    """
    try:
        value = INF if text == NONE else float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise ArgumentTypeError(f"{text!r} is no bound: write a number such as 0.01, or none")
    return value


def rate(text: str) -> float:
    """A number above 0.

    Raises:
        ArgumentTypeError: it is none.
    """
    value = bound(text)
    if not 0 < value < INF:
        raise ArgumentTypeError(f"{text!r} is no rate: write a number above 0, such as 12.5")
    return value


def number(text: str) -> int:
    """A whole number from 1 on.

    Raises:
        ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def shown_s(value: float) -> str:
    """A time of a few digits: milliseconds below a second."""
    if value >= 120:
        return f"{value / 60:.3g} min"
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"
