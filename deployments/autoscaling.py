"""How many replicas a deployment needs: for its own requests and for the jobs in the queue.

Serve calls a policy ten times a second in its controller, which stands still meanwhile. So a
Dispatcher reads the backlog from the store and publishes it in Ray's key-value store, and a thread
next to the policy polls it from there.
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

ONGOING = "ongoing"  # a replica's own metric: the requests that it has not answered yet
MAX_COUNTED = 1000  # jobs that are counted in a long queue; ten times as many take 0.3 s
SCALE_DOWN_LOAD = 1 / 8  # of the target for the remaining replicas, above which none is removed
POLL_INTERVAL_S = 1.0
KEY, NAMESPACE = b"backlog", b"florence"

GAUGES = {
    "florence_autoscaling_backlog": "Requests in the queue that could be claimed, as last read.",
    "florence_autoscaling_oldest_seconds": "How long the oldest of them has waited.",
    "florence_autoscaling_reading_age_seconds": "Age of the policy's reading of the backlog.",
    "florence_autoscaling_stale": "1 while the reading is too old, and no replica is given up.",
    "florence_autoscaling_demand": "Requests that replicas are counted for.",
    "florence_autoscaling_wanted_replicas": "Replicas that the policy asks for.",
}


@dataclass(frozen=True)
class BacklogReading:
    """The jobs that could be claimed: their number, and the oldest one's age."""

    queued: int
    oldest_s: float


@dataclass(frozen=True)
class Observation:
    """The latest reading, None before the first, and the time since it was new."""

    reading: BacklogReading | None
    age_s: float


Observe = Callable[[], Observation]
Report = Callable[[str, Mapping[str, float]], None]  # a deployment, and GAUGES' values by name


class BacklogPolicy:
    """Replicas for Serve's own requests and the queue's backlog, over the target per replica.

    One more when the oldest job waits longer than the objective. Without a fresh reading the
    number only grows, and for Serve's own requests alone. Serve applies its bounds and delays.

    Args:
        objective_s: how long a job may wait in the queue.
        stale_s: age from which a reading is ignored.
        observe: returns the latest reading without waiting; polls Ray's key-value store by default.
        report: takes the values of GAUGES; sets Ray's gauges by default.
    """

    def __init__(
        self,
        objective_s: float = 30.0,
        stale_s: float = 10.0,
        observe: Observe | None = None,
        report: Report | None = None,
    ) -> None:
        self._objective_s = objective_s
        self._stale_s = stale_s
        self._observe = observe or BacklogWatcher(fetch)
        self._report = report or Gauges()

    def __call__(self, context: "AutoscalingContext") -> tuple[int, dict[str, Any]]:
        """The wanted number of replicas, and no state, as Serve expects them."""
        observed = self._observe()
        is_stale = observed.reading is None or observed.age_s > self._stale_s
        reading = observed.reading or BacklogReading(0, 0.0)
        demand = own_requests(context) + (0 if is_stale else reading.queued)
        is_overdue = not is_stale and reading.oldest_s > self._objective_s
        current = context.target_num_replicas
        wanted = replicas_for(demand, target_of(context), current, is_overdue)
        if is_stale:
            wanted = max(wanted, current)
        values = (
            reading.queued,
            reading.oldest_s,
            observed.age_s,
            float(is_stale),
            demand,
            wanted,
        )
        self._report(context.deployment_name, dict(zip(GAUGES, values, strict=True)))
        return wanted, {}


def own_load(context: "AutoscalingContext") -> tuple[int, dict[str, Any]]:
    """The policy of a deployment that fetches its own work: its requests over its target."""
    current = context.target_num_replicas
    demand = own_requests(context)
    return replicas_for(demand, target_of(context), current, is_overdue=False), {}


def replicas_for(demand: float, target: float, current: int, is_overdue: bool) -> int:
    """The number of replicas for `demand` requests, `target` for each, with `current` there.

    Replicas are added at once, and removed one by one when the remaining ones have very little to
    do. A batching engine has few requests until it is nearly full: two that have few do not prove
    that one could carry the load, and a replica that was removed takes minutes to come back.
    """
    enough = math.ceil(demand / target) + is_overdue
    if enough >= current or demand < 1:
        return enough
    relaxed = math.ceil(demand / (target * SCALE_DOWN_LOAD)) + is_overdue
    return current - 1 if relaxed < current else current


def own_requests(context: "AutoscalingContext") -> float:
    """The requests in the deployment's replicas, and those that wait for a free one.

    The replicas' own counts are preferred to Serve's, which come from the callers: these count a
    request from when it was sent, even while it waits for an argument that another deployment
    has not finished (Ray's issues 59882, 60624).
    """
    reported = (context.aggregated_metrics or {}).get(ONGOING)
    if not reported:
        return float(context.total_num_requests)
    return sum(reported.values()) + max(0.0, context.total_queued_requests)


def target_of(context: "AutoscalingContext") -> float:
    return float(context.config.get_target_ongoing_requests())  # type: ignore[union-attr]


class BacklogWatcher:
    """Polls the published reading in a thread, which ends when the watcher is deleted.

    The age counts from when a reading was first seen here, so no two clocks are compared.

    Args:
        fetch: returns the published bytes, if there are any; may be slow, or fail.
    """

    def __init__(
        self,
        fetch: Callable[[], bytes | None],
        interval_s: float = POLL_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._interval_s = interval_s
        self._clock = clock
        self._latest: tuple[bytes | None, float] = None, clock()
        thread = threading.Thread(target=poll_forever, args=(weakref.ref(self),), daemon=True)
        thread.start()

    def __call__(self) -> Observation:
        """The latest reading; never waits."""
        published, since = self._latest
        reading = decode(published) if published else None
        return Observation(reading, self._clock() - since)

    def poll(self) -> float:
        """Fetch the reading; returns the seconds until the next poll."""
        with suppress(Exception):  # the age of the latest reading shows it
            published = self._fetch()
            if published != self._latest[0]:
                self._latest = published, self._clock()
        return self._interval_s


def poll_forever(watcher: "weakref.ref[BacklogWatcher]") -> None:
    while (alive := watcher()) is not None:
        pause_s = alive.poll()
        del alive
        time.sleep(pause_s)


def publish(reading: BacklogReading) -> None:
    """Publish a reading for all policies of the cluster; it is lost while Ray's head is away."""
    from ray.experimental.internal_kv import _internal_kv_put

    with suppress(Exception):  # the age of the last reading shows it
        value = encode(reading, time.time_ns())
        _internal_kv_put(KEY, value, overwrite=True, namespace=NAMESPACE)


def fetch() -> bytes | None:
    """The bytes that were published last. Blocks while Ray's head is away."""
    from ray.experimental.internal_kv import _internal_kv_get

    return _internal_kv_get(KEY, namespace=NAMESPACE)


def encode(reading: BacklogReading, serial: int) -> bytes:
    """A reading as bytes, which differ for every `serial`."""
    return json.dumps([reading.queued, reading.oldest_s, serial]).encode()


def decode(published: bytes) -> BacklogReading:
    queued, oldest_s, _ = json.loads(published)
    return BacklogReading(queued, oldest_s)


class Gauges:
    """Sets Ray's gauges, which every node exports."""

    def __init__(self) -> None:
        from ray.util.metrics import Gauge

        self._gauges = {name: Gauge(name, help_, ("deployment",)) for name, help_ in GAUGES.items()}

    def __call__(self, deployment: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._gauges[name].set(value, tags={"deployment": deployment})
