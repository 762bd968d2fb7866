"""One span and one line for a piece of work, and they agree."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.errors import FileDownloadError, NotReady
from deployments.settings import TracingSettings
from deployments.telemetry.request_span import request_span
from deployments.telemetry.tracing import OFF, open_tracer
from tests.lines import Lines, logging_lines
from tests.telemetry.spans import spans_in


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What is logged in a test."""
    with logging_lines() as kept:
        yield kept


def opened(tracer: Any = OFF) -> Any:
    """The span of a run."""
    return request_span(tracer, "run", "", "server", request_id="r1", endpoint="caption", attempt=1)


def test_work_that_succeeds_is_logged(lines: Lines, tmp_path: Path) -> None:
    """With whatever was noted on the way; both say how it ended, and can be joined."""
    tracer = open_tracer(TracingSettings(exporter="file", folder=str(tmp_path)), "Ingress")
    with opened(tracer) as work:
        work.set_key("k1")
        work.set_request("r2")
        work.note(tokens=12, fetch_ms=1.5)
        trace = work.traceparent
    tracer.close()
    [line], [span] = lines.about("run"), spans_in(tmp_path)
    expected = {"request_id": "r2", "key_id": "k1", "endpoint": "caption", "status": 200}
    expected |= {"attempt": 1, "tokens": 12, "fetch_ms": 1.5, "trace_id": trace[3:35]}
    assert expected.items() <= line.items()
    assert line["total_ms"] > 0
    assert "error_type" not in line
    assert (span.name, span.kind) == ("run caption", "server")
    assert f"{span.trace}-{span.id}" in trace
    assert span.attributes == {
        "http.response.status_code": 200,
        "florence.request_id": "r2",
        "florence.key_id": "k1",
        "florence.endpoint": "caption",
        "florence.attempt": 1,
        "florence.tokens": 12,
        "florence.fetch_ms": 1.5,
    }


@pytest.mark.parametrize(
    ("error", "status", "type_"),
    [
        (FileDownloadError(), 422, "file_download_error"),
        (NotReady(), 503, "runner_scheduling_failure"),
        (ValueError("secret"), 500, "internal_error"),
        (asyncio.CancelledError(), None, "cancelled"),
    ],
    ids=["the client's", "ours", "unforeseen", "cancelled"],
)
def test_work_that_fails_is_logged(
    lines: Lines, tmp_path: Path, error: BaseException, status: int | None, type_: str
) -> None:
    """By the status and the type that the client sees; the error goes on its way."""
    tracer = open_tracer(TracingSettings(exporter="file", folder=str(tmp_path)), "Ingress")
    with pytest.raises(type(error)), opened(tracer):
        raise error
    tracer.close()
    [line], [span] = lines.about("run"), spans_in(tmp_path)
    assert (line.get("status"), line["error_type"]) == (status, type_)
    assert span.attributes.get("http.response.status_code") == status
    assert "secret" not in lines.text[0]


def test_the_line_is_there_without_a_trace(lines: Lines) -> None:
    """It needs no exporter."""
    with opened() as work:
        assert work.traceparent == ""
    [line] = lines.about("run")
    assert (line["request_id"], line["status"]) == ("r1", 200)
    assert "trace_id" not in line
