"""The policy: what load it counts, how many replicas that needs, and when it holds still."""

import gc
import threading
import time
from collections.abc import Mapping
from typing import Any

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
    """What Serve tells of a box with `given` replicas, those with a report first."""
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


class Screen:
    """Shows what the policy told last."""

    def __init__(self) -> None:
        self.values: Mapping[str, float] = {}

    def __call__(self, deployment: str, values: Mapping[str, float]) -> None:
        assert deployment == "Inference"
        self.values = values


def decide(seen: Observation, given: AutoscalingContext, screen: Screen | None = None) -> int:
    """The replicas that the policy wants."""
    policy = BacklogPolicy(30.0, 10.0, lambda: seen, screen or Screen())
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


def test_a_backlog_wakes_a_box_that_has_no_replica() -> None:
    """Nobody has called the box yet: it starts for what the queue holds."""
    assert decide(fresh(25), context(0)) == 3


@pytest.mark.parametrize(("oldest_s", "wanted"), [(29.0, 2), (31.0, 3)])
def test_one_more_when_the_oldest_waits_too_long(oldest_s: float, wanted: int) -> None:
    """The objective is a time, which no count of requests promises by itself."""
    assert decide(fresh(15, oldest_s), context(2)) == wanted


def test_what_waits_for_another_box_is_not_counted() -> None:
    """Serve counts a call from the moment it is sent, though its argument is not there yet.

    Forty runs whose images are still being fetched are no load on the model: with Serve's count
    it would get four replicas that have nothing to do.
    """
    assert decide(fresh(0), context(1, total=43, queued=0, reported=(3,))) == 1
    assert decide(fresh(0), context(1, total=43, queued=40, reported=(3,))) == 5


def test_before_the_first_report_serves_count_holds() -> None:
    """A replica that has just started has not said yet what it has."""
    assert decide(fresh(0), context(1, total=43)) == 5


@pytest.mark.parametrize(
    "seen", [Observation(BacklogReading(500, 99.0), 10.1), Observation(None, 3.0)]
)
def test_without_a_fresh_reading_nothing_is_given_up(seen: Observation) -> None:
    """It holds what is there, whatever an old reading says, and says that it does."""
    screen = Screen()

    assert decide(seen, context(4), screen) == 4
    assert screen.values["florence_autoscaling_stale"] == 1
    assert decide(seen, context(4, total=61)) == 7


def test_it_tells_what_it_saw_and_decided() -> None:
    """Every gauge has a value."""
    screen = Screen()
    decide(fresh(15, 31.0), context(1, total=4), screen)

    assert screen.values == {
        "florence_autoscaling_backlog": 15,
        "florence_autoscaling_oldest_seconds": 31.0,
        "florence_autoscaling_reading_age_seconds": 0.5,
        "florence_autoscaling_stale": 0,
        "florence_autoscaling_demand": 19,
        "florence_autoscaling_wanted_replicas": 3,
    }
    assert screen.values.keys() == GAUGES.keys()


def test_a_load_around_a_threshold_changes_nothing() -> None:
    """What made three replicas necessary has to fall far below before one goes."""
    given = 2
    for demand in (21, 19, 21, 18, 20.5, 17):
        given = replicas_for(demand, TARGET, given, is_overdue=False)
        assert given == 3
    assert replicas_for(15, TARGET, 3, is_overdue=False) == 3
    assert replicas_for(2.5, TARGET, 3, is_overdue=False) == 2


def test_replicas_are_given_up_one_by_one() -> None:
    """Few requests do not say that one replica could carry the load of eight; none at all does."""
    assert replicas_for(2, TARGET, 8, is_overdue=False) == 7
    assert replicas_for(0, TARGET, 8, is_overdue=False) == 0


def test_a_box_that_takes_its_own_work_counts_that_alone() -> None:
    """A Dispatcher is called by nobody; another is needed when those there are full."""
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


class Board:
    """Where notes are left; it can be out of reach, or slow."""

    def __init__(self) -> None:
        self.note: bytes | None = None
        self.is_away = False
        self.may_answer = threading.Event()
        self.may_answer.set()

    def fetch(self) -> bytes | None:
        self.may_answer.wait()
        if self.is_away:
            raise OSError("the board is away")
        return self.note


def wait_for(what: Any) -> None:
    """Wait until `what()` holds."""
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_watch_shows_the_latest_note() -> None:
    """Nothing at first, then what was left last."""
    board = Board()
    watch = BacklogWatcher(board.fetch, interval_s=0.01)
    assert watch().reading is None
    board.note = encode(BacklogReading(3, 1.5), 1)
    wait_for(lambda: watch().reading == BacklogReading(3, 1.5))
    board.note = encode(BacklogReading(4, 2.5), 2)
    wait_for(lambda: watch().reading == BacklogReading(4, 2.5))


def test_a_note_is_as_old_as_it_has_not_been_renewed() -> None:
    """The same reading left again is news; the same note found again is none."""
    board = Board()
    board.note = encode(BacklogReading(3, 1.5), 1)
    watch = BacklogWatcher(board.fetch, interval_s=0.01)
    wait_for(lambda: watch().reading is not None and watch().age_s > 0.3)
    board.note = encode(BacklogReading(3, 1.5), 2)
    wait_for(lambda: watch().age_s < 0.3)
    board.is_away = True
    wait_for(lambda: watch().age_s > 0.3)
    assert watch().reading == BacklogReading(3, 1.5)


def test_a_board_that_does_not_answer_holds_nobody_up() -> None:
    """The controller asks ten times a second, and stands still while it is not answered."""
    board = Board()
    board.may_answer.clear()
    watch = BacklogWatcher(board.fetch, interval_s=0.01)

    assert watch().reading is None
    board.may_answer.set()


def test_a_watch_that_nobody_has_any_more_stops() -> None:
    """Every configuration that is applied makes a new policy."""
    before = set(threading.enumerate())
    watch = BacklogWatcher(Board().fetch, interval_s=0.01)
    [thread] = set(threading.enumerate()) - before
    del watch
    gc.collect()
    thread.join(60)

    assert not thread.is_alive()
