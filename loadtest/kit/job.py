"""What a generator process is told on its standard input."""

from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from loadtest.kit.plan import Plan


class Role(StrEnum):
    """What a process does for the others."""

    ALONE = "alone"  # makes all arrivals
    MASTER = "master"  # tells workers of the plan, and gathers what they record
    WORKER = "worker"  # makes its share


class Job(BaseModel):
    """A process's part in a run.

    `plan` and `out`, the file for the records, are needed by all but a worker; a worker has its
    plan from the master at `host:port`.
    """

    model_config = ConfigDict(frozen=True)

    role: Role
    plan: Plan | None = None
    out: Path | None = None
    host: str = "127.0.0.1"
    port: int = 5557
    num_workers: int = 1
    receiver: str | None = None  # host:port of this process's receiver, as the service reaches it
