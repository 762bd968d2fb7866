"""The signals that end a command."""

import os
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from deployments.local.signals import (
    STOPS,
    deferred_interrupts,
    ignored_signals,
    raise_interrupts,
    restored_handlers,
)


@pytest.fixture(autouse=True)
def hook() -> Iterator[None]:
    """What hears of dropped errors is as before after each test."""
    before = sys.unraisablehook
    yield
    sys.unraisablehook = before


@pytest.mark.parametrize("number", STOPS)
def test_each_raises_an_interrupt(number: signal.Signals) -> None:
    """Whatever ends the command ends it the same way."""
    with restored_handlers():
        raise_interrupts()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_what_is_ignored_stays_ignored() -> None:
    """A command started by nohup survives its terminal."""
    with restored_handlers():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        raise_interrupts()
        os.kill(os.getpid(), signal.SIGHUP)


def test_handlers_are_as_before() -> None:
    """Handlers that are set inside the block are undone after it."""
    before = [signal.getsignal(number) for number in STOPS]
    with restored_handlers():
        raise_interrupts()

    assert [signal.getsignal(number) for number in STOPS] == before


def test_stopping_is_not_interrupted() -> None:
    """A second Ctrl-C does not leave half behind."""
    with ignored_signals():
        for number in STOPS:
            os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", STOPS)
def test_one_that_a_finalizer_drops_is_raised_again(number: signal.Signals) -> None:
    """Python drops what is raised in a finalizer; the command must end nevertheless."""

    class Final:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)

    def drop() -> None:
        Final()
        time.sleep(5)

    with restored_handlers():
        raise_interrupts()
        with pytest.raises(KeyboardInterrupt):
            drop()


def test_other_dropped_errors_are_noted(capsys: pytest.CaptureFixture[str]) -> None:
    """Only interrupts are raised again."""

    class Final:
        def __del__(self) -> None:
            raise ValueError("of a finalizer")

    with restored_handlers():
        raise_interrupts()
        Final()
        time.sleep(0.05)

    assert "ValueError: of a finalizer" in capsys.readouterr().err


@pytest.mark.parametrize("number", STOPS)
def test_a_postponed_one_is_raised_afterwards(number: signal.Signals) -> None:
    """What must not be left half done is done, and then the command ends."""
    done = []

    def do() -> None:
        with deferred_interrupts():
            os.kill(os.getpid(), number)
            done.append(number)

    with restored_handlers():
        raise_interrupts()
        with pytest.raises(KeyboardInterrupt):
            do()

    assert done == [number]


def test_postponing_nothing_raises_nothing() -> None:
    """Without a signal the block is a block like any other."""
    with restored_handlers():
        raise_interrupts()
        with deferred_interrupts():
            pass
