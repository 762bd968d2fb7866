"""What `florence plan` was asked, and the service and the requests that it means."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deployments.errors import SetupError
from deployments.local.profile import serve_config
from loadtest.plan import arrivals, lengths
from loadtest.plan.arrivals import Arrival, Burst
from loadtest.plan.cluster import NodeType
from loadtest.plan.deployed import Deployed, deployed_in
from loadtest.plan.fleet import Model
from loadtest.plan.gpus import Gpu, gpu_named
from loadtest.plan.outcome import Outcome, outcome
from loadtest.plan.request import Request
from loadtest.plan.scaling import Scaling
from loadtest.plan.simulation import Course, Service, Simulation
from loadtest.plan.speed import Curve, Speed

MOST_REQUESTS = 5_000_000
UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
DURATION = re.compile(r"(\d+\.?\d*)([smhd]?)")
LINE = re.compile(r"(?:(\d*\.?\d+)\+)?(\d*\.?\d+)")


@dataclass(frozen=True)
class Question:
    """The options, under their names; None leaves a value as it is deployed."""

    rate: float = 1.0
    arrivals: str = "random"
    peak: float | None = None
    duration: str = "1h"
    burst: tuple[str, ...] = ()
    trace: Path | None = None
    queued: float = 1.0
    tokens: str = "region-proposal"
    gpu: str = "h200"
    step_ms: str | None = None
    prefill_ms: str | None = None
    calibrate: Path | None = None
    price: float | None = None
    min: int | None = None
    max: int | None = None
    target: float | None = None
    upscale_delay: float | None = None
    downscale_delay: float | None = None
    slots: int | None = None
    node_start: float = 180.0
    replica_start: float = 40.0
    idle_timeout: float = 60.0
    gpus_per_node: int = 1
    outside_ms: float = 30.0
    config: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """A simulated course, its figures, and in words what they were computed from."""

    question: Question
    course: Course
    outcome: Outcome
    assumed: dict[str, str]


def answer(question: Question) -> Answer:
    """Simulate what was asked.

    Raises:
        SetupError: an option is wrong.
    """
    deployed = deployed_in(question.config or serve_config())
    speed, told, known = speed_of(question)
    price = question.price if question.price is not None else known.price if known else 0.0
    service = service_of(question, deployed, speed)
    requests, duration_s = requests_of(question, deployed.settings.ingress.deadline_s)
    course = Simulation(service, requests, duration_s, question.seed).run()
    begins = min((burst.at_s for burst in bursts_of(question)), default=requests[0].arrived)
    assumed = {
        "speed": told,
        "price": f"{price:g} $/GPU·h ({priced(question, known)})",
        "deployed": str((question.config or serve_config()).name),
    }
    return Answer(question, course, outcome(course, price, begins), assumed)


def priced(question: Question, known: Gpu | None) -> str:
    """Where the price is from."""
    if question.price is not None:
        return "given"
    return f"an example: {known.priced}" if known else "none was given"


def speed_of(question: Question) -> tuple[Speed, str, Gpu | None]:
    """The model's speed, where that is from, and the card unless the speed is another's.

    Raises:
        SetupError: there is no such card, or an option or file cannot be read.
    """
    known = gpu_named(question.gpu) if question.calibrate is None else None
    if question.calibrate is not None:
        speed, told = calibrated(question.calibrate)
    else:
        assert known is not None
        speed, told = known.speed, f"{known.name}, estimated from its data sheet, not measured"
    if question.step_ms is not None:
        base, each = line_in("--step-ms", question.step_ms)
        speed = replace(speed, step=Curve.straight(base, each or 0.0))
    if question.prefill_ms is not None:
        base, each = line_in("--prefill-ms", question.prefill_ms)
        line = Curve.straight(base, each) if each is not None else Curve.straight(0.0, base)
        speed = replace(speed, prefill=line)
    if question.step_ms is not None or question.prefill_ms is not None:
        told = f"given, else {told}"
    return speed, told, known


def line_in(option: str, text: str) -> tuple[float, float | None]:
    """Seconds in `A` or `A+B` milliseconds.

    Raises:
        SetupError: it is neither, or takes no time.
    """
    found = LINE.fullmatch(text.replace(" ", ""))
    if not found or float(found[1] or 0) + float(found[2]) <= 0:
        raise SetupError(f"{option} {text}: write milliseconds as A or A+B, such as 0.3+0.02")
    if found[1] is None:
        return float(found[2]) / 1000, None
    return float(found[1]) / 1000, float(found[2]) / 1000


def calibrated(file: Path) -> tuple[Speed, str]:
    """What `python -m loadtest.plan.calibrate` measured.

    Raises:
        SetupError: it cannot be read, or is no such file.
    """
    try:
        found: Any = json.loads(file.read_text())
        curves = [
            Curve.measured_ms({int(number): float(ms) for number, ms in found[key].items()})
            for key in ("step_ms", "prefill_ms")
        ]
        if not all(curve.points and curve.points[0][1] > 0 for curve in curves):
            raise ValueError(file)
        return Speed(*curves), f"{found['device']}, {found['checkpoint']}, {found['date']}"
    except OSError as error:
        raise SetupError(f"cannot read {file} ({error.strerror}): --calibrate is a file") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SetupError(
            f"{file} holds no calibration: make one with `python -m loadtest.plan.calibrate`"
        ) from None


def service_of(question: Question, deployed: Deployed, speed: Speed) -> Service:
    """The service as it is deployed, with what was asked laid over it.

    Raises:
        SetupError: bounds are the wrong way round.
    """
    scaling = scaling_of(question, deployed.scaling("Inference"))
    slots = deployed.slots
    if question.slots is not None:
        slots = replace(slots, max_batch_size=question.slots)
    model = Model(speed, slots, question.replica_start, deployed.max_ongoing("Inference"))
    return Service(
        inference=deployed.box("Inference", scaling),
        dispatcher=deployed.box("Dispatcher"),
        model=model,
        node=NodeType(question.gpus_per_node, question.node_start, question.idle_timeout),
        window=deployed.settings.queue.max_running,
        outside_s=question.outside_ms / 1000,
    )


def scaling_of(question: Question, deployed: Scaling) -> Scaling:
    """Within which values the model is scaled.

    Raises:
        SetupError: the least is more than the most.
    """
    given = {
        "min_replicas": question.min,
        "max_replicas": question.max,
        "target_ongoing_requests": question.target,
        "upscale_delay_s": question.upscale_delay,
        "downscale_delay_s": question.downscale_delay,
    }
    asked: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    scaling = replace(deployed, **asked)
    if scaling.min_replicas > scaling.max_replicas:
        raise SetupError(
            f"--min {scaling.min_replicas} is more than --max {scaling.max_replicas}: "
            "give a larger --max"
        )
    return scaling


def requests_of(question: Question, deadline_s: float) -> tuple[list[Request], float]:
    """The requests in the order of their arrival, and for how long they come.

    Raises:
        SetupError: there are none or too many, or an option cannot be read.
    """
    random = np.random.default_rng(question.seed)
    duration_s = seconds_in("--duration", question.duration)
    if question.rate * duration_s + (question.peak or 0) * duration_s > MOST_REQUESTS:
        raise SetupError(f"more than {MOST_REQUESTS:,} requests: give a shorter --duration")
    arrived = arrivals_of(question, duration_s, random)
    if not arrived:
        raise SetupError("no request comes: give a --rate, a --burst or a --trace")
    drawn = lengths.draw(lengths.mix_in(question.tokens), len(arrived), random)
    is_queued = random.random(len(arrived)) < question.queued
    requests = [
        request_of(each, tokens, bool(queued), deadline_s)
        for each, tokens, queued in zip(arrived, drawn, is_queued, strict=True)
    ]
    return requests, max(duration_s if question.trace is None else 0.0, requests[-1].arrived)


def request_of(arrival: Arrival, tokens: int, is_queued: bool, deadline_s: float) -> Request:
    """A request with what its arrival leaves open; a synchronous one is given up in time."""
    queued = is_queued if arrival.is_queued is None else arrival.is_queued
    deadline = float("inf") if queued else arrival.at_s + deadline_s
    return Request(arrival.at_s, arrival.tokens or tokens, queued, deadline)


def arrivals_of(
    question: Question, duration_s: float, random: np.random.Generator
) -> list[Arrival]:
    """When requests come.

    Raises:
        SetupError: there is no such way to arrive, or a file or burst cannot be read.
    """
    if question.trace is not None:
        steady = arrivals.in_file(question.trace)
    elif question.arrivals == "even":
        steady = arrivals.evenly(question.rate, duration_s)
    elif question.arrivals == "random":
        steady = arrivals.at_random(question.rate, duration_s, random)
    elif question.arrivals == "daily":
        high = question.peak if question.peak is not None else 4 * question.rate
        if high < question.rate:
            raise SetupError(f"--peak {high:g} is less than --rate, which is that of the night")
        steady = arrivals.daily(question.rate, high, duration_s, random)
    else:
        raise SetupError(f"--arrivals {question.arrivals}: write even, random or daily")
    return sorted([*steady, *arrivals.bursts(bursts_of(question))], key=lambda each: each.at_s)


def bursts_of(question: Question) -> Sequence[Burst]:
    """The bursts, as `SIZE` or `SIZE@WHEN`.

    Raises:
        SetupError: one cannot be read.
    """
    found = []
    for text in question.burst:
        size, _, at = text.partition("@")
        if not size.isdecimal() or not 0 < int(size) <= MOST_REQUESTS:
            raise SetupError(f"--burst {text}: write SIZE or SIZE@WHEN, such as 500@10m")
        found.append(Burst(int(size), seconds_in("--burst", at or "0")))
    return found


def seconds_in(option: str, text: str) -> float:
    """Seconds in `90`, `90s`, `15m`, `1.5h` or `1d`.

    Raises:
        SetupError: it is none of these.
    """
    found = DURATION.fullmatch(text)
    if not found:
        raise SetupError(f"{option} {text}: write a time such as 90, 15m, 1h or 1d")
    return float(found[1]) * UNITS[found[2]]
