"""How many replicas a box needs: for the requests it has, and for those that wait in the queue.

Serve keeps a policy in its controller, asks it ten times a second, and stands still meanwhile. So
a Dispatcher reads the queue and leaves what it read in Ray's key-value store, and a thread beside
the policy fetches it from there.
Serve pickles this whole module into the controller, so it imports nothing else of the service.
"""

import json
import math
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

ONGOING = "ongoing"  # how a box reports the requests that it has not answered yet
MOST = 1000  # requests that are counted in a long queue; ten times as many take 0.3 s
SHRINK_AT = 1 / 8  # of the target for those that stay, from which on no replica is given up
LOOK_EVERY_S = 1.0
NOTE, NAMESPACE = b"backlog", b"florence"

GAUGES = {
    "florence_autoscaling_backlog": "Requests in the queue that could be claimed, as last read.",
    "florence_autoscaling_oldest_seconds": "How long the oldest of them has waited.",
    "florence_autoscaling_reading_age_seconds": "How long the policy has had no new reading.",
    "florence_autoscaling_stale": "1 while the reading is too old, and no replica is given up.",
    "florence_autoscaling_demand": "Requests that replicas are counted for.",
    "florence_autoscaling_wanted_replicas": "Replicas that the policy asks for.",
}


@dataclass(frozen=True)
class Reading:
    """What waits in the queue: the requests that could be claimed, and the oldest one's age."""

    queued: int
    oldest_s: float


@dataclass(frozen=True)
class Seen:
    """The latest reading, if there ever was one, and for how long it has been the latest."""

    reading: Reading | None
    age_s: float


Look = Callable[[], Seen]
Tell = Callable[[str, Mapping[str, float]], None]  # of a deployment, GAUGES' values by their name


class BacklogPolicy:
    """Serve's own requests and the queue's backlog, over the target of requests for one replica.

    A replica more when the oldest waits longer than the objective. Without a fresh reading it
    holds what is there, and grows for Serve's own requests alone. Serve keeps it within its bounds
    and delays.

    Args:
        objective_s: how long a request may wait in the queue.
        stale_s: age from which a reading counts no more.
        look: gives the reading at once; Ray's key-value store by default.
        tell: takes what was seen and decided; Ray's gauges by default.
    """

    def __init__(
        self,
        objective_s: float = 30.0,
        stale_s: float = 10.0,
        look: Look | None = None,
        tell: Tell | None = None,
    ) -> None:
        self._objective_s = objective_s
        self._stale_s = stale_s
        self._look = look or Watch(fetch)
        self._tell = tell or Gauges()

    def __call__(self, context: "AutoscalingContext") -> tuple[int, dict[str, Any]]:
        """The replicas wanted, and no state, as Serve asks for them."""
        seen = self._look()
        is_stale = seen.reading is None or seen.age_s > self._stale_s
        reading = seen.reading or Reading(0, 0.0)
        demand = own_requests(context) + (0 if is_stale else reading.queued)
        is_late = not is_stale and reading.oldest_s > self._objective_s
        given = context.target_num_replicas
        wanted = replicas_for(demand, target_of(context), given, is_late)
        if is_stale:
            wanted = max(wanted, given)
        told = (reading.queued, reading.oldest_s, seen.age_s, float(is_stale), demand, wanted)
        self._tell(context.deployment_name, dict(zip(GAUGES, told, strict=True)))
        return wanted, {}


def own_load(context: "AutoscalingContext") -> tuple[int, dict[str, Any]]:
    """The policy of a box that takes its work itself: what it has, over its target."""
    given = context.target_num_replicas
    return replicas_for(own_requests(context), target_of(context), given, is_late=False), {}


def replicas_for(demand: float, target: float, given: int, is_late: bool) -> int:
    """How many replicas `demand` requests need, `target` for each, where `given` are there.

    More at once, fewer one by one, and only when very little is left for those that stay. An
    engine that batches has few requests until it is nearly full: that two have few does not say
    that one could carry the load, and a replica given up too soon takes minutes to come back.
    """
    enough = math.ceil(demand / target) + is_late
    if enough >= given or demand < 1:
        return enough
    relaxed = math.ceil(demand / (target * SHRINK_AT)) + is_late
    return given - 1 if relaxed < given else given


def own_requests(context: "AutoscalingContext") -> float:
    """The requests that the box has, and those that no replica had room for.

    A replica's own count goes before Serve's, which is that of the callers: they may hold a
    request for running from when it was sent, even while it waits for what a box before this one
    has not finished (Ray's issues 59882, 60624).
    """
    reported = (context.aggregated_metrics or {}).get(ONGOING)
    if not reported:
        return float(context.total_num_requests)
    return sum(reported.values()) + max(0.0, context.total_queued_requests)


def target_of(context: "AutoscalingContext") -> float:
    """Requests that one replica should have."""
    return float(context.config.get_target_ongoing_requests())  # type: ignore[union-attr]


class Watch:
    """Keeps the latest reading at hand; its thread ends when nobody has the watch any more.

    The age is counted here, from when a note was first seen, so no two clocks are compared.

    Args:
        fetch: gives the note as it stands, if there is one; it may take its time, or fail.
    """

    def __init__(self, fetch: Callable[[], bytes | None], every_s: float = LOOK_EVERY_S) -> None:
        self._fetch = fetch
        self._every_s = every_s
        self._latest: tuple[bytes | None, float] = None, time.monotonic()
        thread = threading.Thread(target=keep_looking, args=(weakref.ref(self),), daemon=True)
        thread.start()

    def __call__(self) -> Seen:
        """The latest reading, and its age; never waits."""
        note, since = self._latest
        return Seen(reading_in(note) if note else None, time.monotonic() - since)

    def look(self) -> float:
        """Fetch the note; returns the seconds after which to look again."""
        with suppress(Exception):  # whatever keeps the note away, its age tells
            note = self._fetch()
            if note != self._latest[0]:
                self._latest = note, time.monotonic()
        return self._every_s


def keep_looking(watch: "weakref.ref[Watch]") -> None:
    """Look again and again while the watch is there."""
    while (kept := watch()) is not None:
        pause_s = kept.look()
        del kept
        time.sleep(pause_s)


def publish(reading: Reading) -> None:
    """Leave a reading for all policies of the cluster; it is lost when Ray's head is away."""
    from ray.experimental.internal_kv import _internal_kv_put

    note = note_of(reading, time.time_ns())
    with suppress(Exception):  # the age of the last one tells
        _internal_kv_put(NOTE, note, overwrite=True, namespace=NAMESPACE)


def fetch() -> bytes | None:
    """The note that was published last. Waits for Ray's head while that is away."""
    from ray.experimental.internal_kv import _internal_kv_get

    return _internal_kv_get(NOTE, namespace=NAMESPACE)


def note_of(reading: Reading, serial: int) -> bytes:
    """A reading as bytes, which differ from those of any other `serial`."""
    return json.dumps([reading.queued, reading.oldest_s, serial]).encode()


def reading_in(note: bytes) -> Reading:
    """The reading in a note."""
    queued, oldest_s, _ = json.loads(note)
    return Reading(queued, oldest_s)


class Gauges:
    """Tells Ray's metrics, which every node exports."""

    def __init__(self) -> None:
        from ray.util.metrics import Gauge

        self._gauges = {name: Gauge(name, help_, ("deployment",)) for name, help_ in GAUGES.items()}

    def __call__(self, deployment: str, values: Mapping[str, float]) -> None:
        """Set each gauge to its value."""
        for name, value in values.items():
            self._gauges[name].set(value, tags={"deployment": deployment})
