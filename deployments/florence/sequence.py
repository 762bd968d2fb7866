"""One request in the engine: an image and a prompt, and the tokens that the model writes to them.

It knows neither tensors nor HTTP.
"""

import collections.abc
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum
from math import inf

import numpy as np
from numpy.typing import NDArray

from deployments.errors import RequestTimeout, ServiceError, StartTimeout
from deployments.florence.token_scores import TokenScores

Pixels = NDArray[np.uint8]
Tokens = tuple[int, ...]
LONGEST_NGRAM = 32  # that may be asked not to come twice


class Grammar(IntEnum):
    """What the tokens may look like, where decoding is constrained."""

    FREE = 0
    BOXES = 1  # nothing but boxes
    LABELLED = 2  # texts, each before its boxes


@dataclass(frozen=True)
class Progress:
    """The tokens that are certain so far, from the start token on, and their scores if wanted."""

    tokens: Tokens
    scores: TokenScores | None = None


@dataclass(eq=False)
class Sequence:
    """What the model shall write, until when, and how far it is.

    Args:
        pixels: RGB at the model's size: (height, width, 3).
        prompt: token ids, those of the image's place first.
        num_beams, max_new_tokens, no_repeat_ngram_size: the deployment's where they are None.
        image_key: equal for equal images of the same API key, which are encoded once.
        priority: the smallest goes first.
        num_tokens: tokens that it reads and will probably write, see `max_queue_tokens`.
        start_by, deadline: seconds since the epoch.
        scored: whether the scores of its tokens are wanted.
        adapter: the name of the adapter that answers with the base; empty for the base alone.
    """

    pixels: Pixels
    prompt: collections.abc.Sequence[int]
    num_beams: int | None = None
    max_new_tokens: int | None = None
    grammar: Grammar = Grammar.FREE
    image_key: str | None = None
    priority: int = 0
    num_tokens: float = 1.0
    start_by: float = inf
    deadline: float = inf
    no_repeat_ngram_size: int | None = None
    scored: bool = False
    adapter: str = ""

    # The batcher's: `number` is the order of arrival, times are those of `time.perf_counter`.
    number: int = field(init=False, default=0)
    arrived: float = field(init=False, default_factory=time.perf_counter)
    began: float = field(init=False, default=0.0)
    ended: float = field(init=False, default=0.0)
    num_steps: int = field(init=False, default=0)
    resumed_at: int = field(init=False, default=0)  # the step at which it was preempted last
    shares: float = field(init=False, default=0.0)  # of all steps, added up
    future: "Future[Tokens]" = field(init=False, default_factory=Future)
    on_progress: "Callable[[Progress], None] | None" = field(init=False, default=None)
    _is_over: bool = field(init=False, default=False)

    # The backend's: `length` is the most tokens that it can have by now, the start token included.
    length: int = field(init=False, default=1)
    tokens: Tokens = field(init=False, default=())
    image_is_known: bool = field(init=False, default=False)  # another's pass served its image
    scores: TokenScores | None = field(init=False, default=None)
    truncated: bool = field(init=False, default=False)  # its limit came before its own end

    def __lt__(self, other: "Sequence") -> bool:
        """Whether it goes before another: by priority, then by arrival."""
        return (self.priority, self.number) < (other.priority, other.number)

    @property
    def waited_s(self) -> float:
        """Seconds from its arrival until the model began with it."""
        return self.began - self.arrived

    @property
    def ran_s(self) -> float:
        """Seconds from its beginning to its end, those in which it was preempted included."""
        return self.ended - self.began

    @property
    def share(self) -> float:
        """Its mean share of the steps that it took: 1 alone, 1/8 as one of eight."""
        return self.shares / max(1, self.num_steps)

    def is_wanted(self) -> bool:
        """Whether its caller still waits, and is in time; once it is not, it never is again."""
        self._is_over = self._is_over or self.future.done() or time.time() >= self.deadline
        return not self._is_over

    def expired(self, now: float) -> ServiceError | None:
        """Why it may not begin at `now`; one that has begun before has its deadline alone."""
        if now >= self.start_by and not self.began:
            return StartTimeout()
        return RequestTimeout() if now >= self.deadline else None

    def left_s(self, now: float) -> float:
        return min(self.start_by, self.deadline) - now


Sequences = collections.abc.Sequence[Sequence]
