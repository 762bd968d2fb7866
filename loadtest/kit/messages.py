"""What a master and its workers tell each other, over Locust's own connection."""

from enum import StrEnum


class Word(StrEnum):
    """A kind of message, in the order in which they are sent."""

    HERE = "florence_here"  # a worker: give me a share
    PLAN = "florence_plan"  # the master: {plan, index, num}
    READY = "florence_ready"  # a worker: I could begin now
    BROKEN = "florence_broken"  # a worker: {reason} why I cannot
    RECORDS = "florence_records"  # a worker: {records} since the last time
    DONE = "florence_done"  # a worker: all my arrivals have ended, {num_repeated}
