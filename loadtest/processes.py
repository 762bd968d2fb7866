"""What the processes of a service cost: processor time and memory. Reads /proc, asks nobody."""

from dataclasses import dataclass

import psutil

MB = 1e6


@dataclass(frozen=True)
class Cost:
    """Processor seconds used so far, of all processes and of the engine thread alone."""

    total_s: float
    engine_s: float

    def outside_since(self, before: "Cost") -> float:
        """Processor seconds spent outside the model since `before`."""
        return (self.total_s - before.total_s) - (self.engine_s - before.engine_s)


class Family:
    """A service's first process and all that it has started."""

    def __init__(self, pid: int) -> None:
        self._first = psutil.Process(pid)

    def cost(self) -> Cost:
        """Processor time of the living members until now."""
        total = sum(seconds(member) for member in self._members())
        return Cost(total, self._engine_seconds())

    def resident_mb(self) -> float:
        """Sum of the resident sets in MB (10^6 bytes); shared pages count in each."""
        return float(sum(member.memory_info().rss for member in self._members()) / MB)

    def proportional_mb(self) -> float:
        """Memory in MB with each shared page counted once."""
        return float(sum(member.memory_full_info().pss for member in self._members()) / MB)

    def by_process(self) -> dict[str, float]:
        """Resident MB of each member, largest first."""
        sizes = [(title(member), member.memory_info().rss / MB) for member in self._members()]
        return dict(sorted(sizes, key=lambda row: -row[1]))

    def _members(self) -> list[psutil.Process]:
        return [self._first, *self._first.children(recursive=True)]

    def _engine_seconds(self) -> float:
        """Processor time of the busiest thread of the Inference replicas: the engine's."""
        replicas = (member for member in self._members() if "Inference" in title(member))
        return sum(max(t.user_time + t.system_time for t in r.threads()) for r in replicas)


def seconds(process: psutil.Process) -> float:
    """Processor time of one process."""
    times = process.cpu_times()
    return float(times.user + times.system)


def title(process: psutil.Process) -> str:
    """A short name: Ray's title for its workers, the program's name for others."""
    first = " ".join(process.cmdline()[:1]) or process.name()
    return first.split()[0] if first.startswith("ray::") else f"{process.name()}-{process.pid}"
