"""What a batcher asks of the model."""

from typing import Protocol

from deployments.florence.sequence import Progress, Sequence, Sequences


class DeviceFault(Exception):
    """The device cannot work any more, whatever it is asked for."""


class Backend(Protocol):
    """What writes the tokens, step by step: the engine, or transformers' `generate`.

    It knows neither time nor callers, and is used by one thread.
    """

    @property
    def max_batch_size(self) -> int:
        """Most sequences at a time."""
        ...

    @property
    def prefill_batch_size(self) -> int:
        """Most sequences of one `add`, at most `max_batch_size`."""
        ...

    def add(self, sequences: Sequences) -> None:
        """Begin `sequences`, and resume those that were preempted; there is place for them.

        Raises:
            MemoryError: there is not enough for so many; none has begun.
            DeviceFault: nothing can begin any more.
            Exception: one of them cannot begin; none has.
        """
        ...

    def step(self) -> Sequences:
        """Give each sequence one more token; those that have ended, with their `tokens`.

        Raises:
            DeviceFault: there can be no other step.
            Exception: the step failed, and the backend must be reset.
        """
        ...

    def probe(self) -> None:
        """Do what must succeed: a short example beside the sequences, for which there is place.

        Raises:
            Exception: it failed, so no sequence is to blame for a failure.
        """
        ...

    def preempt(self, sequence: Sequence) -> bool:
        """Take a sequence out of the batch, to be resumed by `add`; False when it cannot."""
        ...

    def drop(self, sequence: Sequence) -> None:
        """Forget a sequence, if it is still there."""
        ...

    def reset(self) -> None:
        """Forget all sequences, after a step that failed."""
        ...

    def progress(self, sequences: Sequences) -> dict[Sequence, Progress]:
        """The tokens so far of these sequences, where the backend knows."""
        ...
