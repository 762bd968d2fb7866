"""Which cores the engine and the others use."""

import subprocess
import sys

import pytest

from deployments.florence.cpu_affinity import allowed, reserve_cores, use_all_cores


def cores_of_a_child() -> set[int]:
    """What a process started now may use."""
    code = "import os; print(*os.sched_getaffinity(0))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return set(map(int, done.stdout.split()))


def test_children_keep_off_the_engines_cores() -> None:
    """A process started inside the block has one core less, if there is more than one."""
    before = allowed()
    with reserve_cores(1):
        child = cores_of_a_child()

    assert len(child) == max(1, len(before) - 1)
    assert allowed() == before


@pytest.mark.parametrize("num", [0, 10_000])
def test_nothing_changes_where_nothing_can_be_left(num: int) -> None:
    """No core to leave, or more than there are: all processes use all."""
    with reserve_cores(num):
        assert cores_of_a_child() == allowed()


def test_the_engine_takes_every_core_again() -> None:
    """Inside the block the engine frees itself."""
    before = allowed()
    with reserve_cores(1):
        use_all_cores()
        assert allowed() >= before
