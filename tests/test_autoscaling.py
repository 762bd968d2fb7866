"""The autoscaling policy: the load that it counts, the replicas that it wants, when it holds."""

import gc
import threading
import time
from collections.abc import Mapping

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from deployments.autoscaling import (
    GAUGES,
    ONGOING,
    BacklogPolicy,
    BacklogReading,
    BacklogWatcher,
    Observation,
    encode,
    own_load,
    replicas_for,
)

TARGET = 10


def context(
    given: int, total: float = 0.0, queued: float = 0.0, reported: tuple[float, ...] = ()
) -> AutoscalingContext:
    """Serve's context of a deployment with `given` replicas, of which some have reported."""
    deployment = DeploymentID("Inference", "florence")
    replicas = [ReplicaID(str(number), deployment) for number in range(given)]
    return AutoscalingContext(
        deployment_id=deployment,
        deployment_name="Inference",
        app_name="florence",
        current_num_replicas=given,
        target_num_replicas=given,
        running_replicas=replicas,
        total_num_requests=total,
        total_queued_requests=queued,
        aggregated_metrics={ONGOING: dict(zip(replicas, reported, strict=False))},
        raw_metrics=None,
        capacity_adjusted_min_replicas=0,
        capacity_adjusted_max_replicas=100,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=time.time(),
        config=AutoscalingConfig(max_replicas=100, target_ongoing_requests=TARGET),
    )


class FakeGauges:
    """Keeps the values that the policy reported last."""

    def __init__(self) -> None:
        self.values: Mapping[str, float] = {}

    def __call__(self, deployment: str, values: Mapping[str, float]) -> None:
        assert deployment == "Inference"
        self.values = values


def decide(
    observed: Observation, given: AutoscalingContext, gauges: FakeGauges | None = None
) -> int:
    """The replicas that the policy wants."""
    policy = BacklogPolicy(30.0, 10.0, lambda: observed, gauges or FakeGauges())
    wanted, state = policy(given)
    assert state == {}
    return wanted


def fresh(queued: int, oldest_s: float = 0.0) -> Observation:
    """A reading of this moment."""
    return Observation(BacklogReading(queued, oldest_s), 0.5)


@pytest.mark.parametrize(
    ("queued", "own", "wanted"),
    [(0, 1, 1), (100, 0, 10), (95, 5, 10), (96, 5, 11), (1000, 9, 101)],
)
def test_own_requests_and_the_backlog_over_the_target(queued: int, own: float, wanted: int) -> None:
    """As many replicas as both together fill, rounded up."""
    assert decide(fresh(queued), context(1, total=own)) == wanted


def test_nothing_to_do_needs_no_replica() -> None:
    """The policy itself knows no minimum; Serve's is laid over it."""
    assert decide(fresh(0), context(1)) == 0


def test_a_backlog_starts_a_deployment_without_replicas() -> None:
    """It has no requests of its own yet."""
    assert decide(fresh(25), context(0)) == 3


@pytest.mark.parametrize(("oldest_s", "wanted"), [(29.0, 2), (31.0, 3)])
def test_one_more_when_the_oldest_waits_too_long(oldest_s: float, wanted: int) -> None:
    """The objective is a time, which a count of requests does not ensure."""
    assert decide(fresh(15, oldest_s), context(2)) == wanted


def test_requests_that_wait_for_an_argument_are_not_counted() -> None:
    """Serve counts a call from when it is sent, before its argument is there.

    Forty requests whose images are being fetched are no load on the model: Serve's count would
    start four replicas that have nothing to do.
    """
    assert decide(fresh(0), context(1, total=43, queued=0, reported=(3,))) == 1
    assert decide(fresh(0), context(1, total=43, queued=40, reported=(3,))) == 5


def test_before_the_first_report_serves_count_holds() -> None:
    """A replica that has just started has not reported yet."""
    assert decide(fresh(0), context(1, total=43)) == 5


@pytest.mark.parametrize(
    "observed", [Observation(BacklogReading(500, 99.0), 10.1), Observation(None, 3.0)]
)
def test_without_a_fresh_reading_no_replica_is_removed(observed: Observation) -> None:
    """Whatever an old reading says; a gauge shows that the reading is stale."""
    gauges = FakeGauges()

    assert decide(observed, context(4), gauges) == 4
    assert gauges.values["florence_autoscaling_stale"] == 1
    assert decide(observed, context(4, total=61)) == 7


def test_gauges_show_the_observation_and_the_decision() -> None:
    """Every gauge has a value."""
    gauges = FakeGauges()
    decide(fresh(15, 31.0), context(1, total=4), gauges)

    assert gauges.values == {
        "florence_autoscaling_backlog": 15,
        "florence_autoscaling_oldest_seconds": 31.0,
        "florence_autoscaling_reading_age_seconds": 0.5,
        "florence_autoscaling_stale": 0,
        "florence_autoscaling_demand": 19,
        "florence_autoscaling_wanted_replicas": 3,
    }
    assert gauges.values.keys() == GAUGES.keys()


def test_a_load_around_a_threshold_changes_nothing() -> None:
    """The load must fall far below the threshold before a replica is removed."""
    given = 2
    for demand in (21, 19, 21, 18, 20.5, 17):
        given = replicas_for(demand, TARGET, given, is_overdue=False)
        assert given == 3
    assert replicas_for(15, TARGET, 3, is_overdue=False) == 3
    assert replicas_for(2.5, TARGET, 3, is_overdue=False) == 2


def test_replicas_are_removed_one_by_one() -> None:
    """Few requests do not prove that one replica could carry the load of eight; none at all do."""
    assert replicas_for(2, TARGET, 8, is_overdue=False) == 7
    assert replicas_for(0, TARGET, 8, is_overdue=False) == 0


def test_a_dispatcher_scales_on_the_jobs_that_it_has_claimed() -> None:
    """It gets no calls; another one is needed when all are full."""
    assert own_load(context(2, total=0, reported=(10, 10)))[0] == 2
    assert own_load(context(2, total=0, reported=(10, 10.5)))[0] == 3


def test_serve_takes_the_class_as_it_stands_in_the_configuration() -> None:
    """Serve pickles it with its module, so that its controller need not have ours."""
    policy = AutoscalingPolicy(  # type: ignore[no-untyped-call]
        policy_function="deployments.autoscaling:BacklogPolicy",
        policy_kwargs={"objective_s": 5.0, "stale_s": 2.0},
    )
    policy.serialize_policy()
    definition = policy.get_serialized_policy_def()

    assert definition is not None
    assert b"poll_forever" in definition, "the module is not in it"


class Published:
    """The bytes that a Dispatcher has published, and a clock that stands still."""

    def __init__(self) -> None:
        self.bytes: bytes | None = None
        self.now = 100.0
        self.is_away = False
        self.may_answer = threading.Event()
        self.may_answer.set()

    def fetch(self) -> bytes | None:
        self.may_answer.wait()
        if self.is_away:
            raise OSError("Ray's head is away")
        return self.bytes

    def watcher(self, interval_s: float = 3600.0) -> BacklogWatcher:
        """A watcher that a test polls by hand."""
        return BacklogWatcher(self.fetch, interval_s, lambda: self.now)


def test_a_watcher_has_the_latest_reading() -> None:
    """None at first; its thread polls."""
    published = Published()
    watcher = published.watcher(interval_s=0.001)
    assert watcher().reading is None
    for serial, reading in enumerate([BacklogReading(3, 1.5), BacklogReading(4, 2.5)]):
        published.bytes = encode(reading, serial)
        deadline = time.monotonic() + 60
        while watcher().reading != reading:
            assert time.monotonic() < deadline
            time.sleep(0.001)


def test_a_reading_ages_until_the_next_one() -> None:
    """The same values published again are a new reading; the same bytes are not."""
    published = Published()
    published.bytes = encode(BacklogReading(3, 1.5), 1)
    watcher = published.watcher()
    watcher.poll()
    published.now += 5
    watcher.poll()
    assert watcher() == Observation(BacklogReading(3, 1.5), 5)
    published.bytes = encode(BacklogReading(3, 1.5), 2)
    watcher.poll()
    assert watcher().age_s == 0
    published.is_away = True
    published.now += 7
    watcher.poll()
    assert watcher() == Observation(BacklogReading(3, 1.5), 7)


def test_a_watcher_never_blocks_the_controller() -> None:
    """Which asks ten times a second, while Ray's head does not answer."""
    published = Published()
    published.may_answer.clear()
    watcher = published.watcher()

    assert watcher().reading is None
    published.may_answer.set()


def test_the_thread_ends_with_its_watcher() -> None:
    """Every configuration that is applied makes a new policy."""
    before = set(threading.enumerate())
    watcher = Published().watcher(interval_s=0.001)
    [thread] = set(threading.enumerate()) - before
    del watcher
    gc.collect()
    thread.join(60)

    assert not thread.is_alive()
