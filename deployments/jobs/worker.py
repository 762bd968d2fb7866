"""Runs queued requests: claims them, keeps their leases, persists how they end.

It does not know what a request does: that is `execute`.
Nothing it holds is lost when it dies: its leases run out, and others take over.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from deployments.errors import (
    ClientCancelled,
    InternalError,
    Overloaded,
    ServiceError,
    StoreUnavailable,
)
from deployments.jobs.job import Job, JobOutcome, JobState
from deployments.jobs.readiness import Gate
from deployments.jobs.store import JobStore
from deployments.settings import QueueSettings
from deployments.telemetry.log import about, logger
from deployments.telemetry.metrics import Recorder

RETRIED_STATUSES = (503, 504)  # as fal does; a 500 or a 4xx would come again
STORE_DELAY_S = 0.5
CLAIM_S = 2.0

Execute = Callable[[Job], Awaitable[JobOutcome]]


@dataclass
class RunningJob:
    """A claimed request and the task that works on it.

    `cancelled` says that its caller wants it no more, `lost` that another worker has it.
    """

    claimed: Job
    task: asyncio.Task[JobOutcome]
    cancelled: bool = False
    lost: bool = False

    @property
    def id(self) -> str:
        """The request's id."""
        return self.claimed.lease.id

    @property
    def is_suspect(self) -> bool:
        """Whether an attempt at it has come to nothing before."""
        return self.claimed.attempt > 1


class Worker:
    """Keeps up to `max_running` requests going.

    Args:
        execute: works on one request; raises a ServiceError for what its client should see.
        name: tells this worker's leases from others', for people who look at the store.
        gate: nothing is claimed while it is closed.
    """

    def __init__(
        self,
        store: JobStore,
        execute: Execute,
        settings: QueueSettings,
        recorder: Recorder,
        name: str,
        gate: Gate | None = None,
    ) -> None:
        self._gate = gate
        self._store = store
        self._execute = execute
        self._settings = settings
        self._recorder = recorder
        self._name = name
        self._jobs: dict[str, RunningJob] = {}
        self._carriers: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._filling: asyncio.Task[bool] | None = None
        recorder.record("florence_dispatcher_running", 0.0)

    @property
    def num_running(self) -> int:
        """Requests that it works on now."""
        return len(self._jobs)

    def wake(self) -> None:
        """Look at the queue, and at who has cancelled, without waiting for the next poll."""
        self._changed.set()

    async def claim_forever(self) -> None:
        """Claim as many requests as there is room for, whenever there is."""
        while True:
            self._filling = asyncio.create_task(self._fill(), name="fill")
            if not await asyncio.shield(self._filling):  # drain() sees to what it still claims
                await self._wait(self._settings.poll_s)

    async def beat_forever(self) -> None:
        """Keep the leases, and hear of those that were cancelled or lost."""
        while True:
            await asyncio.sleep(self._settings.beat_s)
            await self._beat()

    async def drain(self, timeout_s: float) -> None:
        """Let what runs end, for `timeout_s` at most, and hand back the rest.

        Called when `claim_forever` has been cancelled.
        """
        if self._filling:
            await asyncio.wait({self._filling}, timeout=CLAIM_S)
            self._filling.cancel()
        if self._carriers:
            await asyncio.wait(self._carriers, timeout=timeout_s)
        for job in self._jobs.values():
            job.task.cancel()
        await asyncio.gather(*self._carriers)

    async def _fill(self) -> bool:
        """Whether there may be more to claim at once."""
        room = self._settings.max_running - len(self._jobs)
        if room <= 0:
            return False
        try:
            if not await self._may_begin():
                return False
            claimed = await self._store.claim(self._name, room, self._settings.lease_s)
        except StoreUnavailable:
            await asyncio.sleep(STORE_DELAY_S)
            return False
        for one in await self._admitted(claimed):
            self._start(one)
        return len(claimed) == room

    async def _may_begin(self) -> bool:
        """Whether to claim; with something to claim, it waits for the gate to open."""
        if self._gate is None or self._gate.is_open:
            return True
        if (await self._store.backlog(1)).queued == 0:
            return False  # nobody is called who would do nothing
        await self._gate.open()
        return True

    async def _admitted(self, claimed: Sequence[Job]) -> list[Job]:
        """Those to begin now: all that are new, and one suspect at a time.

        A request that was begun before may have killed its worker. The other suspects go back
        before it begins, so that it takes none of them with it, attempt after attempt.
        """
        suspects = [one for one in claimed if one.attempt > 1]
        num_admitted = 0 if any(job.is_suspect for job in self._jobs.values()) else 1
        refused = suspects[num_admitted:]
        await asyncio.gather(*(self._hand_back(one, n) for n, one in enumerate(refused, 1)))
        return [one for one in claimed if one not in refused]

    async def _hand_back(self, refused: Job, place: int) -> None:
        """Let it come again when those before it should be through."""
        with suppress(StoreUnavailable):  # its lease runs out
            await self._store.requeue(refused.lease, self._settings.retry_delay_s * place)
            self._note_retry("suspect")

    async def _wait(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return
        finally:
            self._changed.clear()

    def _start(self, claimed: Job) -> None:
        self._recorder.record("florence_dispatcher_wait_seconds", claimed.waited_s)
        name = f"request-{claimed.lease.id}"
        job = RunningJob(claimed, asyncio.create_task(self._work(claimed), name=name))
        self._jobs[job.id] = job
        carrier = asyncio.create_task(self._carry(job), name=f"carry-{job.id}")
        self._carriers.add(carrier)
        carrier.add_done_callback(self._carriers.discard)

    async def _work(self, claimed: Job) -> JobOutcome:
        return await self._execute(claimed)

    async def _carry(self, job: RunningJob) -> None:
        """See one request to its end. Only its work is ever cancelled, never what is persisted."""
        self._recorder.record("florence_dispatcher_running", len(self._jobs))
        try:
            await asyncio.wait({job.task})
            await self._persist(job)
        finally:
            del self._jobs[job.id]
            self._changed.set()
            self._recorder.record("florence_dispatcher_running", len(self._jobs))

    async def _persist(self, job: RunningJob) -> None:
        """Write how the work came out; a store that is away is waited for."""
        while not job.lost:
            try:
                outcome = await self._settle(job)
            except StoreUnavailable:
                await asyncio.sleep(STORE_DELAY_S)
                continue
            self._recorder.record("florence_dispatcher_requests_total", outcome=outcome)
            return

    async def _settle(self, job: RunningJob) -> str:
        """The name of what became of the request."""
        lease = job.claimed.lease
        if job.task.cancelled():
            if not job.cancelled:
                await self._store.requeue(lease)
                self._note_retry("stopped")
                return "released"
            return await self._finish(job, JobOutcome.failed(ClientCancelled()))
        match job.task.exception():
            case None:
                return await self._finish(job, job.task.result())
            case Overloaded(retry_after_s=delay_s):
                await self._store.requeue(lease, delay_s)
                self._note_retry("overloaded")
                return "released"
            case ServiceError(status=status) as error if status in RETRIED_STATUSES:
                state = await self._store.retry_or_finish(
                    lease, JobOutcome.failed(error), self._delay(job)
                )
                if state is not JobState.QUEUED:
                    return str(state or "lost")
                self._note_retry(error.type)
                return "retried"
            case ServiceError() as error:
                return await self._finish(job, JobOutcome.failed(error))
            case error:
                extra = about(job.id, job.claimed.key_id, job.claimed.trace)
                logger.error("request %s failed", job.id, exc_info=error, extra=extra)
                return await self._finish(job, JobOutcome.failed(InternalError()))

    async def _finish(self, job: RunningJob, outcome: JobOutcome) -> str:
        if not await self._store.finish(job.claimed.lease, outcome):
            return "lost"
        self._recorder.record(
            "florence_dispatcher_key_model_seconds_total", outcome.model_s, key=job.claimed.key_id
        )
        return str(outcome.state)

    def _note_retry(self, cause: str) -> None:
        self._recorder.record("florence_dispatcher_retries_total", cause=cause)

    def _delay(self, job: RunningJob) -> float:
        return float(self._settings.retry_delay_s * 2 ** (job.claimed.attempt - 1))

    async def _beat(self) -> None:
        """One heartbeat for all leases."""
        leases = [job.claimed.lease for job in self._jobs.values()]
        if not leases:
            return
        try:
            beats = await self._store.heartbeat(leases, self._settings.lease_s)
        except StoreUnavailable:
            return  # the leases last for several beats
        for beat in beats:
            job = self._jobs.get(beat.lease.id)
            if job and job.claimed.lease == beat.lease and not (beat.held and not beat.cancelled):
                self._stop(job, lost=not beat.held)

    def _stop(self, job: RunningJob, lost: bool) -> None:
        job.lost, job.cancelled = lost, not lost
        job.task.cancel()
