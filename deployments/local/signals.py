"""The signals that end a command: Ctrl-C, and what a supervisor or a closed terminal sends."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN = signal.SIGALRM
AGAIN_S = 0.01


def raise_interrupts() -> None:
    """Let each of them raise KeyboardInterrupt, but leave alone what a parent has us ignore.

    An interrupt that meets a finalizer or a callback from C is dropped there by Python, with a
    note on standard error: it is raised again until it is heard.
    """
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    signal.signal(AGAIN, interrupt)
    sys.unraisablehook = raise_again


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """Stop what runs now."""
    raise KeyboardInterrupt


def raise_again(dropped: "sys.UnraisableHookArgs") -> None:
    """Interrupt once more, out of whatever dropped it; note other errors as ever."""
    if issubclass(dropped.exc_type, KeyboardInterrupt | SystemExit):
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    else:
        sys.__unraisablehook__(dropped)


@contextmanager
def restored_handlers() -> Iterator[None]:
    """After the block the handlers are as before it, whoever set others in it: Ray does."""
    before = {number: signal.getsignal(number) for number in (*STOPS, AGAIN)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ignored_signals() -> Iterator[None]:
    """Inside the block none of them is heard, so that stopping is done to its end."""
    with restored_handlers():
        for number in (*STOPS, AGAIN):
            signal.signal(number, signal.SIG_IGN)
        yield


@contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Inside the block they wait, for what must not be left half done.

    Raises:
        KeyboardInterrupt: after the block, when one came.
    """
    came: list[int] = []
    with restored_handlers():
        for number in STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda number, _frame: came.append(number))
        yield
    if came:
        raise KeyboardInterrupt
