"""Lines about a request, as Serve writes them."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from ray.serve import context

from deployments.errors import GenerationError, ImageLoadError
from deployments.telemetry.log import about, hide_client_errors, logger, trace_id, write
from tests.lines import Lines, logging_lines

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What is logged in a test."""
    with logging_lines() as kept:
        yield kept


def test_a_line_has_its_fields(lines: Lines) -> None:
    """In JSON each stands by itself, with the text, the level, and the process."""
    logger.warning("request %s: lost", "r1", extra=about("r1", "k1", TRACE, attempt=2))
    [line] = lines.json
    assert line["message"] == "request r1: lost"
    assert line["levelname"] == "WARNING"
    assert (line["request_id"], line["key_id"], line["attempt"]) == ("r1", "k1", 2)
    assert line["trace_id"] == "0af7651916cd43dd8448eb211c80319c"


def test_what_is_not_known_is_left_out(lines: Lines) -> None:
    """A field that says nothing would only be in the way."""
    logger.warning("x", extra=about("r1", error_type=None, batch_size=0))
    [line] = lines.json
    assert {"key_id", "trace_id", "error_type"} & line.keys() == set()
    assert line["batch_size"] == 0


def test_the_request_is_the_clients(lines: Lines) -> None:
    """Serve has an id for each call, which it must not write over the one the client knows."""
    called: Any = context._RequestContext(request_id="serve's")
    known = context._serve_request_context.set(called)
    try:
        logger.warning("x", extra=about("ours"))
        logger.warning("y")
    finally:
        context._serve_request_context.reset(known)
    assert [line["request_id"] for line in lines.json] == ["ours", "serve's"]


def test_text_says_the_same(lines: Lines) -> None:
    """All fields stand in the words of a line that has little else to say."""
    write("run", about("r1", "k1", TRACE, status=200, total_ms=54.125))
    [text] = lines.text
    words = "request_id=r1 key_id=k1 trace_id=0af7651916cd43dd8448eb211c80319c status=200"
    assert f"run {words} total_ms=54.125" in text
    assert "\n" not in text


def test_nothing_is_written_below_the_level(lines: Lines) -> None:
    """On a laptop only warnings are."""
    logger.setLevel(logging.WARNING)
    write("run", about("r1"))
    assert lines.json == []


@pytest.mark.parametrize(("trace", "id_"), [(TRACE, TRACE[3:35]), ("", "")])
def test_a_trace_has_an_id(trace: str, id_: str) -> None:
    """By which a line is found in the trace's view, and the other way round."""
    assert trace_id(trace) == id_


def test_serve_writes_no_traceback_of_a_client_error(caplog: pytest.LogCaptureFixture) -> None:
    """Of a failure it does."""
    hide_client_errors()
    hide_client_errors()
    failed = [GenerationError(), KeyError("bug")]
    for error in (ImageLoadError("no image"), *failed):
        logging.getLogger("ray.serve").error("Request failed.", exc_info=error)
    logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert logged == failed
