"""The simulated replica beside the real engine, on the same arrivals."""

from pathlib import Path

import pytest

from loadtest.checkpoint import bench_checkpoint
from loadtest.plan.calibrate import Bench
from loadtest.plan.check import compare, speed_of
from loadtest.plan.replay import MEAN_TOKENS, play, requests_of, simulate

SLOTS = 4


@pytest.mark.slow
def test_the_engine_takes_about_as_long_as_its_simulation(tmp_path: Path) -> None:
    """Calibrated just before, in processor time: no figure is off by half, in either direction."""
    bench = Bench(bench_checkpoint(tmp_path), "cpu", round(MEAN_TOKENS), SLOTS)
    speed = speed_of([bench.measure(3)])
    rate = 0.6 * speed.images_per_s(SLOTS, MEAN_TOKENS, bench.engine.micro_batch)
    asked = requests_of(40, rate, 20, seed=0)
    measured = play(bench, asked)
    simulated = simulate(speed, SLOTS, bench.engine.micro_batch, asked)

    assert len(measured) == len(simulated) == len(asked)
    off = {name: row["deviation"] for name, row in compare(measured, simulated).items()}
    assert {name: by for name, by in off.items() if not -1 / 3 < by < 0.5} == {}
