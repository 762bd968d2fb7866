"""Writes `report.html`, which needs nothing beside it, and `summary.md`."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from loadtest.kit.document import Document
from loadtest.kit.plots import plots

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=select_autoescape(["html.jinja"]),
    undefined=StrictUndefined,
    keep_trailing_newline=True,
)


def write(document: Document, folder: Path) -> str:
    """Write both, and give the summary back."""
    summary = TEMPLATES.get_template("summary.md.jinja").render(document=document)
    (folder / "summary.md").write_text(summary)
    drawn = plots(document.analysis)
    page = TEMPLATES.get_template("report.html.jinja").render(document=document, plots=drawn)
    (folder / "report.html").write_text(page)
    return summary
