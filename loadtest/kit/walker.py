"""A Locust user that walks a schedule: it starts each arrival when that is due, and waits for none.

There is one for each worker. What an arrival came to is told by Locust's own `request` event, with
the time since its scheduled arrival, and with our record beside it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import gevent
from gevent.event import Event
from gevent.pool import Group
from geventhttpclient.response import HTTPParseError
from locust import User, task
from locust.exception import StopUser

from loadtest.kit.record import Outcome, Record
from loadtest.kit.scenarios import Item
from loadtest.kit.visits import Failed, Refused, Visit, Visitor


@dataclass(frozen=True)
class Arrival:
    """One call that is due `at_s` seconds after the start; `number` counts over all workers."""

    number: int
    at_s: float
    item: Item


@dataclass(frozen=True)
class Route:
    """What one worker walks; `ended` is set when all its arrivals have come to an end."""

    visitor: Visitor
    arrivals: Sequence[Arrival]
    timeout_s: float
    worker: int = 0
    ended: Event = field(default_factory=Event)


class Walker(User):
    """Walks the route of this process, once."""

    route: ClassVar[Route]

    @task
    def walk(self) -> None:
        """Start every arrival in time, wait for their ends, and stop."""
        visits, began = Group(), time.perf_counter()
        for arrival in self.route.arrivals:
            gevent.sleep(max(0.0, began + arrival.at_s - time.perf_counter()))
            visits.spawn(self._arrive, arrival, began + arrival.at_s)
        visits.join()
        self.route.ended.set()
        raise StopUser

    def _arrive(self, arrival: Arrival, due: float) -> None:
        record = outcome_of(self.route, arrival, due)
        self.environment.events.request.fire(
            request_type="kit",
            name=record.kind,
            response_time=1000 * record.latency_s,
            response_length=0,
            exception=None if record.outcome is Outcome.OK else record.error or "refused",
            context={},
            record=record,
        )


def outcome_of(route: Route, arrival: Arrival, due: float) -> Record:
    """Make one arrival that was due at that reading of `time.perf_counter`."""
    lag_s = time.perf_counter() - due
    ended, end = attempt(route, arrival, due)
    return Record(
        kind=arrival.item.kind,
        at_s=arrival.at_s,
        latency_s=ended - due,
        lag_s=lag_s,
        worker=route.worker,
        **end,
    )


def attempt(route: Route, arrival: Arrival, due: float) -> tuple[float, dict[str, Any]]:
    """When the arrival ended, and how, in the words of `Record`."""
    left_s = max(0.001, due + route.timeout_s - time.perf_counter())
    try:
        with gevent.Timeout(left_s):
            visit = route.visitor.visit(arrival.item, arrival.number)
            return visit.ended, good(visit)
    except Refused:
        end = {"outcome": Outcome.REFUSED, "status": 429}
    except Failed as failed:
        end = bad(str(failed), failed.status)
    except KeyError as missing:
        end = bad(f"an answer without {missing}")
    except gevent.Timeout:
        end = bad(f"no answer within {route.timeout_s:g} s")
    except (OSError, HTTPParseError) as error:
        end = bad(f"no connection: {error.__class__.__name__}")
    return time.perf_counter(), end


def good(visit: Visit) -> dict[str, Any]:
    """A good end."""
    told = {"status": visit.status, "request_id": visit.request_id, "stages": visit.stages}
    return {"outcome": Outcome.OK, **told}


def bad(reason: str, status: int = 0) -> dict[str, Any]:
    """Any other."""
    return {"outcome": Outcome.FAILED, "status": status, "error": reason}
