"""The processes of the service under test, found among those that the tests have started."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

IDLE_S = 0.5  # between two readings of the processor time
IDLE_SHARE = 0.06  # of one core: a replica sends heartbeats, and reports its metrics
DEADLINE_S = 60.0


def replicas(deployment: str, service: psutil.Process | None = None) -> list[psutil.Process]:
    """The replicas of a deployment; `service` is the process that started it, without it this."""
    title = f"ray::ServeReplica:florence:{deployment}"
    members = (service or psutil.Process()).children(recursive=True)
    found = [member for member in members if "".join(member.cmdline()).startswith(title)]
    assert found, f"no process is called {title}"
    return found


def kill(deployment: str) -> None:
    """Kill every replica of a deployment, as the kernel does when memory runs out."""
    for replica in replicas(deployment):
        replica.kill()


@contextmanager
def frozen(deployment: str) -> Iterator[None]:
    """A deployment that does nothing while the block runs."""
    for replica in replicas(deployment):
        replica.suspend()
    try:
        yield
    finally:
        for replica in replicas(deployment):
            replica.resume()


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """The processor time that they have used until now."""
    times = [process.cpu_times() for process in processes]
    return float(sum(each.user + each.system for each in times))


def wait_until_idle(processes: list[psutil.Process]) -> None:
    """Wait until they do nothing."""
    deadline = time.monotonic() + DEADLINE_S
    before = -1.0
    while cpu_seconds(processes) - before > IDLE_SHARE * IDLE_S:
        assert time.monotonic() < deadline, "they are busy all the time"
        before = cpu_seconds(processes)
        time.sleep(IDLE_S)
