"""The signals that end a command."""

import os
import signal

import pytest

from deployments.cli.signals import STOPS, held_off, kept, raise_interrupts


@pytest.mark.parametrize("number", STOPS)
def test_each_raises_an_interrupt(number: signal.Signals) -> None:
    """Whatever ends the command ends it the same way."""
    with kept():
        raise_interrupts()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_what_is_ignored_stays_ignored() -> None:
    """A command started by nohup survives its terminal."""
    with kept():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        raise_interrupts()
        os.kill(os.getpid(), signal.SIGHUP)


def test_handlers_are_as_before() -> None:
    """Whoever sets handlers inside the block changes nothing for long."""
    before = [signal.getsignal(number) for number in STOPS]
    with kept():
        raise_interrupts()

    assert [signal.getsignal(number) for number in STOPS] == before


def test_stopping_is_not_interrupted() -> None:
    """A second Ctrl-C does not leave half behind."""
    with held_off():
        for number in STOPS:
            os.kill(os.getpid(), number)
