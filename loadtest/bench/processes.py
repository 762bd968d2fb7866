"""What the processes of a service cost: processor time and memory. Read from /proc."""

from collections.abc import Mapping
from dataclasses import dataclass

import psutil

MB = 1e6


@dataclass(frozen=True)
class Cost:
    """Processor seconds used so far: of all processes, and of the Inference replicas by thread."""

    total_s: float
    threads_s: Mapping[int, float]

    def inside_since(self, before: "Cost") -> float:
        """Processor seconds of the engine since `before`: its thread is the busiest by far."""
        spent = (now - before.threads_s.get(id_, 0.0) for id_, now in self.threads_s.items())
        return max(spent, default=0.0)

    def outside_since(self, before: "Cost") -> float:
        return self.total_s - before.total_s - self.inside_since(before)


@dataclass(frozen=True)
class Work:
    """What a server has done so far: passes of its model, and processor seconds in it and in all.

    Requests that share a pass count as one, those that share a part of it as that part.
    """

    passes: float
    model_s: float
    total_s: float

    def since(self, before: "Work") -> "Work":
        return Work(
            self.passes - before.passes,
            self.model_s - before.model_s,
            self.total_s - before.total_s,
        )


class ProcessTree:
    """A service's first process and all that it has started."""

    def __init__(self, pid: int) -> None:
        self._first = psutil.Process(pid)

    def cost(self) -> Cost:
        return Cost(sum(map(seconds, self.members())), self._inference_threads())

    def resident_mb(self) -> float:
        """Sum of the resident sets in MB (10^6 bytes); shared pages count in each."""
        return float(sum(member.memory_info().rss for member in self.members()) / MB)

    def proportional_mb(self) -> float:
        """Memory in MB with each shared page counted once."""
        return float(sum(member.memory_full_info().pss for member in self.members()) / MB)

    def by_process(self) -> dict[str, float]:
        sizes = [(title(member), member.memory_info().rss / MB) for member in self.members()]
        return dict(sorted(sizes, key=lambda row: -row[1]))

    def members(self) -> list[psutil.Process]:
        return [self._first, *self._first.children(recursive=True)]

    def _inference_threads(self) -> dict[int, float]:
        replicas = (member for member in self.members() if "Inference" in title(member))
        return {t.id: t.user_time + t.system_time for r in replicas for t in r.threads()}


def seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def title(process: psutil.Process) -> str:
    """A short name: Ray's title for its workers, the program's name for others."""
    first = " ".join(process.cmdline()[:1]) or process.name()
    if not first.startswith("ray::"):
        return f"{process.name()}-{process.pid}"
    return first.split()[0].split(".")[0]  # behind the dot stands what it does at the moment
