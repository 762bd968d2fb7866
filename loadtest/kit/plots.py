"""The plots of a report as SVG, drawn by matplotlib without a screen."""

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.kit.analysis import NAN, OUTSIDE, Analysis
from loadtest.kit.record import Outcome, Record

# Okabe and Ito's colours, which people tell apart however they see colours
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8F8A00", "#444444")
RED, GREY = "#B3261E", "#9A9A9A"
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "svg.fonttype": "none",
}
WIDTH = 10.0  # inches
MAX_KINDS = 8
NUM_WINDOWS = 40
SHARES = (0.5, 0.9, 0.95, 0.99, 0.999, 0.9999)
WIDE = 20  # a longest latency of so many medians needs a logarithm
DOT_DPI = 150


@dataclass(frozen=True)
class Plot:
    """A plot, and what it shows."""

    name: str
    caption: str
    svg: str


def plots(analysis: Analysis) -> list[Plot]:
    """Those that the run has something to show in."""
    found = [drawn(*row, analysis) for row in ROWS if row[1](analysis)]
    return [plot for plot in found if plot]


def drawn(
    name: str,
    _has: Callable[[Analysis], bool],
    caption: str,
    draw: Callable[[Analysis], Figure],
    analysis: Analysis,
) -> Plot:
    """One plot as SVG, without what stands before its first tag."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        buffer = io.StringIO()
        draw(analysis).savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    svg = re.sub(r"^.*?(?=<svg)", "", buffer.getvalue(), flags=re.DOTALL)
    return Plot(name, caption, svg.replace("<svg ", f'<svg role="img" aria-label="{caption}" ', 1))


def over_time(analysis: Analysis) -> Figure:
    """A dot for each good answer at its scheduled arrival; lines for p50 and p95."""
    figure, axes = canvas(3.6)
    for colour, (kind, found) in zip(COLOURS, top_kinds(analysis), strict=False):
        x, y = [r.at_s for r in found.good], [r.latency_s for r in found.good]
        axes.scatter(x, y, 9, colour, alpha=0.45, linewidths=0, label=kind, rasterized=True)
    for percent, style in ((50, "-"), (95, "--")):
        x, y = line_of(analysis, percent)
        axes.plot(x, y, style, color="#222", lw=1.4, marker=".", ms=4, label=f"p{percent}")
    bad = [r for r in analysis.records if r.outcome is Outcome.FAILED]
    if bad:
        at, took = [r.at_s for r in bad], [r.latency_s for r in bad]
        axes.scatter(at, took, 26, RED, marker="x", linewidths=1.2, label="failed")
    scale_latency(axes, analysis)
    label(axes, "Latency over time", "scheduled arrival, s", "latency, s")
    return figure


def percentiles(analysis: Analysis) -> Figure:
    """How long the slowest share of the answers took, the tail drawn out."""
    figure, axes = canvas(3.4)
    for colour, (kind, found) in zip(COLOURS, top_kinds(analysis), strict=False):
        values = np.sort([record.latency_s for record in found.good])
        if len(values):
            rest = 1 - np.arange(len(values)) / len(values)  # at least as slow
            axes.step(1 / rest, values, where="post", color=colour, lw=1.8, label=kind)
    axes.set_xscale("log")
    most = max(10.0, 1.2 * len(analysis.good))
    shown = [share for share in SHARES if 1 / (1 - share) <= most]
    axes.set_xticks([1 / (1 - s) for s in shown], [f"p{100 * s:g}" for s in shown])
    axes.set_xticks([], minor=True)
    axes.set_xlim(1, most)
    scale_latency(axes, analysis)
    label(axes, "Percentiles", "", "latency, s")
    return figure


def rates(analysis: Analysis) -> Figure:
    """Arrivals and good answers per second; below, how many were under way."""
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    arrivals = [record.at_s for record in analysis.records]
    ends = [record.end_s for record in analysis.good]
    edges = windows(analysis)
    for times, colour, name in ((arrivals, GREY, "arrivals"), (ends, COLOURS[0], "good answers")):
        upper.stairs(per_second(times, edges), edges, color=colour, lw=1.8, label=name)
    others = [record.end_s for record in analysis.records if record.outcome is not Outcome.OK]
    if others:
        upper.stairs(per_second(others, edges), edges, color=RED, lw=1.4, label="refused or failed")
    upper.set_ylim(bottom=0)
    lower.step(*under_way(analysis.records), where="post", color=COLOURS[5], lw=1.2)
    lower.set_ylim(bottom=0)
    label(upper, "Arrivals and answers", "", "per second")
    label(lower, "Under way", "s from the start", "requests")
    return figure


def stages(analysis: Analysis) -> Figure:
    """A bar for each kind of call: where its mean latency went."""
    kinds = [(kind, found.stages()) for kind, found in top_kinds(analysis)]
    kinds = [(kind, split) for kind, split in kinds if split]
    names = list(dict.fromkeys(name for _, split in kinds for name in split if name != OUTSIDE))
    colours = dict(zip(names, COLOURS * 2, strict=False)) | {OUTSIDE: "#C9C9C9"}
    figure, axes = canvas(1.2 + 0.45 * len(kinds))
    lefts = np.zeros(len(kinds))
    for name, colour in colours.items():
        means = [1000 * split[name].mean if name in split else 0.0 for _, split in kinds]
        axes.barh([kind for kind, _ in kinds], means, 0.62, lefts, color=colour, label=name)
        lefts += means
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    label(axes, "Where the time went, on average", "ms", "")
    return figure


def canvas(height: float) -> tuple[Figure, Axes]:
    """An empty plot of this height in inches."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained", dpi=DOT_DPI)
    return figure, figure.add_subplot()


def label(axes: Axes, title: str, x: str, y: str) -> None:
    """Name everything, the lines at the right where they hide nothing."""
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def scale_latency(axes: Axes, analysis: Analysis) -> None:
    """A logarithm where some answers are very much slower than most."""
    spread = analysis.latency
    if spread.most > WIDE * max(spread.p50, 1e-9):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(bottom=0)


def top_kinds(analysis: Analysis) -> list[tuple[str, Analysis]]:
    """As many kinds of calls as can be told apart."""
    return list(analysis.kinds().items())[:MAX_KINDS]


def windows(analysis: Analysis) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The edges of equal windows from the start to the last end, of a second at least."""
    end = max([analysis.duration_s, *(record.end_s for record in analysis.records)])
    return np.linspace(0, end, max(1, min(NUM_WINDOWS, math.floor(end))) + 1)


def per_second(
    times: Sequence[float], edges: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """How many of the times fall into each window, by its length."""
    counts, _ = np.histogram(times, edges)
    rate: np.ndarray[tuple[int], np.dtype[np.float64]] = counts / np.diff(edges)
    return rate


def line_of(analysis: Analysis, percent: float) -> tuple[list[float], list[float]]:
    """A percentile of the latencies in each window of arrivals, at the window's middle.

    Not a number where a window is empty, so that no line leads over it.
    """
    edges = np.linspace(0, analysis.duration_s, windows(analysis).size)
    at = np.array([record.at_s for record in analysis.good])
    took = np.array([record.latency_s for record in analysis.good])
    inside = [took[(at >= a) & (at < b)] for a, b in pairwise(edges)]
    middles = [float(middle) for middle in (edges[:-1] + edges[1:]) / 2]
    return middles, [float(np.percentile(v, percent)) if v.size else NAN for v in inside]


def under_way(records: Sequence[Record]) -> tuple[list[float], list[int]]:
    """How many requests had arrived and not ended, each time that changed."""
    changes = sorted([(r.at_s, 1) for r in records] + [(r.end_s, -1) for r in records])
    counts = np.cumsum([change for _, change in changes])
    return [0.0, *(at for at, _ in changes)], [0, *(int(count) for count in counts)]


def has_good(analysis: Analysis) -> bool:
    """Whether there is a latency to show."""
    return bool(analysis.good)


def has_records(analysis: Analysis) -> bool:
    """Whether anything arrived."""
    return bool(analysis.records)


def has_stages(analysis: Analysis) -> bool:
    """Whether any answer says where its time went."""
    return bool(analysis.stages())


ROWS = (
    (
        "latency",
        has_good,
        "Each good answer, counted from its scheduled arrival, by when it was due.",
        over_time,
    ),
    (
        "percentiles",
        has_good,
        "The share of answers that were at most so slow; the tail is drawn out.",
        percentiles,
    ),
    (
        "rates",
        has_records,
        "What arrived against what was answered; where they part, a queue grows.",
        rates,
    ),
    (
        "stages",
        has_stages,
        "Mean latency by the server's stages; outside are network, proxies, the Ingress and polls.",
        stages,
    ),
)
