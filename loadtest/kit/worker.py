"""A worker of a distributed run: walks its share of the schedule, and tells the master of it."""

from contextlib import ExitStack
from typing import Any

from gevent.event import Event
from locust.env import Environment

from deployments.errors import SetupError
from loadtest.kit.job import Job
from loadtest.kit.messages import Word
from loadtest.kit.plan import Plan
from loadtest.kit.post import Post, prepared
from loadtest.kit.tally import Tally
from loadtest.kit.walker import Walker

TELL_EVERY_S = 2.0


def work(job: Job) -> None:
    """Join the master, do what it says, and leave when it does.

    Raises:
        SetupError: there is no master, or the share cannot be prepared.
    """
    with ExitStack() as stack:
        Worker(job, stack).run()


class Worker:
    """One share; `stack` closes what is opened for it."""

    def __init__(self, job: Job, stack: ExitStack) -> None:
        self._job = job
        self._stack = stack
        self._tally = Tally()
        self._begun = Event()
        self._post: Post | None = None
        self._reason = ""
        environment = Environment(user_classes=[Walker])
        environment.events.request.add_listener(self._tally.add)
        try:
            self._runner = environment.create_worker_runner(job.host, job.port)
        except (ConnectionError, OSError):
            raise SetupError(f"no master answers at {job.host}:{job.port}") from None
        self._runner.register_message(Word.PLAN, self._prepare)

    def run(self) -> None:
        """Everything, in its order; a worker too many is let go without a share.

        Raises:
            SetupError: the share cannot be prepared, or the master went away.
        """
        self._runner.send_message(Word.HERE)
        while not self._begun.wait(TELL_EVERY_S) and self._is_led():
            pass
        if self._post is not None:
            self._runner.send_message(Word.READY)
            self._tell(self._post)
        self._runner.greenlet.join()  # until the master lets us go
        if self._reason:
            raise SetupError(self._reason)

    def _is_led(self) -> bool:
        """Whether the master has neither let us go nor gone itself."""
        return len(self._runner.greenlet) > 0

    def _prepare(self, msg: Any, **_: Any) -> None:
        plan = Plan.model_validate_json(msg.data["plan"])
        share = prepared(plan, self._job.receiver, msg.data["index"], msg.data["num"])
        try:
            self._post = self._stack.enter_context(share)
            Walker.route = self._post.route
        except SetupError as error:
            self._reason = str(error)
            self._runner.send_message(Word.BROKEN, {"reason": self._reason})
        self._begun.set()

    def _tell(self, post: Post) -> None:
        """Tell of what has ended, every two seconds, until all has."""
        while not post.route.ended.wait(TELL_EVERY_S):
            if not self._is_led():
                raise SetupError(f"the master at {self._job.host} went away")
            self._tell_records()
        num_repeated = post.leave()
        self._tell_records()
        self._runner.send_message(Word.DONE, {"num_repeated": num_repeated})

    def _tell_records(self) -> None:
        self._runner.send_message(Word.RECORDS, {"records": self._tally.take()})
