"""`florence plan` on the command line: tables, charts, JSON, pictures, and errors in one line."""

import io
import itertools
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from deployments.errors import SetupError
from loadtest.plan.chart import bars, spread, steps
from loadtest.plan.command import show
from loadtest.plan.outcome import most_within, turns
from loadtest.plan.question import Question
from loadtest.plan.simulation import Decision

SHORT = Question(rate=2.0, duration="3m", burst=("200@1m",), gpu="l4", node_start=20.0)


def shown(
    question: Question = SHORT,
    out: Path | None = None,
    compare: str | None = None,
    as_json: bool = False,
) -> str:
    """What is printed."""
    console = Console(file=io.StringIO(), width=90)
    show(question, out, compare, as_json, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_table_and_charts_are_printed() -> None:
    """The figures, both charts, and what they were computed from."""
    text = shown()
    for part in ("waiting p95", "GPU hours", "cost per 1,000 images", "changes of direction"):
        assert part in text
    assert "█" in text
    assert "not measured" in text
    assert max(map(len, text.splitlines())) <= 90


def test_json_has_the_figures_and_the_course() -> None:
    """As numbers, with the options that were given."""
    told = json.loads(shown(as_json=True))
    assert told["figures"]["answered"] == told["figures"]["requests"] > 400
    assert told["asked"]["gpu"] == "l4"
    assert "step_ms" not in told["asked"]
    assert max(moment["up"] for moment in told["moments"]) == told["figures"]["replicas_max"]


def test_values_are_compared_side_by_side() -> None:
    """A column for each, and more replicas where each may have fewer requests."""
    text = shown(compare="target=4,64")
    assert "target 4.0" in text
    assert "target 64.0" in text
    low, high = json.loads(shown(compare="target=4,64", as_json=True))
    assert low["figures"]["replicas_max"] > high["figures"]["replicas_max"]


@pytest.mark.parametrize("text", ["speed=1", "target", "target=many", "max=-1", "target=-3"])
def test_what_cannot_be_compared_is_said(text: str) -> None:
    """With what could be."""
    with pytest.raises(SetupError, match="--compare"):
        shown(compare=text)


@pytest.mark.parametrize(
    ("name", "begins"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.html", b"<!doctype")]
)
def test_a_picture_is_drawn(name: str, begins: bytes, tmp_path: Path) -> None:
    """Of the kind that the name says."""
    pytest.importorskip("matplotlib")
    shown(out=tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_a_page_has_the_figures(tmp_path: Path) -> None:
    """And the picture, in one file."""
    pytest.importorskip("matplotlib")
    shown(out=tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert "<svg" in page
    assert "cost per 1,000 images" in page


@pytest.mark.parametrize("name", ["a.gif", "no/a.png"])
def test_a_picture_that_cannot_be_drawn_is_said_first(name: str, tmp_path: Path) -> None:
    """Before anything is simulated."""
    with pytest.raises(SetupError, match="--out"):
        shown(Question(rate=1e4), out=tmp_path / name)


def test_without_matplotlib_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installation without it can still print tables."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SetupError, match=r"florence-serve\[loadtest\]"):
        shown(out=tmp_path / "a.png")


def test_the_largest_value_reaches_the_top() -> None:
    """What is not nothing is seen, and nothing is not."""
    top, *_, bottom = bars([0, 1, 1000], 4)
    assert top.endswith("  █")
    assert bottom.endswith(" ▁█")
    assert steps([1, 2], [2, 2])[0].endswith("░█")
    assert spread([1, 9, 2, 3], 2) == [9, 3]
    assert spread([5, 6], 4) == [5, 5, 6, 6]


def test_a_turn_is_a_step_the_other_way() -> None:
    """Up and up again is none."""
    counts = [1, 3, 5, 4, 2, 3]
    decisions = [
        Decision(100.0 * i, before, after)
        for i, (before, after) in enumerate(itertools.pairwise(counts))
    ]
    assert turns(decisions) == [200.0, 400.0]
    assert most_within([200.0, 400.0, 499.0, 900.0], 300.0) == 3
    assert most_within([200.0, 400.0, 500.0, 900.0], 300.0) == 2
