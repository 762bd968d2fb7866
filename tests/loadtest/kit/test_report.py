"""The report: one page that needs nothing else, and a summary in Markdown."""

import random
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from loadtest.bench.processes import Cost
from loadtest.kit.analysis import Analysis
from loadtest.kit.arrivals import Pattern
from loadtest.kit.document import Document, Spent
from loadtest.kit.plan import Plan
from loadtest.kit.record import Outcome, Record
from loadtest.kit.report import write
from loadtest.kit.scenarios import Bounds
from loadtest.kit.thresholds import judge

PLOTS = {"latency", "percentiles", "rates", "stages"}
PLAN = Plan(scenario="steady", url="http://<x>", pattern=Pattern.CONSTANT, rate=10, duration_s=20)


def made(latency_s: float = 0.1, outcome: Outcome = Outcome.OK) -> list[Record]:
    """A record for each arrival of the plan."""
    rng = random.Random(0)
    split = {"queue": 0.4 * latency_s, "model": 0.5 * latency_s}
    error = "" if outcome is Outcome.OK else "500 <oops>"
    return [
        Record(
            "run region-proposal", at, latency_s, rng.random() / 1000, outcome, 200, error, split
        )
        for at in PLAN.arrivals()
    ]


def written(records: Sequence[Record], folder: Path, bounds: Bounds) -> tuple[str, str]:
    """The page and the summary."""
    analysis = Analysis(records, 200, 20)
    summary = write(Document(PLAN, analysis, judge(analysis, bounds)), folder)
    assert summary == (folder / "summary.md").read_text()
    return (folder / "report.html").read_text(), summary


class Page(HTMLParser):
    """What stands in a page: ids of figures, cells of tables, whatever is loaded from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.figures: list[str] = []
        self.cells: list[str] = []
        self.loaded: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.open.append(tag)
        if tag == "figure":
            self.figures.append(given["id"] or "")
        sources = [given[name] or "" for name in ("src", "href", "xlink:href") if name in given]
        self.loaded += [each for each in sources if not each.startswith(("#", "data:"))]
        self.loaded += [tag] if tag in ("script", "link") else []

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "td":
            self.cells.append(data)
            self.open.append("")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The report of a run that keeps its bounds."""
    return written(made(), tmp_path_factory.mktemp("good"), Bounds(p95_s=1))


def test_the_page_has_all_plots_and_loads_nothing(good: tuple[str, str]) -> None:
    page = Page(good[0])

    assert set(page.figures) == PLOTS
    assert page.loaded == []


def test_each_plot_is_a_drawing_with_its_axes_named(good: tuple[str, str]) -> None:
    """They parse as XML, and hold lines, not only a frame."""
    drawings = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg .*?</svg>", good[0], re.S)]
    texts = ["".join(drawing.itertext()) for drawing in drawings]

    assert len(drawings) == len(PLOTS)
    assert all(drawing.get("aria-label") for drawing in drawings)
    assert all(len(drawing.findall(".//{*}path")) > 5 for drawing in drawings)
    for text, words in zip(
        texts, ("scheduled arrival, s", "p99", "under way", "model"), strict=True
    ):
        assert words.lower() in text.lower()


def test_the_summary_names_each_threshold_with_bound_value_and_result(
    good: tuple[str, str],
) -> None:
    rows = [line for line in good[1].splitlines() if line.startswith("| ")]

    assert "| p95 | ≤ 1 s | 100 ms | ok |" in rows
    assert "| errors | ≤ 0.1 % | 0 % | ok |" in rows
    assert good[1].startswith("# Load test steady: ok\n")


def test_every_table_of_the_summary_is_one(good: tuple[str, str]) -> None:
    """Each row has as many cells as its head, and a line of dashes stands below the head."""
    for block in re.findall(r"(?:^\|.*\n)+", good[1], re.M):
        widths = {line.count("|") for line in block.splitlines()}
        assert len(widths) == 1, block
        assert set(block.splitlines()[1]) <= set("|-:")


@pytest.mark.slow
def test_the_latency_is_split_into_stages_and_the_rest(good: tuple[str, str]) -> None:
    """By mean, p50 and p95; of 100 ms, 40 are the queue's, 50 the model's, 10 nobody's."""
    for name, time in (("queue", "40 ms"), ("model", "50 ms"), ("outside the stages", "10 ms")):
        assert f"| {name} | {time} | {time} | {time} | {time} |" in good[1]
        assert [name, *[time] * 4] in [
            Page(good[0]).cells[n : n + 5] for n in range(len(Page(good[0]).cells))
        ]


def test_a_missed_threshold_stands_in_the_title(tmp_path: Path) -> None:
    page, summary = written(made(latency_s=2), tmp_path, Bounds(p95_s=1))

    assert summary.startswith("# Load test steady: missed p95\n")
    assert "| p95 | ≤ 1 s | 2 s | missed |" in summary
    assert '<tr class="missed">' in page


def test_a_run_without_a_good_answer_is_reported_too(tmp_path: Path) -> None:
    """With what went wrong, and nothing that a server said taken for HTML."""
    page, summary = written(made(outcome=Outcome.FAILED), tmp_path, Bounds(p95_s=1))

    assert "| p95 | ≤ 1 s | not measured | missed |" in summary
    assert "| 500 <oops> | 200 |" in summary
    assert "500 &lt;oops&gt;" in page
    assert "<oops>" not in page
    assert Page(page).figures == ["rates"]


def test_lost_arrivals_and_a_late_generator_are_told_first(tmp_path: Path) -> None:
    late = [Record(r.kind, r.at_s, r.latency_s, 0.4, r.outcome) for r in made(latency_s=0.5)]
    _, summary = written(late[:190], tmp_path, Bounds())

    assert "missed errors, generator's lag, p99" in summary
    assert "fell behind its own schedule" in summary
    assert "10 arrivals are unaccounted for" in summary


@pytest.mark.slow
def test_the_services_processor_time_is_told_for_each_answer(tmp_path: Path) -> None:
    """Of the model's thread, and of all else."""
    before, after = Cost(10.0, {7: 2.0}), Cost(22.0, {7: 6.0})
    analysis = Analysis(made(), 200, 20)
    document = Document(PLAN, analysis, [], Spent.between(before, after))

    assert "| CPU, model | 4 s | 20 ms each |" in write(document, tmp_path)
    assert "| CPU, all else | 8 s | 40 ms each |" in write(document, tmp_path)
