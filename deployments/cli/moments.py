"""Moments as people write and read them: `30d`, `2030-01-31`; all in UTC."""

import re
from datetime import UTC, datetime

from deployments.errors import SetupError

SPAN = re.compile(r"([0-9]{1,6})([smhdw])")
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def moment_after(now: float, text: str) -> float:
    """The moment that is `text` later than `now`, or the date that it names.

    Raises:
        SetupError: it is neither, or over already.
    """
    moment = now + span_s(text) if SPAN.fullmatch(text) else date_in(text).timestamp()
    if moment <= now:
        raise SetupError(f"{text} is over: give a later date, or a time from now such as 30d")
    return moment


def day_before(now: float, text: str) -> str:
    """The day `text` before `now`, or the one that it names, as `YYYY-MM-DD`.

    Raises:
        SetupError: it is neither.
    """
    if SPAN.fullmatch(text):
        return day(max(0.0, now - span_s(text)))
    return f"{date_in(text):%Y-%m-%d}"


def day(moment: float) -> str:
    """The day of a moment, as `YYYY-MM-DD`."""
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d}"


def minute(moment: float | None) -> str:
    """A moment for a table; a dash for none."""
    return "–" if moment is None else f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M}"


def iso(moment: float | None) -> str | None:
    """A moment for a program."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat()


def span_s(text: str) -> int:
    """The seconds in `12h`."""
    return int(text[:-1]) * UNITS_S[text[-1]]


def date_in(text: str) -> datetime:
    """The date, or the date and time, that `text` names."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise SetupError(
            f"{text} is no time: write YYYY-MM-DD, or a span such as 12h or 30d"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
