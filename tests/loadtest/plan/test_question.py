"""What `florence plan` is asked: loads, machines, and clear words for what cannot be read."""

import json
from pathlib import Path

import numpy as np
import pytest

from deployments.errors import SetupError
from deployments.local.profile import serve_config
from loadtest.plan import arrivals, lengths
from loadtest.plan.deployed import deployed_in
from loadtest.plan.gpus import GPUS
from loadtest.plan.question import Question, answer, requests_of, seconds_in, speed_of

RANDOM = np.random.default_rng(0)


def test_the_deployed_values_are_read_from_the_configuration() -> None:
    """What is planned is what serve_config.yaml deploys."""
    deployed = deployed_in(serve_config())
    scaling = deployed.scaling("Inference")
    pace = deployed.pace(scaling)

    assert (scaling.min_replicas, scaling.max_replicas) == (1, 8)
    assert (scaling.upscale_delay_s, scaling.downscale_delay_s) == (2, 300)
    assert deployed.slots.max_batch_size == deployed.settings.inference.max_batch_size == 32
    assert deployed.max_ongoing("Inference") == 96
    assert (pace.push_s, pace.record_s) == (1.0, 0.4)


def test_random_arrivals_come_at_their_rate() -> None:
    """Within what chance allows, and spread as a Poisson process is."""
    times = [each.at_s for each in arrivals.at_random(20.0, 3600.0, RANDOM)]
    gaps = np.diff(times)
    assert len(times) == pytest.approx(72_000, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.03)


@pytest.mark.slow
def test_a_day_is_busiest_in_the_afternoon() -> None:
    """The highest rate by day, the lowest by night."""
    times = np.array([each.at_s for each in arrivals.daily(1.0, 5.0, 86400.0, RANDOM)])
    by_hour = np.histogram(times, bins=24, range=(0, 86400))[0] / 3600
    assert by_hour[13:15] == pytest.approx(5.0, rel=0.05)
    assert by_hour[1:3] == pytest.approx(1.0, rel=0.1)


def test_a_trace_is_played_as_it_is(tmp_path: Path) -> None:
    """Times, lengths and ways from the file; what it leaves open is drawn."""
    file = tmp_path / "trace.csv"
    file.write_text("seconds,tokens,queued\n5.5,40,no\n2,,yes\n9\n")
    requests, duration_s = requests_of(Question(trace=file, tokens="7", queued=0), 120.0)

    assert [each.arrived for each in requests] == [2.0, 5.5, 9.0]
    assert [each.tokens for each in requests] == [7, 40, 7]
    assert [each.is_queued for each in requests] == [True, False, False]
    assert requests[1].deadline == 125.5
    assert duration_s == 9.0


def test_a_mix_has_its_shares() -> None:
    """Weights are shares; a spread is one of the logarithm."""
    drawn = np.array(lengths.draw(lengths.mix_in("10=3,100:0.5=1"), 20_000, RANDOM))
    long = drawn[drawn != 10]
    assert len(long) / len(drawn) == pytest.approx(0.25, abs=0.02)
    assert np.median(long) == pytest.approx(100, rel=0.05)
    assert np.log(long).std() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5h", 5400), ("2d", 172_800)]
)
def test_times_are_read(text: str, seconds: float) -> None:
    """With and without a unit."""
    assert seconds_in("--duration", text) == seconds


def test_a_calibration_goes_before_the_table(tmp_path: Path) -> None:
    """Its figures are taken, it is named, and the price of no card is assumed."""
    file = tmp_path / "calibration.json"
    found = {
        "date": "2026-01-01",
        "device": "measured: here",
        "checkpoint": "demo",
        "step_ms": {"1": 2.0, "8": 4.0},
        "prefill_ms": {"1": 5.0, "2": 8.0},
    }
    file.write_text(json.dumps(found))
    speed, told, card = speed_of(Question(calibrate=file))
    assert (speed.step(8), speed.prefill(1)) == (0.004, 0.005)
    assert told.startswith("measured: here")
    assert card is None


def test_given_times_go_before_all() -> None:
    """A step with and without a part for each answer; an image with and without one for a pass."""
    speed, told, _ = speed_of(Question(step_ms="0.3+0.02", prefill_ms="6"))
    assert speed.step(10) == pytest.approx(0.0005)
    assert speed.prefill(4) == pytest.approx(0.024)
    assert told.startswith("given")
    speed, _, _ = speed_of(Question(step_ms="2", prefill_ms="1+3"))
    assert speed.step(10) == pytest.approx(0.002)
    assert speed.prefill(2) == pytest.approx(0.007)


def test_every_card_says_that_it_is_not_measured() -> None:
    """An estimate is never shown as a measurement, and a price names its source."""
    for name, gpu in GPUS.items():
        assert "not measured" in speed_of(Question(gpu=name))[1]
        assert gpu.priced


def test_an_h200_is_what_was_expected_of_one() -> None:
    """5.4 ms an image; a greedy step of 0.25 ms and 14 µs a row, with a fifth more for beams."""
    speed = GPUS["h200"].speed
    assert speed.prefill(1) == pytest.approx(0.0054, rel=0.02)
    assert speed.step(32) == pytest.approx(1.2 * (0.00025 + 32 * 14e-6), rel=0.05)


WRONG = {
    "unknown card": (Question(gpu="h900"), "h900.*l4.*--step-ms"),
    "unknown way": (Question(arrivals="often"), "even, random or daily"),
    "no load": (Question(rate=0), "--rate"),
    "no time": (Question(duration="soon"), "--duration soon"),
    "no burst": (Question(burst=("many",)), "--burst many.*500@10m"),
    "no length": (Question(tokens="poem"), "--tokens poem.*caption"),
    "no weight": (Question(tokens="40=-1"), "weight"),
    "no step": (Question(step_ms="-1"), "--step-ms"),
    "bounds": (Question(min=4, max=2), "--min 4 is more than --max 2"),
    "peak": (Question(arrivals="daily", rate=5, peak=1), "--peak 1"),
    "too many": (Question(rate=1e6), "shorter --duration"),
    "no trace": (Question(trace=Path("no.csv")), "cannot read no.csv"),
    "no calibration": (Question(calibrate=Path("no.json")), "cannot read no.json"),
    "no config": (Question(config=Path("no.yaml")), "cannot read no.yaml"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_said_in_a_line(name: str) -> None:
    """With the option, and what to write instead."""
    question, said = WRONG[name]
    with pytest.raises(SetupError, match=said):
        answer(question)


@pytest.mark.parametrize("line", ["soon", "-1", "5,many", "5,40,perhaps", "1,2,yes,4"])
def test_a_wrong_line_of_a_trace_is_named(line: str, tmp_path: Path) -> None:
    """By its number."""
    file = tmp_path / "trace.csv"
    file.write_text(f"1\n{line}\n")
    with pytest.raises(SetupError, match="line 2"):
        answer(Question(trace=file))


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"step_ms": {}, "prefill_ms": {}}'])
def test_another_file_is_no_calibration(text: str, tmp_path: Path) -> None:
    """It says how to make one."""
    file = tmp_path / "calibration.json"
    file.write_text(text)
    with pytest.raises(SetupError, match=r"loadtest\.plan\.calibrate"):
        answer(Question(calibrate=file))
