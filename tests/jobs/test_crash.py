"""A killed worker loses no acknowledged job.

Real processes work on a real file and get SIGKILL.
"""

import asyncio
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from deployments.jobs.job import JobState, JobStatus, StoredResponse
from deployments.webhooks.webhook import Webhook
from tests.jobs.life import KEY, RECEIVER, Journal, open_in

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 30.0
NUM = 150


@dataclass(frozen=True)
class Found:
    """The store's final state of each job, by id."""

    statuses: dict[str, JobStatus]
    results: dict[str, StoredResponse]
    webhooks: list[Webhook]
    num_used: int


class Lives:
    """Lives in `folder`, one after the other."""

    def __init__(self, folder: Path, num: int, max_attempts: int, poison: str | None = None):
        self.journal = Journal(folder)
        self._folder = folder
        self._num = num
        given = [str(folder), str(num), str(max_attempts), *([poison] if poison else [])]
        self._command = [sys.executable, "-m", "tests.jobs.life", *given]

    def kill_one(self, num_lines: int, delay_s: float) -> bool:
        """A life that is killed `delay_s` after it has added `num_lines` to the journal.

        False when it was quicker and left by itself, which a busy machine lets happen.
        """
        goal = len(self.journal.lines()) + num_lines
        deadline = time.monotonic() + TIMEOUT_S
        with subprocess.Popen(self._command, cwd=ROOT) as life:
            while len(self.journal.lines()) < goal and life.poll() is None:
                assert time.monotonic() < deadline, "nothing happens"
                time.sleep(0.001)
            time.sleep(delay_s)
            life.kill()
        return life.returncode == -signal.SIGKILL

    def finish(self) -> int:
        """Start lives until one ends by itself; the number that died before."""
        for num_died in range(10):
            done = subprocess.run(self._command, cwd=ROOT, timeout=TIMEOUT_S)
            if done.returncode == 0:
                return num_died
            assert done.returncode == -signal.SIGKILL
        raise AssertionError("no life ended by itself")

    def found(self) -> Found:
        """What is in the store when all lives are over."""
        return asyncio.run(self._found())

    async def _found(self) -> Found:
        store = await open_in(self._folder)
        statuses, results = {}, {}
        for id_ in map(str, range(self._num)):
            status, result = await store.status(KEY, id_), await store.result(KEY, id_)
            if status and result:
                statuses[id_], results[id_] = status, result
        webhooks = await store.webhooks(limit=2 * self._num)
        used = sum(usage.requests for usage in await store.usage())
        await store.close()
        return Found(statuses, results, webhooks, used)


def started(status: JobStatus) -> bool:
    """Whether a worker has ever begun the job."""
    return any(line.message.startswith("Started") for line in status.logs)


def answer(id_: str) -> str:
    """The body of the job's result."""
    return f'{{"results":"the answer to {id_}"}}'


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Lives:
    """Jobs that have lived through four kills at random moments."""
    rng = random.Random(4)
    lives = Lives(tmp_path_factory.mktemp("lives"), num=NUM, max_attempts=10)
    killed = [lives.kill_one(rng.randint(10, 50), rng.uniform(0, 0.01)) for _ in range(4)]
    assert killed.count(True) >= 2
    assert lives.finish() == 0
    return lives


@pytest.fixture(scope="module")
def found(lives: Lives) -> Found:
    """The store after the last life."""
    return lives.found()


def test_every_acknowledged_job_ends(lives: Lives, found: Found) -> None:
    """None is lost, none stays behind, none fails for a death that another attempt made good."""
    assert set(lives.journal.ids("submitted")) == set(map(str, range(NUM)))
    assert set(found.statuses) == set(map(str, range(NUM)))
    assert {status.state for status in found.statuses.values()} == {
        JobState.DONE,
        JobState.CANCELLED,
    }


def test_every_result_is_the_jobs_own(found: Found) -> None:
    """A result belongs to its own job, whichever worker finished it."""
    done = {id_: r.body for id_, r in found.results.items() if r.state is JobState.DONE}
    assert {id_: answer(id_) for id_ in done} == done


def test_a_job_ends_once(found: Found) -> None:
    """One terminal line in its log, one webhook, one count in its key's usage."""
    ends = ("Completed", "The request was cancelled by its caller.")
    for status in found.statuses.values():
        assert [line.message for line in status.logs if line.message in ends] == [
            status.logs[-1].message
        ]
    assert sorted(found.statuses) == sorted(webhook.id for webhook in found.webhooks)
    assert {RECEIVER} == {webhook.url for webhook in found.webhooks}
    assert found.num_used == len(found.statuses)


def test_a_webhook_has_the_same_end_as_the_result(found: Found) -> None:
    """Both were written in one transaction."""
    for webhook in found.webhooks:
        assert f'"payload":{found.results[webhook.id].body}' in webhook.body


def test_what_was_cancelled_before_it_began_never_runs(lives: Lives, found: Found) -> None:
    """A later life does not run it either."""
    cancelled = set(lives.journal.ids("cancelled"))
    assert cancelled, "no cancel came before a worker"
    assert cancelled & set(lives.journal.ids("run")) == set()
    assert {found.statuses[id_].state for id_ in cancelled} == {JobState.CANCELLED}
    assert not any(started(found.statuses[id_]) for id_ in cancelled)
    assert all(started(found.statuses[id_]) for id_ in set(lives.journal.ids("run")))


def test_poison_ends_after_three_workers_and_fails_no_other(tmp_path: Path) -> None:
    """A job whose work kills the process ends as an error; all others get their results."""
    lives = Lives(tmp_path, num=24, max_attempts=3, poison="1")
    assert lives.finish() == 3
    found = lives.found()

    assert lives.journal.ids("run").count("1") == 3
    assert (found.statuses["1"].state, found.results["1"].status) == (JobState.ERROR, 503)
    assert found.statuses["1"].error_type == "runner_disconnected"
    ends = {id_: status.state for id_, status in found.statuses.items() if id_ != "1"}
    assert {id_ for id_, state in ends.items() if state is JobState.ERROR} == set()
