"""What a process tells of itself every two seconds, whether it has work or not.

A thread of its own tells it, so that a process that is stuck still says so.
"""

import threading
import time
import weakref
from collections.abc import Callable

from deployments.telemetry.log import logger
from deployments.telemetry.metrics import Recorder

EVERY_S = 2.0  # Ray forgets a gauge that was not set for two of its reports, of a second or more


class Pulse:
    """Records the processor time of this process, and what `beats` record.

    It beats as long as its owner keeps it.

    Args:
        deployment: the name of the deployment that this process is a replica of.
        beats: called each time, to record what has to be asked for.
    """

    def __init__(
        self,
        recorder: Recorder,
        deployment: str,
        *beats: Callable[[], None],
        every_s: float = EVERY_S,
    ) -> None:
        self._recorder = recorder
        self._deployment = deployment
        self._beats = beats
        self._every_s = every_s
        self._cpu_s = 0.0
        thread = threading.Thread(
            target=keep_beating, args=(weakref.ref(self),), name="pulse", daemon=True
        )
        thread.start()

    def beat(self) -> float:
        """Tell once; returns the seconds until the next time."""
        cpu_s = time.process_time()
        more_s, self._cpu_s = cpu_s - self._cpu_s, cpu_s
        try:
            self._recorder.record(
                "florence_process_cpu_seconds_total", more_s, deployment=self._deployment
            )
            for beat in self._beats:
                beat()
            self._recorder.refresh()
        except Exception as error:  # what cannot be told now is told the next time
            logger.warning("metrics are not recorded", exc_info=error)
        return self._every_s


def keep_beating(pulse: "weakref.ref[Pulse]") -> None:
    """Beat again and again while the pulse is there."""
    while (kept := pulse()) is not None:
        pause_s = kept.beat()
        del kept
        time.sleep(pause_s)
