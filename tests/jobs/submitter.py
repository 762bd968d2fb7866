"""A process that submits until it is killed, and records the acknowledged ids.

python -m tests.jobs.submitter STORE NOTES
"""

import asyncio
import os
import sys
from pathlib import Path

from deployments.jobs.job import Submission
from deployments.jobs.sqlite import SqliteStore
from deployments.settings import QueueSettings

KEY = "key"
NUM_PRODUCERS = 8


async def produce(store: SqliteStore, notes: int, producer: int) -> None:
    """Submit one job after the other; each id is recorded after its submit returned."""
    num = 0
    while True:
        num += 1
        id_ = f"{os.getpid()}-{producer}-{num}"
        await store.submit(Submission(id=id_, key_id=KEY, path="caption", input="{}"))
        os.write(notes, f"{id_}\n".encode())


async def main(file: Path, noted: Path) -> None:
    """Run several producers on one store."""
    store = SqliteStore.open(file, QueueSettings(), is_owner=True)
    notes = os.open(noted, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
    await asyncio.gather(*(produce(store, notes, n) for n in range(NUM_PRODUCERS)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
