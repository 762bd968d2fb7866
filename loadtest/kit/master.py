"""The master of a distributed run: hands out shares, says when to begin, gathers the records."""

import time
from collections.abc import Callable
from typing import Any

import gevent
from locust.env import Environment

from deployments.errors import SetupError
from loadtest.kit.job import Job
from loadtest.kit.messages import Word
from loadtest.kit.plan import Plan
from loadtest.kit.record import Record
from loadtest.kit.tally import Tally
from loadtest.kit.walker import Walker

GATHER_S = 300.0  # for workers to come; Kubernetes may have to start nodes for them
PREPARE_S = 60.0  # for them to draw the images
SLACK_S = 30.0  # for them to end and to tell, beyond the last timeout
LOOK_EVERY_S = 0.1


def lead(job: Job) -> Tally:
    """Have workers walk a share each.

    A worker that is lost takes its records along: the report counts its arrivals as failed.

    Raises:
        SetupError: workers do not come, or one cannot begin.
    """
    assert job.plan, "a master has a plan"
    master = Master(job, job.plan)
    try:
        master.gather()
        master.follow()
    finally:
        master.quit()
    return master.tally


class Master:
    """Listens for workers."""

    def __init__(self, job: Job, plan: Plan) -> None:
        self.tally = Tally()
        self._plan = plan
        self._num = job.num_workers
        self._here: list[str] = []
        self._ready: set[str] = set()
        self._done: set[str] = set()
        self._reason = ""
        self._runner = Environment(user_classes=[Walker]).create_master_runner(job.host, job.port)
        listeners = {
            Word.HERE: self._welcome,
            Word.READY: lambda msg: self._ready.add(msg.node_id),
            Word.BROKEN: self._note_reason,
            Word.RECORDS: self._note_records,
            Word.DONE: self._note_end,
        }
        for word, listener in listeners.items():
            self._runner.register_message(word, heard(listener))

    def gather(self) -> None:
        """Wait until all workers are ready, and let them begin together.

        Raises:
            SetupError: as for `lead`.
        """
        self._wait(lambda: len(self._here) >= self._num, GATHER_S, "have come")
        self._wait(lambda: len(self._ready) >= self._num, PREPARE_S, "are ready")
        self._runner.start(self._num, spawn_rate=self._num)

    def follow(self) -> None:
        """Wait until all workers that still live have told of all their arrivals."""
        last = time.monotonic() + self._plan.duration_s + self._plan.timeout_s + SLACK_S
        while self._num_awaited() > 0 and time.monotonic() < last:
            self.tally.show()
            gevent.sleep(LOOK_EVERY_S)

    def quit(self) -> None:
        """Let the workers go."""
        self._runner.quit()

    def _num_awaited(self) -> int:
        lost = {client.id for client in self._runner.clients.missing}
        return len(set(self._here) - self._done - lost)

    def _wait(self, is_so: Callable[[], bool], patience_s: float, what: str) -> None:
        last = time.monotonic() + patience_s
        while not is_so():
            if self._reason:
                raise SetupError(self._reason)
            if time.monotonic() > last:
                raise SetupError(
                    f"not all of {self._num} workers {what} after {patience_s:.0f} s: "
                    "do they join this master's address?"
                )
            gevent.sleep(LOOK_EVERY_S)

    def _welcome(self, message: Any) -> None:
        if len(self._here) < self._num:
            share = {"index": len(self._here), "num": self._num}
            self._here.append(message.node_id)
            told = {"plan": self._plan.model_dump_json(), **share}
            self._runner.send_message(Word.PLAN, told, client_id=message.node_id)

    def _note_reason(self, message: Any) -> None:
        self._reason = message.data["reason"]

    def _note_records(self, message: Any) -> None:
        for told in message.data["records"]:
            self.tally.add(Record.of(told))

    def _note_end(self, message: Any) -> None:
        self.tally.num_repeated += message.data["num_repeated"]
        self._done.add(message.node_id)


def heard(listener: Callable[[Any], Any]) -> Callable[..., None]:
    """A listener as Locust calls it."""

    def listen(msg: Any, **_: Any) -> None:
        listener(msg)

    return listen
