"""How busy the machine is, and how much of that is none of what is measured."""

import os
import time
from dataclasses import dataclass, field

import psutil


def busy_s() -> float:
    """Processor seconds that the machine has spent on anything since it was started."""
    times = psutil.cpu_times()  # on Linux, time of guests is part of the user's
    idle = times.idle + getattr(times, "iowait", 0.0) + getattr(times, "guest", 0.0)
    return float(sum(times) - idle - getattr(times, "guest_nice", 0.0))


@dataclass(frozen=True)
class MachineTime:
    """Wall time, the machine's processor time and that of this process, in seconds."""

    wall_s: float = field(default_factory=time.perf_counter)
    busy_s: float = field(default_factory=busy_s)
    own_s: float = field(default_factory=time.process_time)

    def taken_by_others(self, server_s: float) -> float:
        """The share of the machine that others took since, when the server took `server_s`."""
        others = busy_s() - self.busy_s - (time.process_time() - self.own_s) - server_s
        whole = (time.perf_counter() - self.wall_s) * (os.cpu_count() or 1)
        return max(0.0, others / whole)
