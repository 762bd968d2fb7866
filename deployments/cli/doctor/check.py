"""Runs checks one after the other: each has a time limit, and none can break the others."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from deployments.cli.doctor.verdict import Failed, Kind, Verdict, fail, skip
from deployments.errors import SetupError

LIMIT_S = 30.0


@dataclass(frozen=True)
class Check:
    """A look at one thing; in vain when the check called `after` has failed."""

    name: str
    look: Callable[[], Verdict]
    after: str = ""
    limit_s: float = LIMIT_S


@dataclass(frozen=True)
class Finding:
    """What a check came to."""

    check: str
    verdict: Verdict

    @property
    def failed(self) -> bool:
        """Whether something must be done."""
        return self.verdict.kind is Kind.FAIL


def findings(checks: Sequence[Check]) -> Iterator[Finding]:
    """What each comes to, as soon as it is known."""
    failed: set[str] = set()
    for check in checks:
        if check.after in failed:
            found = Finding(check.name, skip(f"not to be known after {check.after}"))
        else:
            found = Finding(check.name, within(check.limit_s, check.look))
        if found.failed:
            failed.add(check.name)
        yield found


def within(limit_s: float, look: Callable[[], Verdict]) -> Verdict:
    """What `look` says, or that it says nothing for too long.

    It is left to itself then: nothing can stop a thread, and the command ends without it.
    """
    said: list[Verdict] = []
    thread = threading.Thread(target=lambda: said.append(safely(look)), daemon=True)
    thread.start()
    thread.join(limit_s)
    if said:
        return said[0]
    return fail(
        f"no answer within {limit_s:g} s", "see whether what it asks is reachable from here"
    )


def safely(look: Callable[[], Verdict]) -> Verdict:
    """What `look` says; an error is a failure in one line, never a traceback."""
    try:
        return look()
    except Failed as error:
        return error.verdict
    except SetupError as error:
        return fail(one_line(error))
    except Exception as error:
        return fail(f"{type(error).__name__}: {one_line(error)}", "see whether that can be read")


def one_line(error: BaseException) -> str:
    """What an error says."""
    return " ".join(str(error).split())
