"""The signals that end a command: Ctrl-C, and what a supervisor or a closed terminal sends."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN = signal.SIGALRM
AGAIN_S = 0.01
starts_groups = False


def raise_interrupts() -> None:
    """Let each of STOPS raise KeyboardInterrupt, except those that our parent ignores.

    Python drops an exception that is raised in a finalizer or in a callback from C, and prints it
    to standard error. A dropped interrupt is raised again.
    """
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    signal.signal(AGAIN, interrupt)
    sys.unraisablehook = raise_again


def interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def raise_again(dropped: "sys.UnraisableHookArgs") -> None:
    """Interrupt again a moment later; other errors are printed as usual."""
    if issubclass(dropped.exc_type, KeyboardInterrupt | SystemExit):
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    else:
        sys.__unraisablehook__(dropped)


@contextmanager
def restored_handlers() -> Iterator[None]:
    """After the block the handlers are those from before it. Ray sets its own."""
    before = {number: signal.getsignal(number) for number in (*STOPS, AGAIN)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ignored_signals() -> Iterator[None]:
    """Inside the block STOPS are ignored, so that stopping is not interrupted."""
    with restored_handlers():
        for number in (*STOPS, AGAIN):
            signal.signal(number, signal.SIG_IGN)
        yield


@contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Inside the block STOPS wait, for work that must not be left half done.

    Raises:
        KeyboardInterrupt: after the block, when one arrived.
    """
    came: list[int] = []
    with restored_handlers():
        for number in STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda number, _frame: came.append(number))
        yield
    if came:
        raise KeyboardInterrupt


@contextmanager
def own_process_groups() -> Iterator[None]:
    """Processes that Ray starts inside the block lead groups of their own.

    Ctrl-C, `timeout` and a closed terminal signal a whole group. Ray's processes would end before
    us, and the requests under way with them.
    """
    global starts_groups
    register_fork()
    starts_groups = True
    try:
        yield
    finally:
        starts_groups = False


@cache
def register_fork() -> None:
    """Python calls this in a child that has a `preexec_fn`, as Ray's have."""
    os.register_at_fork(after_in_child=lambda: os.setpgid(0, 0) if starts_groups else None)
