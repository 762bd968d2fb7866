"""One life of a process that owns a SQLite store, submits to it, and works on what it holds.

    python -m tests.jobs.life FOLDER NUM MAX_ATTEMPTS [POISON]

A test kills it and starts it again. It exits by itself when all its jobs have ended.
The execution of the job POISON kills it from inside.
"""

import asyncio
import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from deployments.jobs.job import Cancellation, Job, JobOutcome, JobState, Submission
from deployments.jobs.maintenance import Maintenance, every
from deployments.jobs.open import open_store
from deployments.jobs.readiness import Readiness
from deployments.jobs.store import Store
from deployments.jobs.worker import Worker
from deployments.settings import QueueSettings, StoreSettings
from deployments.telemetry.metrics import PrometheusRecorder

KEY = "key"
RECEIVER = "http://receiver.test/"
NUM_SUBMITTERS = 3
CANCELLED_EVERY = 5
RESCUE_INTERVAL_S = 0.05
# An operator may not choose a lease of less than a second, and a test has no second to lose.
RULES = QueueSettings(max_running=4, beat_s=0.1, poll_s=0.02, retry_delay_s=0.05).model_copy(
    update={"lease_s": 0.4}
)


class Journal:
    """The events, one `word id` per line, which survive a kill.

    submitted: the store has acknowledged it; cancelled: the store has acknowledged that as well,
    before any attempt; run: an attempt begins.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "journal"
        self._descriptor = os.open(self._file, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    def write(self, word: str, id_: str) -> None:
        """Add a line."""
        os.write(self._descriptor, f"{word} {id_}\n".encode())

    def lines(self) -> list[list[str]]:
        """Every line as word and id."""
        return [line.split() for line in self._file.read_text().splitlines()]

    def ids(self, word: str) -> list[str]:
        """The ids behind `word`."""
        return [id_ for said, id_ in self.lines() if said == word]

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class Life:
    """One process, from its start to a kill or to the end of all jobs."""

    def __init__(
        self, store: Store, journal: Journal, num: int, max_attempts: int, poison: str | None
    ) -> None:
        self._store = store
        self._journal = journal
        self._ids = [str(number) for number in range(num)]
        self._max_attempts = max_attempts
        self._poison = poison
        recorder = PrometheusRecorder()
        self._worker = Worker(
            store,
            self._execute,
            Readiness(always_ready),
            RULES,
            recorder,
            name=f"life-{os.getpid()}",
        )
        self._maintenance = Maintenance(store, no_file, recorder)

    async def run(self) -> None:
        """Submit what is not submitted yet, and work until everything has ended."""
        loops = [
            asyncio.create_task(self._worker.claim_forever()),
            asyncio.create_task(every(RULES.beat_s, self._worker.heartbeat)),
            asyncio.create_task(every(RESCUE_INTERVAL_S, self._maintenance.rescue)),
        ]
        known = self._journal.ids("submitted")
        left = (id_ for id_ in self._ids if id_ not in known)
        await asyncio.gather(*(self._submit(left) for _ in range(NUM_SUBMITTERS)))
        for id_ in self._ids:
            await self._ended(id_)
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)

    async def _submit(self, left: Iterator[str]) -> None:
        for id_ in left:
            await self._store.submit(
                Submission(
                    id=id_,
                    key_id=KEY,
                    path="caption",
                    input="{}",
                    webhook_url=RECEIVER,
                    max_attempts=self._max_attempts,
                )
            )
            self._journal.write("submitted", id_)
            if int(id_) % CANCELLED_EVERY == CANCELLED_EVERY - 1:
                await self._cancel(id_)

    async def _cancel(self, id_: str) -> None:
        if await self._store.cancel(KEY, id_) is not Cancellation.REQUESTED:
            return
        status = await self._store.status(KEY, id_)
        assert status
        begun = any(line.message.startswith("Started") for line in status.logs)
        if status.state is JobState.CANCELLED and not begun:
            self._journal.write("cancelled", id_)

    async def _execute(self, job: Job) -> JobOutcome:
        id_ = job.id
        self._journal.write("run", id_)
        if id_ == self._poison:
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(random.Random(id_).uniform(0.005, 0.03))
        return JobOutcome.done({"results": f"the answer to {id_}"})

    async def _ended(self, id_: str) -> None:
        while True:
            status = await self._store.status(KEY, id_)
            assert status, f"{id_} is lost"
            if status.state.is_terminal:
                return
            await asyncio.sleep(RULES.poll_s)


async def always_ready() -> bool:
    """Readiness with a replica at all times."""
    return True


def no_file(name: str) -> None:
    """Jobs here leave no files."""
    raise AssertionError(name)


async def open_in(folder: Path) -> Store:
    """The store in `folder`, as its owner has it."""
    url = f"sqlite:///{folder / 'queue.db'}"
    return await open_store(StoreSettings(url=url), RULES, is_owner=True)


async def live(folder: Path, num: int, max_attempts: int, poison: str | None = None) -> None:
    """One life."""
    store = await open_in(folder)
    journal = Journal(folder)
    await Life(store, journal, num, max_attempts, poison).run()
    journal.close()
    await store.close()


if __name__ == "__main__":
    asyncio.run(live(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]))
