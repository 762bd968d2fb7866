"""What a check comes to: a verdict, what was seen, and what to do about it."""

from dataclasses import dataclass
from enum import StrEnum

from deployments.errors import SetupError


class Kind(StrEnum):
    """How it is."""

    OK = "ok"
    WARN = "warn"  # it serves, and will not for long, or not well
    FAIL = "fail"
    SKIP = "skip"  # nothing to be seen from here


@dataclass(frozen=True)
class Verdict:
    """One of them, in one line; `remedy` is what to do."""

    kind: Kind
    said: str
    remedy: str = ""


def ok(said: str) -> Verdict:
    """As it should be."""
    return Verdict(Kind.OK, said)


def warn(said: str, remedy: str) -> Verdict:
    """Good enough to serve."""
    return Verdict(Kind.WARN, said, remedy)


def fail(said: str, remedy: str = "") -> Verdict:
    """Not good enough; without a remedy, that stands in what is said."""
    return Verdict(Kind.FAIL, said, remedy)


def skip(said: str) -> Verdict:
    """Not to be known here."""
    return Verdict(Kind.SKIP, said)


class Failed(SetupError):
    """What a look cannot go on after."""

    def __init__(self, said: str, remedy: str) -> None:
        super().__init__(f"{said}: {remedy}")
        self.verdict = fail(said, remedy)
