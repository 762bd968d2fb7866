"""When requests come: evenly, at random, over a day, in bursts, or as a file says."""

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deployments.errors import SetupError

DAY_S = 86400.0
BUSIEST_S = 14 * 3600.0  # of a day
TRUE = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}

Rate = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request comes; `tokens` and `is_queued` are None where nothing is said of them."""

    at_s: float
    tokens: int | None = None
    is_queued: bool | None = None


@dataclass(frozen=True)
class Burst:
    """So many requests at once, into the queue."""

    size: int
    at_s: float


def evenly(rate: float, duration_s: float) -> list[Arrival]:
    """`rate` requests a second, one exactly after the other."""
    return [Arrival((number + 0.5) / rate) for number in range(int(rate * duration_s))]


def at_random(rate: float, duration_s: float, random: np.random.Generator) -> list[Arrival]:
    """Poisson arrivals: `rate` a second on average, each regardless of the others."""
    times = random.uniform(0, duration_s, random.poisson(rate * duration_s))
    return [Arrival(float(at_s)) for at_s in np.sort(times)]


def daily(low: float, high: float, duration_s: float, random: np.random.Generator) -> list[Arrival]:
    """The same with a rate that goes from `low` at two in the night to `high` at two in the day."""
    times = np.array([each.at_s for each in at_random(high, duration_s, random)])
    swing = (1 + np.cos(2 * math.pi * (times - BUSIEST_S) / DAY_S)) / 2
    kept = random.uniform(0, high, len(times)) < low + (high - low) * swing
    return [Arrival(float(at_s)) for at_s in times[kept]]


def bursts(given: Sequence[Burst]) -> list[Arrival]:
    """Each burst's requests."""
    return [Arrival(burst.at_s, is_queued=True) for burst in given for _ in range(burst.size)]


def in_file(file: Path) -> list[Arrival]:
    """Rows of `seconds[,tokens[,queued]]`, in any order; a first row of names is left out.

    Raises:
        SetupError: it cannot be read, or a row is wrong.
    """
    try:
        with file.open(newline="") as lines:
            found = list(rows(file, csv.reader(lines)))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise SetupError(f"cannot read {file} ({reason}): --trace is a CSV file") from None
    if not found:
        raise SetupError(f"{file} has no arrival: write rows of seconds[,tokens[,queued]]")
    return sorted(found, key=lambda each: each.at_s)


def rows(file: Path, lines: Iterator[list[str]]) -> Iterator[Arrival]:
    """An arrival for each line.

    Raises:
        SetupError: a line is wrong.
    """
    for number, line in enumerate(lines, 1):
        cells = [cell.strip() for cell in line]
        if not any(cells) or (number == 1 and not is_number(cells[0])):
            continue
        arrival = arrival_in(cells)
        if arrival is None:
            raise SetupError(
                f"{file}, line {number}: write seconds[,tokens[,queued]], such as 12.5,40,yes"
            )
        yield arrival


def arrival_in(cells: Sequence[str]) -> Arrival | None:
    """What a line says; None if it is wrong."""
    at_s, tokens, queued = (*cells[:3], "", "")[:3]
    if not is_number(at_s) or float(at_s) < 0 or len(cells) > 3:
        return None
    if (tokens and not (tokens.isdecimal() and int(tokens) > 0)) or (
        queued and queued.lower() not in TRUE
    ):
        return None
    return Arrival(
        float(at_s), int(tokens) if tokens else None, TRUE[queued.lower()] if queued else None
    )


def is_number(text: str) -> bool:
    """Whether it is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
