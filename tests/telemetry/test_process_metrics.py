"""A process records its metrics, whether it has work or not."""

import gc
import threading
import time
import weakref
from collections.abc import Callable

from deployments.telemetry.metrics import PrometheusRecorder
from deployments.telemetry.process_metrics import ProcessMetrics

CPU = 'florence_process_cpu_seconds_total{deployment="Inference"}'


def cpu_s(recorder: PrometheusRecorder) -> float:
    """The processor time that was recorded."""
    lines = recorder.exposition().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(CPU))


def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_the_processor_time_is_that_of_the_process() -> None:
    """All of it, from its start; more when it has worked."""
    recorder = PrometheusRecorder()
    metrics = ProcessMetrics(recorder, "Inference", every_s=60)
    metrics.record()
    first = cpu_s(recorder)
    assert 0 < first <= time.process_time()
    goal = time.process_time() + 0.05
    while time.process_time() < goal:
        sum(range(1000))
    metrics.record()
    assert first + 0.05 <= cpu_s(recorder) <= time.process_time()


def test_it_records_by_itself() -> None:
    """Again and again, on a thread of its own."""
    threads: list[str] = []
    metrics = ProcessMetrics(
        PrometheusRecorder(),
        "Inference",
        lambda: threads.append(threading.current_thread().name),
        every_s=0.001,
    )
    until(lambda: len(threads) > 3)
    assert set(threads) == {"process metrics"}
    assert metrics


def test_a_failure_is_not_the_last_time() -> None:
    """What cannot be recorded now is recorded the next time."""
    calls: list[None] = []

    def collect() -> None:
        calls.append(None)
        raise RuntimeError("not yet")

    metrics = ProcessMetrics(PrometheusRecorder(), "Inference", collect, every_s=0.001)
    until(lambda: len(calls) > 3)
    assert metrics


def test_it_ends_with_its_owner() -> None:
    """An owner that is gone records nothing, and is not kept in memory."""

    class Owner:
        def __init__(self) -> None:
            recorder = PrometheusRecorder()
            self.metrics = ProcessMetrics(recorder, "Inference", self.collect, every_s=0.001)

        def collect(self) -> None:
            """Nothing."""

    owner = Owner()
    gone = weakref.ref(owner)
    del owner

    def is_gone() -> bool:
        gc.collect()
        return gone() is None

    until(is_gone)
