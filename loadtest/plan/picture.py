"""A course as a picture (PNG, SVG, PDF), or as a page with the picture and the figures."""

import html
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deployments.errors import SetupError
from loadtest.plan.question import Answer
from loadtest.plan.table import ROWS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = (".png", ".svg", ".pdf", ".html")
BLUE, ORANGE, GREY, GREEN = "#2f6fb0", "#d9822b", "#9aa3ad", "#3f8f5b"
COLUMNS = 60  # of the waiting times
STYLE = "font-family:sans-serif;max-width:60em;margin:2em auto;color:#222"


def check(file: Path) -> None:
    """Do nothing where a picture can be drawn to `file`.

    Raises:
        SetupError: it is none of the kinds, its folder is missing, or matplotlib is.
    """
    if file.suffix.lower() not in KINDS:
        raise SetupError(f"--out {file}: the name must end with {', '.join(KINDS)}")
    if not file.absolute().parent.is_dir():
        raise SetupError(f"--out {file}: there is no folder {file.absolute().parent}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise SetupError(
            "--out needs matplotlib: install the extra, pip install 'florence-serve[loadtest]'"
        ) from None


def write(answer: Answer, file: Path) -> None:
    """Draw to `file`, whose name says the kind.

    Raises:
        SetupError: it cannot be written.
    """
    figure = draw(answer)
    try:
        if file.suffix.lower() == ".html":
            file.write_text(page(answer, figure))
        else:
            figure.savefig(file, dpi=130)
    except OSError as error:
        raise SetupError(f"cannot write {file} ({error.strerror}): choose another --out") from None


def draw(answer: Answer) -> "Figure":
    """Three charts over one time: who waits, how long, and the replicas."""
    from matplotlib.figure import Figure

    course = answer.course
    unit_s, unit = (60.0, "minutes") if course.ended_s < 3 * 3600 else (3600.0, "hours")
    figure = Figure(figsize=(9, 7), layout="constrained")
    queue, times, replicas = figure.subplots(3, 1, sharex=True, height_ratios=(2, 2, 2))
    at = [moment.at_s / unit_s for moment in course.moments]
    draw_queue(queue, at, answer)
    draw_times(times, unit_s, answer)
    draw_replicas(replicas, at, answer)
    for axes in (queue, times, replicas):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(0, at[-1])
        axes.set_ylim(bottom=0)
    replicas.set_xlabel(unit)
    figure.suptitle(title(answer), fontsize=11)
    return figure


def draw_queue(axes: Any, at: list[float], answer: Answer) -> None:
    """Requests that wait, and those of them that are in the queue."""
    moments = answer.course.moments
    axes.fill_between(at, [m.waiting for m in moments], color=BLUE, alpha=0.25, lw=0, label="all")
    axes.plot(at, [m.queued for m in moments], color=BLUE, lw=1.2, label="in the queue")
    axes.set_ylabel("requests waiting")
    axes.legend(loc="upper right", frameon=False, fontsize=8)


def draw_times(axes: Any, unit_s: float, answer: Answer) -> None:
    """How long those waited that came at a time: the middle one and the 95th of a hundred."""
    begun = [request for request in answer.course.requests if request.has_begun]
    if not begun:
        return
    edges = np.linspace(0, answer.course.ended_s, COLUMNS + 1)
    places = np.digitize([request.arrived for request in begun], edges)
    waited = np.array([request.waited_s for request in begun])
    columns = [place for place in range(1, COLUMNS + 1) if (places == place).any()]
    at = [(edges[place - 1] + edges[place]) / 2 / unit_s for place in columns]
    for percent, colour in ((50, GREEN), (95, ORANGE)):
        values = [np.percentile(waited[places == place], percent) for place in columns]
        axes.plot(at, values, color=colour, marker=".", ms=4, lw=1.2, label=f"p{percent}")
    axes.set_ylabel("seconds until begun,\nby time of arrival")
    axes.legend(loc="upper right", frameon=False, fontsize=8)


def draw_replicas(axes: Any, at: list[float], answer: Answer) -> None:
    """Replicas that answer, those that Serve asks for, and nodes that are paid."""
    moments = answer.course.moments
    up = [m.up for m in moments]
    axes.fill_between(at, up, step="post", color=GREEN, alpha=0.3, lw=0, label="answering")
    axes.step(
        at, [m.target for m in moments], where="post", color=ORANGE, lw=1.2, label="asked for"
    )
    axes.step(
        at, [m.nodes for m in moments], where="post", color=GREY, lw=1, ls="--", label="nodes, paid"
    )
    axes.set_ylabel("replicas")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="upper right", frameon=False, fontsize=8)


def title(answer: Answer) -> str:
    """The picture in a line, and what it was computed from."""
    found = answer.outcome
    return (
        f"{found.answered:,} images · {ROWS['waiting p95'](found)} waiting p95 · "
        f"{found.gpu_hours:.2f} GPU hours · {ROWS['cost per 1,000 images'](found)} per 1,000\n"
        f"{answer.assumed['speed']}"
    )


def page(answer: Answer, figure: "Figure") -> str:
    """A page of one file."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg")
    svg = drawn.getvalue()
    told = [(name, show(answer.outcome)) for name, show in ROWS.items()]
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td align=right>{html.escape(value)}</td></tr>"
        for name, value in [*told, *answer.assumed.items()]
    )
    return (
        "<!doctype html><meta charset=utf-8><title>florence plan</title>"
        f"<body style='{STYLE}'>{svg[svg.index('<svg') :]}<table cellpadding=4>{rows}</table>"
    )
