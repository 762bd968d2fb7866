"""Metrics of a process, recorded every two seconds by a thread of their own.

So a process without work, or one that is stuck, is still seen.
"""

import threading
import time
import weakref
from collections.abc import Callable

from deployments.telemetry.log import logger
from deployments.telemetry.metrics import Recorder

EVERY_S = 2.0  # Ray forgets a gauge that was not set for two of its reports, of a second or more


class ProcessMetrics:
    """Records the processor time of this process, and calls `collectors`.

    Its thread ends when the owner drops it.

    Args:
        deployment: the name of the deployment that this process is a replica of.
        collectors: record what has to be asked for each time.
    """

    def __init__(
        self,
        recorder: Recorder,
        deployment: str,
        *collectors: Callable[[], None],
        every_s: float = EVERY_S,
    ) -> None:
        self._recorder = recorder
        self._deployment = deployment
        self._collectors = collectors
        self._every_s = every_s
        self._cpu_s = 0.0
        threading.Thread(
            target=record_forever, args=(weakref.ref(self),), name="process metrics", daemon=True
        ).start()

    def record(self) -> float:
        """Record once; returns the seconds until the next time."""
        cpu_s = time.process_time()
        more_s, self._cpu_s = cpu_s - self._cpu_s, cpu_s
        try:
            self._recorder.record(
                "florence_process_cpu_seconds_total", more_s, deployment=self._deployment
            )
            for collect in self._collectors:
                collect()
            self._recorder.refresh()
        except Exception as error:  # the next time records it
            logger.warning("metrics are not recorded", exc_info=error)
        return self._every_s


def record_forever(metrics: "weakref.ref[ProcessMetrics]") -> None:
    """Record again and again until the owner has dropped `metrics`."""
    while (kept := metrics()) is not None:
        pause_s = kept.record()
        del kept
        time.sleep(pause_s)
