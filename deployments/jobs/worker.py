"""Runs queued jobs: claims them, renews their leases with heartbeats, stores their outcomes.

A worker that dies loses no job: its leases expire, and other workers retry the jobs.
What a job does is the executor's concern.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from deployments.errors import (
    ClientCancelled,
    InternalError,
    Overloaded,
    ServiceError,
    StoreUnavailable,
)
from deployments.jobs.job import Job, JobOutcome, JobState
from deployments.jobs.readiness import Readiness
from deployments.jobs.store import JobStore
from deployments.settings import QueueSettings
from deployments.telemetry.log import about, logger
from deployments.telemetry.metrics import Recorder

RETRIED_STATUSES = (503, 504)  # as fal does; a 500 or a 4xx would repeat itself
STORE_RETRY_S = 0.5
CLAIM_TIMEOUT_S = 2.0
WAKE_UP_INTERVAL_S = 0.05  # a remote call costs 1 ms of CPU; a delay costs next to nothing

Execute = Callable[[Job], Coroutine[Any, Any, JobOutcome]]


@dataclass(eq=False)
class RunningJob:
    """A claimed job and the task that executes it."""

    job: Job
    task: asyncio.Task[JobOutcome]
    is_cancelled: bool = False  # by its caller
    has_lease: bool = True  # without it, another worker may have the job


class Worker:
    """Runs up to `settings.max_running` jobs at a time.

    Args:
        execute: executes one job; raises the ServiceError that the client should see.
        readiness: no job is claimed until the model has a replica.
        name: the owner of the leases, for people who read the store.
    """

    def __init__(
        self,
        store: JobStore,
        execute: Execute,
        readiness: Readiness,
        settings: QueueSettings,
        recorder: Recorder,
        name: str,
    ) -> None:
        self._store = store
        self._execute = execute
        self._readiness = readiness
        self._settings = settings
        self._recorder = recorder
        self._name = name
        self._running: dict[str, RunningJob] = {}
        self._supervisors: set[asyncio.Task[None]] = set()
        self._claiming: asyncio.Task[bool] | None = None
        self._changed = asyncio.Event()
        self._record_running()

    @property
    def num_running(self) -> int:
        return len(self._running)

    def wake(self) -> None:
        """Poll the queue now instead of at the next interval."""
        self._changed.set()

    async def claim_forever(self) -> None:
        """Claim and start jobs whenever fewer than `max_running` are running."""
        while True:
            self._claiming = asyncio.create_task(self._claim(), name="claim")
            # Shielded: drain() requeues what a cancelled claim still brings.
            may_have_more = await asyncio.shield(self._claiming)
            if not may_have_more:
                await self._wait_for_change(self._settings.poll_s)

    async def heartbeat(self) -> None:
        """Renew all leases; stop the jobs that were cancelled or whose lease has expired."""
        leases = [running.job.lease for running in self._running.values()]
        if not leases:
            return
        for answer in await self._store.heartbeat(leases, self._settings.lease_s):
            running = self._running.get(answer.lease.id)
            if running is None or running.job.lease != answer.lease:
                continue
            if answer.cancelled or not answer.held:
                running.has_lease = answer.held
                running.is_cancelled = answer.held
                running.task.cancel()

    async def drain(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` for running jobs, then stop and requeue the others.

        `claim_forever` must have been cancelled.
        """
        if self._claiming:
            await asyncio.wait({self._claiming}, timeout=CLAIM_TIMEOUT_S)
            self._claiming.cancel()
        if self._supervisors:
            await asyncio.wait(self._supervisors, timeout=timeout_s)
        for running in self._running.values():
            running.task.cancel()
        await asyncio.gather(*self._supervisors)

    # ---- claiming

    async def _claim(self) -> bool:
        """Claim and start jobs; True when there may be more to claim now."""
        limit = self._settings.max_running - len(self._running)
        if limit <= 0:
            return False
        try:
            if not await self._wait_until_ready():
                return False
            claimed = await self._store.claim(self._name, limit, self._settings.lease_s)
        except StoreUnavailable:
            await asyncio.sleep(STORE_RETRY_S)
            return False
        for job in await self._without_excess_retries(claimed):
            self._start(job)
        return len(claimed) == limit

    async def _wait_until_ready(self) -> bool:
        """Wait for a replica of the model; False when nothing is queued that would need one."""
        if not self._readiness.is_ready:
            if (await self._store.backlog(1)).queued == 0:
                return False
            await self._readiness.wait()
        return True

    async def _without_excess_retries(self, claimed: Sequence[Job]) -> list[Job]:
        """The jobs to start: all first attempts, and one retry at a time.

        The job of a retry may have killed its worker. The other retries are requeued before it
        starts: else it would take them down with it, attempt after attempt.
        """
        retries = [job for job in claimed if job.attempt > 1]
        has_retry = any(running.job.attempt > 1 for running in self._running.values())
        excess = retries if has_retry else retries[1:]
        await asyncio.gather(*(self._postpone(job, nth) for nth, job in enumerate(excess, 1)))
        return [job for job in claimed if job not in excess]

    async def _postpone(self, job: Job, nth: int) -> None:
        """Requeue a retry until the `nth - 1` before it should have ended."""
        with suppress(StoreUnavailable):  # its lease expires
            await self._requeue(job, "suspect", self._settings.retry_delay_s * nth)

    async def _wait_for_change(self, timeout_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        self._changed.clear()

    # ---- one job

    def _start(self, job: Job) -> None:
        self._recorder.record("florence_dispatcher_wait_seconds", job.waited_s)
        task = asyncio.create_task(self._execute(job), name=f"job-{job.id}")
        running = self._running[job.id] = RunningJob(job, task)
        self._record_running()
        supervisor = asyncio.create_task(self._supervise(running), name=f"supervise-{job.id}")
        self._supervisors.add(supervisor)
        supervisor.add_done_callback(self._supervisors.discard)

    async def _supervise(self, running: RunningJob) -> None:
        """Wait for the execution, then store its result. Only the execution is ever cancelled."""
        try:
            await asyncio.wait({running.task})
            if not running.task.cancelled() and running.task.exception() is None:
                self._readiness.confirm()
            while running.has_lease:
                try:
                    outcome = await self._store_result(running)
                except StoreUnavailable:
                    await asyncio.sleep(STORE_RETRY_S)
                    continue
                self._recorder.record("florence_dispatcher_requests_total", outcome=outcome)
                return
        finally:
            del self._running[running.job.id]
            self._changed.set()
            self._record_running()

    async def _store_result(self, running: RunningJob) -> str:
        """Finish, retry or requeue the job; returns the metric's label."""
        job, task = running.job, running.task
        if task.cancelled():
            if running.is_cancelled:
                return await self._finish(job, JobOutcome.failed(ClientCancelled()))
            return await self._requeue(job, "stopped")
        match task.exception():
            case None:
                return await self._finish(job, task.result())
            case Overloaded(retry_after_s=delay_s):
                return await self._requeue(job, "overloaded", delay_s)
            case ServiceError(status=status) as error if status in RETRIED_STATUSES:
                return await self._retry(job, error)
            case ServiceError() as error:
                return await self._finish(job, JobOutcome.failed(error))
            case error:
                extra = about(job.id, job.key_id, job.trace)
                logger.error("request %s failed", job.id, exc_info=error, extra=extra)
                return await self._finish(job, JobOutcome.failed(InternalError()))

    async def _finish(self, job: Job, outcome: JobOutcome) -> str:
        if not await self._store.finish(job.lease, outcome):
            return "lost"
        self._recorder.record(
            "florence_dispatcher_key_model_seconds_total", outcome.model_s, key=job.key_id
        )
        return str(outcome.state)

    async def _retry(self, job: Job, error: ServiceError) -> str:
        delay_s = float(self._settings.retry_delay_s * 2 ** (job.attempt - 1))
        state = await self._store.retry_or_finish(job.lease, JobOutcome.failed(error), delay_s)
        if state is not JobState.QUEUED:
            return str(state or "lost")
        self._count_retry(error.type)
        return "retried"

    async def _requeue(self, job: Job, cause: str, delay_s: float = 0.0) -> str:
        """Queue the job again without counting the attempt."""
        await self._store.requeue(job.lease, delay_s)
        self._count_retry(cause)
        return "released"

    def _count_retry(self, cause: str) -> None:
        self._recorder.record("florence_dispatcher_retries_total", cause=cause)

    def _record_running(self) -> None:
        self._recorder.record("florence_dispatcher_running", float(len(self._running)))


class WakeUp:
    """Wakes workers in other processes; calls within WAKE_UP_INTERVAL_S become one.

    A wake-up may be lost, so workers poll as well.
    """

    def __init__(self, wake: Callable[[], Awaitable[Any]]) -> None:
        self._wake = wake
        self._is_requested = False
        self._task: asyncio.Task[None] | None = None

    def __call__(self) -> None:
        self._is_requested = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="wake-up")

    async def _run(self) -> None:
        while self._is_requested:
            self._is_requested = False
            with suppress(Exception):  # the workers poll
                await self._wake()
            await asyncio.sleep(WAKE_UP_INTERVAL_S)
