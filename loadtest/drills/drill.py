"""One drill: what is broken, how it is mended, and what must hold; and how it is performed."""

import time
from dataclasses import dataclass, field
from typing import ClassVar

import httpx2

from loadtest.drills.clients import APP
from loadtest.drills.load import load, until
from loadtest.drills.site import Site
from loadtest.drills.tally import Tally

NUM_PAIRS = 4
RECOVERY_S = 240.0
ENDING_S = 120.0


class Drill:
    """A part is broken, stays so for `away_s` seconds, and is mended.

    `what` says it in the table.
    """

    what: ClassVar[str]
    away_s: float = 0.0

    def strike(self, site: Site) -> None:
        """Break it."""
        raise NotImplementedError

    def mend(self, site: Site) -> None:
        """Do what an operator does; most parts mend themselves."""

    def is_over(self, site: Site) -> bool:
        """Whether all is as it was."""
        return site.is_whole()

    def complaints(self, site: Site, tally: Tally) -> list[str]:
        """What does not hold afterwards, beside requests that failed."""
        return [] if len(tally.answers) == 1 else ["the answers differ"]


@dataclass(frozen=True)
class Outcome:
    """What came of a drill; times in seconds."""

    drill: str
    tally: Tally
    recovered_s: float
    complaints: list[str] = field(default_factory=list)

    @property
    def is_passed(self) -> bool:
        """Whether no client's request failed, and all holds that must."""
        return not self.tally.final and not self.complaints


def perform(drill: Drill, site: Site, seconds: float) -> Outcome:
    """Break and mend a part of `site` under load that lasts `seconds`, or as long as it takes."""
    calm_s = seconds / 4
    with load(site.target, NUM_PAIRS) as tally:
        time.sleep(calm_s)
        began = time.monotonic()
        complaints = break_and_mend(drill, site)
        whole_s = time.monotonic() - began
        time.sleep(max(calm_s, seconds - calm_s - whole_s))
    recovered_s = max(whole_s, tally.last_failure - began)
    complaints += [*lost(site, tally), *drill.complaints(site, tally)]
    return Outcome(drill.what, tally, recovered_s, complaints)


def break_and_mend(drill: Drill, site: Site) -> list[str]:
    """A complaint when it takes for ever."""
    try:
        drill.strike(site)
        time.sleep(drill.away_s)
        drill.mend(site)
        until(lambda: drill.is_over(site), RECOVERY_S, "not mended")
    except TimeoutError as error:
        return [str(error)]
    return []


def lost(site: Site, tally: Tally) -> list[str]:
    """Complaints about acknowledged requests that did not come to a good end."""
    missing = set(tally.acknowledged)
    headers = {"Authorization": f"Key {site.target.key}"}
    with httpx2.Client(headers=headers, timeout=30, trust_env=False) as http:

        def all_done() -> bool:
            missing.difference_update([id_ for id_ in missing if is_done(http, site, id_)])
            return not missing

        try:
            until(all_done, ENDING_S, "not all are done")
        except TimeoutError:
            return [f"{len(missing)} acknowledged requests are lost"]
    return []


def is_done(http: httpx2.Client, site: Site, id_: str) -> bool:
    """Whether a request has its result."""
    return http.get(f"{site.target.url}/queue{APP}/requests/{id_}").status_code == 200
