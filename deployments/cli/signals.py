"""The signals that end a command: Ctrl-C, and what a supervisor or a closed terminal sends."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def raise_interrupts() -> None:
    """Let each of them raise KeyboardInterrupt, but leave alone what a parent has us ignore."""
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """Stop what runs now."""
    raise KeyboardInterrupt


@contextmanager
def kept() -> Iterator[None]:
    """After the block the handlers are as before it, whoever set others in it: Ray does."""
    before = {number: signal.getsignal(number) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held_off() -> Iterator[None]:
    """Inside the block none of them is heard, so that stopping is done to its end."""
    with kept():
        for number in STOPS:
            signal.signal(number, signal.SIG_IGN)
        yield
