"""The checks before work begins, in one order.

    1. shutdown             a process that stops takes no new request                       503
    2. key                  the caller has a valid key                                      401
    3. rate limit           requests per second of the key, over all replicas (GCRA)        429
    4. admission            a fair share of this process's adaptive limit (AIMD)            429
    5. concurrency limit    requests of the key that run at once, over all replicas         429

A synchronous run passes the first four before its body is read, and the last one after it: a slow
or invalid body holds none of the key's slots. A submit passes the first three, because its work is
limited by the workers of the queue.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress

from fastapi import Request as HttpRequest

from deployments.api.auth import Caller, Keyring
from deployments.errors import NotReady, Overloaded, RateLimited, StoreUnavailable
from deployments.jobs.store import KeyStore
from deployments.settings import Settings
from deployments.telemetry.metrics import Recorder
from deployments.telemetry.request_span import RequestSpan

ACTIVE_S = 1.0  # a key that asked within this time has a share
SHARED = 0.75  # of the limit: what a key can have beyond its share
MAX_WAIT_RATIO = 2.0  # waiting time per model time: random arrivals come in bursts
MIN_WAIT_S = 0.25  # hops take this long on a busy machine, however few requests run
DECREASE = 0.8
SMOOTHING = 0.1  # of averages: about the last twenty requests count


class RequestLimits:
    """Every check, with the state that they share in this process."""

    def __init__(
        self,
        settings: Settings,
        store: KeyStore,
        keyring: Keyring,
        recorder: Recorder,
        shutdown: "Shutdown",
    ) -> None:
        limit = AdaptiveLimit(
            settings.ingress.max_running, least=2 * settings.inference.max_batch_size
        )
        self._shutdown = shutdown
        self._keyring = keyring
        self._retry_after = RetryAfterEstimate()
        self._rate = RateLimit(store, recorder, settings.keys.rate_burst)
        self._admission = Admission(limit, recorder, self._retry_after)
        self._concurrency = ConcurrencyLimit(
            store, recorder, self._retry_after, settings.ingress.deadline_s
        )

    @asynccontextmanager
    async def admit_run(self, request: HttpRequest, span: RequestSpan) -> AsyncIterator[Caller]:
        """Pass the first four checks; the `with` block counts as a running request.

        Raises:
            NotReady, Unauthorized, RateLimited, Overloaded: a check fails.
        """
        with self._shutdown.postponed():
            caller = await self._authorize(request, span)
            await self._rate.admit(caller)
            with self._admission.admit(caller.key_id):
                yield caller

    def hold_slot(self, caller: Caller, request_id: str) -> AbstractAsyncContextManager[None]:
        """Pass the last check of a run; the `with` block holds one of the key's slots.

        Raises:
            Overloaded: the key has no free slot.
        """
        return self._concurrency.hold(caller, request_id)

    @asynccontextmanager
    async def admit_submit(self, request: HttpRequest, span: RequestSpan) -> AsyncIterator[Caller]:
        """Pass the checks of a submit.

        Raises:
            NotReady, Unauthorized, RateLimited: a check fails.
        """
        with self._shutdown.postponed():
            caller = await self._authorize(request, span)
            await self._rate.admit(caller)
            yield caller

    def observe(self, seconds: float, wait_s: float, model_s: float) -> None:
        """Learn from a run that has its result and still counts as running.

        It took `seconds`; for `wait_s` of them no stage worked on it, the model for `model_s`.
        """
        self._retry_after.observe(seconds)
        self._admission.observe(wait_s, model_s)

    def retry_after_s(self, limit: int) -> float:
        return self._retry_after.seconds(limit)

    async def _authorize(self, request: HttpRequest, span: RequestSpan) -> Caller:
        caller = await self._keyring.authorize(request.headers)
        span.set_key(caller.key_id)
        return caller


class Shutdown:
    """Counts the runs and submits that must end before the process does."""

    def __init__(self) -> None:
        self._has_begun = False
        self._num_running = 0
        self._ended = asyncio.Event()

    @contextmanager
    def postponed(self) -> Iterator[None]:
        """Postpone the end of the process to that of the `with` block.

        Raises:
            NotReady: the shutdown has begun.
        """
        if self._has_begun:
            raise NotReady("The service stops; try again in a moment.")
        self._num_running += 1
        try:
            yield
        finally:
            self._num_running -= 1
            self._ended.set()

    async def drain(self, timeout_s: float) -> None:
        """Begin the shutdown, and return when all have ended, or after `timeout_s`."""
        self._has_begun = True
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._num_running:
                    self._ended.clear()
                    await self._ended.wait()


class RateLimit:
    """How many requests per second a key may begin; a key without a rate needs no store."""

    def __init__(self, store: KeyStore, recorder: Recorder, burst: int) -> None:
        self._store = store
        self._recorder = recorder
        self._burst = burst

    async def admit(self, caller: Caller) -> None:
        """Count one request.

        Raises:
            RateLimited: the key begins too many per second.
        """
        if caller.rate is None:
            return
        wait_s = await self._store.check_rate_limit(caller.key_id, caller.rate, self._burst)
        if wait_s > 0:
            count_refused(self._recorder, caller.key_id, "rate")
            raise RateLimited.after(wait_s)


class RetryAfterEstimate:
    """When there will be room again, by a moving average of how long requests take."""

    def __init__(self) -> None:
        self._average_s: float | None = None

    def observe(self, seconds: float) -> None:
        average_s = seconds if self._average_s is None else self._average_s
        self._average_s = average_s + SMOOTHING * (seconds - average_s)

    def seconds(self, limit: int) -> float:
        """Seconds until one of `limit` running requests should end."""
        return (self._average_s or 0.0) / limit


class AdaptiveLimit:
    """How many requests may run, so that they wait at most twice as long as the model takes.

    What the pipeline can hold is not known beforehand: replicas come and go, answers are short or
    long. So the limit follows what is measured, as TCP's does (AIMD): it grows by one for each
    round without a long wait, and shrinks by a fifth otherwise.

    Args:
        most: the limit at first, and its maximum.
        least: its minimum.
    """

    def __init__(self, most: int, least: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._least = min(least, most)
        self._clock = clock
        self._limit = float(most)
        self._wait_s = 0.0
        self._next_decrease = 0.0

    @property
    def value(self) -> int:
        return int(self._limit)

    def observe(self, num_running: int, wait_s: float, model_s: float) -> None:
        """Learn from a request that has ended: how long it waited, and how long the model took."""
        self._wait_s += SMOOTHING * (wait_s - self._wait_s)
        if self._wait_s > max(MIN_WAIT_S, MAX_WAIT_RATIO * model_s):
            self._decrease(num_running, wait_s + model_s)
        elif num_running >= self.value - 1:
            self._limit = min(self._most, self._limit + 1 / self._limit)

    def _decrease(self, num_running: int, round_s: float) -> None:
        """Shrink, at most once in the time that it takes until that shows."""
        now = self._clock()
        if now < self._next_decrease:
            return
        self._limit = max(self._least, DECREASE * min(self._limit, num_running))
        self._next_decrease = now + round_s


class Admission:
    """Shares the adaptive limit of this process among keys.

    All keys that ask have equal shares. What they do not use others may, but for a quarter of the
    limit: there a key with less than its share finds room, and so comes to its share.
    """

    def __init__(
        self,
        limit: AdaptiveLimit,
        recorder: Recorder,
        retry_after: RetryAfterEstimate,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._recorder = recorder
        self._retry_after = retry_after
        self._clock = clock
        self._running: Counter[str] = Counter()
        self._asked: dict[str, float] = {}  # when each key asked last, in that order
        self._refused: deque[float] = deque()
        self._record()

    @property
    def num_running(self) -> int:
        return self._running.total()

    @contextmanager
    def admit(self, key_id: str) -> Iterator[None]:
        """Count a request of `key_id` as running for the time of the `with` block.

        Raises:
            Overloaded: there is no room for it.
        """
        if not self._can_admit(key_id):
            count_refused(self._recorder, key_id, "share")
            raise Overloaded.after(self._wait_s())
        self._count(key_id, 1)
        try:
            yield
        finally:
            self._count(key_id, -1)

    def observe(self, wait_s: float, model_s: float) -> None:
        """Learn from a request that has its result and is still counted."""
        self._limit.observe(self.num_running, wait_s, model_s)

    def _can_admit(self, key_id: str) -> bool:
        limit, share = self._limit.value, self._limit.value / self._num_active(key_id)
        if self._running[key_id] < share:
            return self.num_running < limit
        return self.num_running < SHARED * limit

    def _num_active(self, key_id: str) -> int:
        """Keys that share the limit: `key_id`, and others that asked just now."""
        now = self._clock()
        self._asked.pop(key_id, None)
        self._asked[key_id] = now
        while now - next(iter(self._asked.values())) > ACTIVE_S:
            del self._asked[next(iter(self._asked))]
        return len(self._asked)

    def _wait_s(self) -> float:
        """Seconds until there should be room, if those refused lately come again."""
        now = self._clock()
        while self._refused and now - self._refused[0] > ACTIVE_S:
            self._refused.popleft()
        self._refused.append(now)
        return len(self._refused) * self._retry_after.seconds(self._limit.value)

    def _count(self, key_id: str, change: int) -> None:
        self._running[key_id] += change
        if not self._running[key_id]:
            del self._running[key_id]
        self._record()

    def _record(self) -> None:
        self._recorder.record("florence_ingress_running", self.num_running)
        self._recorder.record("florence_ingress_places", self._limit.value)


class ConcurrencyLimit:
    """How many requests of a key run at once, counted in the store; most keys have no limit.

    A slot that was not given back, because its replica died or the store was away, frees itself
    after `ttl_s`.
    """

    def __init__(
        self, store: KeyStore, recorder: Recorder, retry_after: RetryAfterEstimate, ttl_s: float
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._retry_after = retry_after
        self._ttl_s = ttl_s
        self._leaving: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def hold(self, caller: Caller, request_id: str) -> AsyncIterator[None]:
        """Hold one of the key's slots for the time of the `with` block.

        Raises:
            Overloaded: all of them are taken.
        """
        if caller.concurrency is None:
            yield
            return
        entered = True  # a request that is cancelled while it enters may have entered
        try:
            entered = await self._store.acquire_slot(caller.key_id, request_id, self._ttl_s)
            if not entered:
                count_refused(self._recorder, caller.key_id, "concurrency")
                raise Overloaded.after(self._retry_after.seconds(caller.concurrency))
            yield
        finally:
            if entered:
                await self._leave(request_id)

    async def _leave(self, request_id: str) -> None:
        """Give the slot back, also when the caller has hung up."""
        leaving = asyncio.create_task(self._give_back(request_id), name=f"leave-{request_id}")
        self._leaving.add(leaving)  # asyncio alone does not keep a task
        leaving.add_done_callback(self._leaving.discard)
        await asyncio.shield(leaving)

    async def _give_back(self, request_id: str) -> None:
        with suppress(StoreUnavailable):
            await self._store.release_slot(request_id)


def count_refused(recorder: Recorder, key_id: str, limit: str) -> None:
    recorder.record("florence_ingress_key_refused_total", key=key_id, limit=limit)
