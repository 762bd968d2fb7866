"""Simulate the autoscaling under a load: `python -m loadtest.plan`.

    python -m loadtest.plan --rate 20 --burst 2000@20m --duration 1h --out plan.png

The deployed values are those of serve_config.yaml. The default speed is an estimate for
Florence-2-large with three beams on an H200, not a measurement.
"""

import argparse
import sys
from itertools import chain
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from loadtest.plan import outcome
from loadtest.plan.replica import Speed
from loadtest.plan.request import poisson, requests_at
from loadtest.plan.service import NODE_START_S, deployed
from loadtest.plan.simulation import Course, Simulation
from loadtest.units import bound, number, seconds

DEADLINE_S = 120.0  # of a run


def two(text: str) -> tuple[float, float]:
    """`A+B` as two numbers; B is 0 in `A`.

    Raises:
        ArgumentTypeError: it is neither.
    """
    first, _, second = text.partition("+")
    return bound(first), bound(second or "0")


def burst(text: str) -> tuple[int, float]:
    """`SIZE@WHEN` as a number and seconds.

    Raises:
        ArgumentTypeError: it is none.
    """
    size, _, at = text.partition("@")
    return number(size), seconds(at)


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m loadtest.plan", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--rate", type=bound, default=1.0, help="requests a second, at random times")
    add("--duration", type=seconds, default=3600.0, metavar="TIME", help="such as 40m or 1h")
    add("--burst", type=burst, action="append", default=[], metavar="SIZE@WHEN")
    add("--queued", type=bound, default=1.0, metavar="SHARE", help="that come through the queue")
    add("--tokens", type=two, default=(60.0, 0.8), metavar="MEDIAN+SPREAD", help="of an answer")
    add("--step-ms", type=two, default=(0.3, 0.016), metavar="STEP+SEQUENCE", help="of a step")
    add("--image-ms", type=bound, default=5.4, metavar="MS", help="an image in the encoder")
    add("--max-replicas", type=number, metavar="N", help="the deployed value by default")
    add("--node-start", type=seconds, default=NODE_START_S, metavar="TIME")
    add("--out", metavar="FILE", help="a plot: .png, .svg or .pdf")
    return parser


def main() -> None:
    options = command_line().parse_args()
    random = np.random.default_rng(0)
    runs = poisson(options.rate, options.duration, random)
    queued = random.random(len(runs)) < options.queued
    bursts = [(at_s, True) for size, at_s in options.burst for _ in range(size)]
    times = chain(zip(runs, map(bool, queued), strict=True), bursts)
    requests = requests_at(times, options.tokens, DEADLINE_S, random)
    if not requests:
        sys.exit("no request comes: give a --rate or a --burst")
    step_s, sequence_s = (each / 1000 for each in options.step_ms)
    speed = Speed(step_s, sequence_s, options.image_ms / 1000)
    service = deployed(speed, options.node_start, max_replicas=options.max_replicas)
    course = Simulation(service, requests, options.duration).run()
    shown = Table("", "")
    for name, value in outcome.table(course).items():
        shown.add_row(name, value)
    Console().print(shown)
    if options.out:
        plot(course).savefig(options.out, dpi=130)


def plot(course: Course) -> Figure:
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes: Any = figure.subplots(2, 1, sharex=True)
    at = [snapshot.at_s / 60 for snapshot in course.snapshots]
    axes[0].plot(at, [snapshot.waiting for snapshot in course.snapshots], label="all")
    axes[0].plot(at, [snapshot.queued for snapshot in course.snapshots], label="in the queue")
    axes[0].set_ylabel("requests waiting")
    for name, label in (("up", "up"), ("target", "asked for"), ("nodes", "nodes, paid")):
        values = [getattr(snapshot, name) for snapshot in course.snapshots]
        axes[1].step(at, values, where="post", label=label)
    axes[1].set_ylabel("replicas")
    axes[1].set_xlabel("minutes")
    for each in axes:
        each.set_ylim(bottom=0)
        each.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
