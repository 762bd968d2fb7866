"""One generator's place in a run: its share of the arrivals, its client and its receiver."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import gevent

from deployments.errors import SetupError
from loadtest.kit.arrivals import share
from loadtest.kit.client import Client
from loadtest.kit.gallery import gallery
from loadtest.kit.plan import KEY, Plan
from loadtest.kit.receiver import Receiver
from loadtest.kit.visits import Failed, Refused, Visitor
from loadtest.kit.walker import Arrival, Route

LATE_S = 1.0  # for webhooks that come again


@dataclass(frozen=True)
class Post:
    """A route that is ready to be walked."""

    route: Route
    receiver: Receiver | None

    def leave(self) -> int:
        """How many webhooks came again, now that all have come."""
        if self.receiver is None:
            return 0
        gevent.sleep(LATE_S)
        return self.receiver.num_repeated


@contextmanager
def prepared(plan: Plan, address: str | None, index: int, num: int) -> Iterator[Post]:
    """The post of worker `index` of `num`, with all that can be done before the first arrival.

    Raises:
        SetupError: it cannot be prepared.
    """
    client = Client(plan.url, os.environ[KEY], plan.timeout_s)
    receiver = listening(address) if plan.row.needs_receiver else None
    try:
        kinds = {item.length for item in plan.row.items}
        bodies = gallery(plan.images, plan.num_images, kinds)
        visitor = Visitor(client, bodies, plan.poll_s, receiver)
        ready(visitor, plan)
        yield Post(Route(visitor, arrivals(plan, index, num), plan.timeout_s, index), receiver)
    finally:
        client.close()
        if receiver:
            receiver.stop()


def arrivals(plan: Plan, index: int, num: int) -> list[Arrival]:
    """The share of a worker."""
    times = plan.arrivals()
    items = plan.items(len(times))
    return [Arrival(number, at_s, items[number]) for number, at_s in share(times, index, num)]


def listening(address: str | None) -> Receiver:
    """A receiver that listens.

    Raises:
        SetupError: there is no address, or it cannot be listened on.
    """
    if address is None:
        raise SetupError(
            "webhooks need --receiver HOST:PORT, where the service reaches this worker"
        )
    receiver = Receiver(address)
    try:
        receiver.start()
    except OSError as error:
        raise SetupError(f"--receiver {address} cannot be listened on: {error.strerror}") from None
    return receiver


def ready(visitor: Visitor, plan: Plan) -> None:
    """Make the calls that come before the schedule.

    Raises:
        SetupError: the service does not answer them well.
    """
    try:
        visitor.prepare(plan.row.items)
    except (Refused, Failed, KeyError, OSError) as error:
        reason = str(error) or error.__class__.__name__
        raise SetupError(f"{plan.url} does not answer a first call well: {reason}") from None
