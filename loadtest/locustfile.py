"""What Locust runs: one user per worker, which makes the arrivals of a schedule in time.

    python -m loadtest SCENARIO     starts Locust with this file and `--run JSON`

Every latency counts from the scheduled arrival, so a wait that the service causes, or this
generator, is part of it. Locust's own statistics hold all figures, and its master gathers them:

    run | queue | status | webhook   TASK             latency of good answers, errors
    stage                            VERB: STAGE      where the service says that the time went
    generator                        lag              how late an arrival was sent
    drift                            first, last      latencies of a tenth of the run

The API key is in FLORENCE_API_KEY, the address of the webhook receiver in FLORENCE_RECEIVER.
"""

from locust import LoadTestShape, User, events, task  # isort: skip  # patches what others import

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import gevent
from gevent.pool import Group
from geventhttpclient.response import HTTPParseError
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner
from locust.stats import RequestStats, StatsEntry

from deployments.errors import SetupError
from loadtest.calls import BadAnswer, GoodAnswer, LoadClient, TooBusy
from loadtest.images import request_bodies
from loadtest.receiver import WebhookReceiver
from loadtest.scenarios import INF, ScenarioCall, ScenarioRun
from loadtest.verdict import Measured, judge, summary

KEY = "FLORENCE_API_KEY"
RECEIVER = "FLORENCE_RECEIVER"
MISSED, BROKEN = 10, 2  # exit codes; Locust's own is 1
REFUSED = "429 refused"
OUTSIDE = "outside the stages"  # network, proxies, the Ingress, polls
PREPARE_S = 10.0  # for workers, until all begin together
SLACK_S = 30.0  # for the last figures of workers
TENTH = 0.1
MIN_TENTH = 5  # answers in a tenth of the run, below which it says nothing of drift
NAN = float("nan")


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: Any) -> None:
    """Options of ours, which Locust's master hands to its workers."""
    parser.add_argument("--run", default="", include_in_web_ui=False)
    parser.add_argument("--begin-at", type=float, default=0.0, include_in_web_ui=False)


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def agree_on_begin(environment: Environment, **_: Any) -> None:
    """A master says when all workers begin, in seconds of the epoch."""
    if isinstance(environment.runner, MasterRunner):
        options_of(environment).begin_at = time.time() + PREPARE_S


@lru_cache
def parsed(run: str) -> ScenarioRun:
    return ScenarioRun.model_validate_json(run)


def options_of(environment: Environment) -> Any:
    return environment.parsed_options


class OpenLoop(User):
    """Makes the arrivals of one worker, and waits for no answer before the next."""

    @task
    def make_arrivals(self) -> None:
        """Prepare, make each arrival in time, wait for all ends, and stop."""
        try:
            self._run = parsed(options_of(self.environment).run)
            with prepared_client(self.environment, self._run) as client:
                self._make_arrivals(client)
        except SetupError as error:
            fire = self.environment.events.user_error.fire
            fire(user_instance=self, exception=error, tb=error.__traceback__)
        raise StopUser

    def _make_arrivals(self, client: LoadClient) -> None:
        index, num = worker_of(self.environment)
        wait_s = max(0.0, options_of(self.environment).begin_at - time.time())
        begin, under_way = time.perf_counter() + wait_s, Group()
        arrivals = list(enumerate(zip(self._run.arrivals, self._run.calls, strict=True)))
        try:
            for number, (at_s, call) in arrivals[index::num]:
                gevent.sleep(max(0.0, begin + at_s - time.perf_counter()))
                under_way.spawn(self._make, client, call, number, at_s, begin + at_s)
            under_way.join()
        finally:
            under_way.kill()

    def _make(
        self, client: LoadClient, call: ScenarioCall, number: int, at_s: float, due: float
    ) -> None:
        """Make one arrival that was due at that reading of `time.perf_counter`."""
        self._log("generator", "lag", time.perf_counter() - due)
        error = answer = None
        try:
            with gevent.Timeout(max(0.001, due + self._run.timeout_s - time.perf_counter())):
                answer = client.make(call, number)
        except TooBusy:
            error = REFUSED
        except BadAnswer as bad:
            error = str(bad)
        except KeyError as missing:
            error = f"an answer without {missing}"
        except gevent.Timeout:
            error = f"no answer within {self._run.timeout_s:g} s"
        except (OSError, HTTPParseError) as lost:
            error = f"no connection: {lost.__class__.__name__}"
        self.environment.events.request.fire(
            request_type=str(call.verb),
            name=call.task,
            response_time=1000 * (answer.ended - due) if answer else None,  # a failure is not quick
            response_length=0,
            exception=error,
            context={},
        )
        if answer:
            self._log_parts(call, answer, at_s, answer.ended - due)

    def _log_parts(
        self, call: ScenarioCall, answer: GoodAnswer, at_s: float, latency_s: float
    ) -> None:
        if answer.stages:
            outside_s = max(0.0, latency_s - sum(answer.stages.values()))
            for name, seconds in {**answer.stages, OUTSIDE: outside_s}.items():
                self._log("stage", f"{call.verb}: {name}", seconds)
        if self._run.thresholds.drift < INF:
            part = at_s / self._run.duration_s
            if part < TENTH or part >= 1 - TENTH:
                self._log("drift", "first" if part < TENTH else "last", latency_s)

    def _log(self, method: str, name: str, seconds: float) -> None:
        """Add to an entry of its own, which is no part of Locust's total."""
        entry: Any = self.environment.stats.get(name, method)
        entry.log(1000 * seconds, 0)


class UntilAllEnded(LoadTestShape):
    """One user on each worker, until every arrival has ended or nothing more can come."""

    def tick(self) -> tuple[int, float] | None:
        """The number of users, and how many to start a second; None at the end."""
        assert self.runner, "set by Locust"
        options = options_of(self.runner.environment)
        run, stats = parsed(options.run), self.runner.stats
        limit_s = PREPARE_S + run.duration_s + run.timeout_s + SLACK_S
        is_over = (
            stats.total.num_requests >= len(run.arrivals)
            or time.perf_counter() - self.start_time > limit_s
        )
        if is_over or self.runner.exceptions:
            return None
        num_users = worker_of(self.runner.environment)[1]
        return num_users, num_users


def worker_of(environment: Environment) -> tuple[int, int]:
    """The number of this worker, and how many there are."""
    runner, options = environment.runner, options_of(environment)
    if isinstance(runner, WorkerRunner):
        return runner.worker_index, options.expect_workers
    return 0, options.expect_workers if isinstance(runner, MasterRunner) else 1


@contextmanager
def prepared_client(environment: Environment, run: ScenarioRun) -> Iterator[LoadClient]:
    """A client that has done what can be done before the first arrival.

    Raises:
        SetupError: it cannot be prepared.
    """
    lengths = {call.length for call in run.row.calls}
    pool = gevent.get_hub().threadpool  # the heartbeat to the master goes on meanwhile
    bodies = pool.apply(request_bodies, (run.images, lengths))
    receiver = listening(environment) if run.row.needs_receiver else None
    client = LoadClient(run.url, os.environ[KEY], run.timeout_s, bodies, receiver)
    try:
        try_out(client, run)
        yield client
    finally:
        client.close()
        if receiver:
            receiver.stop()


def try_out(client: LoadClient, run: ScenarioRun) -> None:
    """Make the calls that come before the schedule.

    Raises:
        SetupError: the service does not answer them well.
    """
    try:
        client.prepare(run.row.calls)
    except (TooBusy, BadAnswer, KeyError, OSError, HTTPParseError) as error:
        reason = str(error) or error.__class__.__name__
        raise SetupError(f"{run.url} does not answer a first call well: {reason}") from None


def listening(environment: Environment) -> WebhookReceiver:
    """A receiver that listens; those of processes on one machine have ports in a row.

    Raises:
        SetupError: there is no address, or it cannot be listened on.
    """
    host, _, port = os.environ.get(RECEIVER, "").rpartition(":")
    if not host:
        raise SetupError(
            "webhooks need --receiver HOST:PORT, where the service reaches this worker"
        )
    offset = worker_of(environment)[0] if options_of(environment).processes else 0
    address = f"{host}:{int(port) + offset}"
    receiver = WebhookReceiver(address)
    try:
        receiver.start()
    except OSError as error:
        raise SetupError(f"--receiver {address} cannot be listened on: {error.strerror}") from None
    return receiver


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def decide(environment: Environment, **_: Any) -> None:
    """Set Locust's exit code, and print what decided it."""
    runner = environment.runner
    assert runner, "there is one when Locust quits"
    if isinstance(runner, WorkerRunner):
        environment.process_exit_code = BROKEN if not options_of(environment).run else 0
        return
    if runner.exceptions:
        reasons = {each["msg"] for each in runner.exceptions.values()}
        sys.stderr.write(f"loadtest: {'; '.join(sorted(reasons))}\n")
        environment.process_exit_code = BROKEN
        return
    run = parsed(options_of(environment).run)
    measured = figures_of(environment.stats, run)
    verdicts = judge(measured, run.thresholds)
    environment.process_exit_code = 0 if all(each.is_kept for each in verdicts) else MISSED
    text = summary(run.scenario, measured, verdicts)
    events.quit.add_listener(lambda **_: sys.stdout.write(f"{text}\n"))  # below Locust's tables


def figures_of(stats: RequestStats, run: ScenarioRun) -> Measured:
    """What the thresholds bound, from Locust's statistics (two significant digits)."""
    total, seconds = stats.total, list(stats.total.num_reqs_per_sec)
    refused = (e.occurrences for e in stats.errors.values() if e.error == REFUSED)
    return Measured(
        num_planned=len(run.arrivals),
        num_good=total.num_requests - total.num_failures,
        num_refused=sum(refused),
        elapsed_s=max(run.duration_s, max(seconds) - min(seconds) if seconds else 0.0),
        p50_s=percentile_s(total, 0.5),
        p95_s=percentile_s(total, 0.95),
        p99_s=percentile_s(total, 0.99),
        drift=drift_of(stats.entries.get(("first", "drift")), stats.entries.get(("last", "drift"))),
        lag_s=percentile_s(stats.get("lag", "generator"), 0.99),
    )


def percentile_s(entry: StatsEntry, share: float) -> float:
    """A percentile in seconds; not a number where nothing was timed."""
    is_timed = entry.num_requests > entry.num_none_requests
    return float(entry.get_response_time_percentile(share)) / 1000 if is_timed else NAN


def drift_of(first: StatsEntry | None, last: StatsEntry | None) -> float:
    """The median of the last tenth over that of the first; not a number for too few."""
    if not first or not last or min(first.num_requests, last.num_requests) < MIN_TENTH:
        return NAN
    return percentile_s(last, 0.5) / max(percentile_s(first, 0.5), 0.001)
