"""Spans of OpenTelemetry: who is whose child, which are written, and where they go."""

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from deployments import __version__
from deployments.errors import FileDownloadError, NotReady
from deployments.settings import TracingSettings
from deployments.telemetry import exporters
from deployments.telemetry.exporters import FileExporter, LoggedExporter
from deployments.telemetry.tracing import Tracer, open_tracer, set_attributes, traceparent
from tests.lines import logging_lines
from tests.telemetry.collector import collecting
from tests.telemetry.spans import SpanRecord, spans_in, tree

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
UNSAMPLED = f"00-{TRACE}-b7ad6b7169203331-00"


class Bench:
    """Tracers that write into one folder, as replicas do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def tracing(self, deployment: str = "Ingress", **more: Any) -> Iterator[Tracer]:
        """A tracer that is closed after the block."""
        settings = TracingSettings(exporter="file", folder=str(self.folder), **more)
        tracer = open_tracer(settings, deployment)
        yield tracer
        tracer.close()

    def spans(self) -> dict[str, SpanRecord]:
        """All spans by name."""
        return {span.name: span for span in spans_in(self.folder)}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """An empty folder."""
    return Bench(tmp_path / "traces")


def moment(text: str) -> float:
    """A time in a file, in seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


def test_a_callers_trace_goes_on(bench: Bench) -> None:
    """The span is a child of what the `traceparent` names, and has children of its own."""
    with (
        bench.tracing() as tracer,
        tracer.span("run", PARENT, "server") as run,
        tracer.span("preprocess", traceparent(run)),
    ):
        pass
    spans = bench.spans()
    assert (spans["run"].trace, spans["run"].parent) == (TRACE, "b7ad6b7169203331")
    assert traceparent(run) == f"00-{TRACE}-{spans['run'].id}-01"
    assert tree(list(spans.values())) == {("", "run"), ("run", "preprocess")}
    assert {span.trace for span in spans.values()} == {TRACE}
    assert (spans["run"].kind, spans["preprocess"].kind) == ("server", "internal")


def test_a_trace_goes_on_in_another_process(bench: Bench) -> None:
    """All that must travel is the text; each process has a file of its own."""
    with bench.tracing("Ingress") as one, bench.tracing("Dispatcher") as other:
        with one.span("submit") as submit:
            pass
        with other.span("execute", traceparent(submit), "consumer"):
            pass
    spans = bench.spans()
    assert spans["execute"].trace == spans["submit"].trace
    assert spans["execute"].parent == spans["submit"].id
    assert (spans["submit"].deployment, spans["execute"].deployment) == ("Ingress", "Dispatcher")
    assert len(list(bench.folder.iterdir())) == 2


@pytest.mark.parametrize(
    "parent", ["", "nonsense", "00-0-0-01", f"00-{'0' * 32}-b7ad6b7169203331-01", f"ff{PARENT[2:]}"]
)
def test_what_names_no_trace_begins_one(bench: Bench, parent: str) -> None:
    """A header that makes no sense is as good as none."""
    with bench.tracing() as tracer, tracer.span("run", parent) as run:
        pass
    assert bench.spans()["run"].parent == ""
    assert traceparent(run)[3:35] not in (TRACE, "0" * 32)


def test_a_span_says_who_when_and_what(bench: Bench) -> None:
    """Its process, its length, and its attributes under OpenTelemetry's names or ours."""
    before = time.time()
    with (
        bench.tracing(service_name="pictures") as tracer,
        tracer.span("run", request_id="r", batch_size=None) as run,
    ):
        time.sleep(0.02)
        set_attributes(run, status=200, tokens=12)
    span = bench.spans()["run"]
    assert before - 0.001 <= moment(span.began) <= moment(span.ended) - 0.02
    assert span.attributes == {
        "florence.request_id": "r",
        "http.response.status_code": 200,
        "florence.tokens": 12,
    }
    assert span.status == "UNSET"
    assert span.resource["service.name"] == "pictures"
    assert span.resource["service.version"] == __version__
    assert span.resource["process.pid"] == os.getpid()


def test_what_was_measured_elsewhere_has_a_span_afterwards(bench: Bench) -> None:
    """It has the length and the place in time that it is said to have had."""
    with bench.tracing() as tracer, tracer.span("inference") as inference:
        tracer.past("wait", traceparent(inference), 2.0, ago_s=3.0)
        tracer.past("batch", traceparent(inference), 3.0, tokens=7)
        tracer.past("orphan", "", 1.0)
    spans = bench.spans()
    wait, batch = spans["wait"], spans["batch"]
    assert tree(list(spans.values())) == {
        ("", "inference"),
        ("inference", "wait"),
        ("inference", "batch"),
    }
    assert moment(wait.ended) - moment(wait.began) == pytest.approx(2.0, abs=1e-3)
    assert moment(batch.ended) - moment(batch.began) == pytest.approx(3.0, abs=1e-3)
    assert moment(batch.began) == pytest.approx(moment(wait.ended), abs=1.0)
    assert batch.attributes == {"florence.tokens": 7}


@pytest.mark.parametrize(
    ("error", "type_", "status"),
    [
        (FileDownloadError("https://there/secret"), "file_download_error", "UNSET"),
        (NotReady(), "runner_scheduling_failure", "ERROR"),
        (ValueError("secret"), "ValueError", "ERROR"),
        (asyncio.CancelledError(), "CancelledError", "UNSET"),
    ],
    ids=["the client's", "ours", "unforeseen", "cancelled"],
)
def test_a_failure_is_recorded_by_its_type(
    bench: Bench, error: BaseException, type_: str, status: str
) -> None:
    """The error goes on; its message may quote the client, so it is not recorded."""
    with bench.tracing() as tracer, pytest.raises(type(error)), tracer.span("run"):
        raise error
    span = bench.spans()["run"]
    assert (span.attributes["error.type"], span.status) == (type_, status)
    assert all("secret" not in file.read_text() for file in bench.folder.iterdir())


def test_a_share_of_traces_is_written(bench: Bench) -> None:
    """Each whole or not at all: it is decided where a trace begins."""
    with bench.tracing("Ingress", sample_ratio=0.25) as one, bench.tracing("Inference") as other:
        for number in range(400):
            with one.span("run", number=number) as run:
                with other.span("inference", traceparent(run)):
                    pass
                other.past("batch", traceparent(run), 0.1)
    spans = spans_in(bench.folder)
    numbers = {name: sum(span.name == name for span in spans) for name in ("run", "inference")}
    assert 40 < numbers["run"] < 180  # five times the spread away from 100
    assert numbers["inference"] == numbers["run"]
    assert {span.trace for span in spans if span.name != "run"} == {
        span.trace for span in spans if span.name == "run"
    }


@pytest.mark.parametrize(("parent", "ratio", "number"), [(PARENT, 0.0, 1), (UNSAMPLED, 1.0, 0)])
def test_a_caller_decides_for_its_trace(
    bench: Bench, parent: str, ratio: float, number: int
) -> None:
    """The flag of its `traceparent` goes before our ratio, and travels on."""
    with bench.tracing(sample_ratio=ratio) as tracer, tracer.span("run", parent) as run:
        assert (traceparent(run)[:36], traceparent(run)[-2:]) == (parent[:36], parent[-2:])
    assert len(spans_in(bench.folder)) == number


def test_a_collector_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over HTTP in OTLP, with the headers that the environment says; all, when it is closed."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-token=t0")
    with collecting() as collector:
        settings = TracingSettings(exporter="otlp", endpoint=collector.url)
        tracer = open_tracer(settings, "Ingress")
        with (
            tracer.span("run", PARENT, "server", status=200) as run,
            tracer.span("a", traceparent(run)),
        ):
            pass
        tracer.close()
        spans = {span.name: span for span in collector.spans(2)}
    assert spans["run"].trace_id.hex() == TRACE
    assert spans["run"].parent_span_id.hex() == "b7ad6b7169203331"
    assert spans["a"].parent_span_id == spans["run"].span_id
    assert collector.headers[0]["x-token"] == "t0"
    assert collector.resource()["florence.deployment"] == "Ingress"


@pytest.mark.slow
def test_spans_do_not_wait_for_the_end(tmp_path: Path) -> None:
    """A collector has them soon after they ended, while the service goes on."""
    with collecting() as collector:
        tracer = open_tracer(TracingSettings(exporter="otlp", endpoint=collector.url), "Ingress")
        with tracer.span("run"):
            pass
        assert [span.name for span in collector.spans(1)] == ["run"]
        tracer.close()


def closed_port() -> int:
    """A port without a server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def silent() -> socket.socket:
    """A server that takes connections and never answers."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(64)
    return server


@pytest.mark.slow
@pytest.mark.parametrize("is_silent", [False, True], ids=["closed", "silent"])
def test_a_collector_that_is_away_holds_nothing_up(is_silent: bool) -> None:
    """More spans than are kept go by without waiting or failing, and so does the end."""
    with silent() as server:
        port = server.getsockname()[1] if is_silent else closed_port()
        url = f"http://127.0.0.1:{port}/v1/traces"
        tracer = open_tracer(TracingSettings(exporter="otlp", endpoint=url), "Ingress")
        began = time.monotonic()
        for _ in range(5000):
            with tracer.span("run", PARENT, status=200) as run:
                assert traceparent(run).startswith(f"00-{TRACE}-")
        tracer.close()
        assert time.monotonic() - began < 60


def test_a_full_disk_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written is lost, and the operator hears of it."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    exporter = LoggedExporter(FileExporter(Path("/dev/full")))
    monkeypatch.setattr(exporters, "open_exporter", lambda *_: exporter)
    tracer = open_tracer(TracingSettings(exporter="file"), "Ingress")
    with logging_lines() as lines:
        with tracer.span("run") as run:
            pass
        tracer.close()
    assert traceparent(run)
    [line] = lines.json
    assert "spans are lost, see tracing.exporter: [Errno 28]" in line["message"]


@pytest.mark.slow
def test_the_operator_hears_of_a_collector_that_is_away() -> None:
    """Once, however many spans are lost, and once when it takes them again."""
    with collecting() as collector, logging_lines() as lines:
        tracer = open_tracer(TracingSettings(exporter="otlp", endpoint=collector.url), "Ingress")
        for number, status in enumerate((400, 400, 200, 200), 1):
            collector.status = status
            with tracer.span("run"):
                pass
            collector.spans(number)
        tracer.close()
    assert [line["message"] for line in lines.json] == [
        "spans are lost, see tracing.exporter: the collector does not take them",
        "spans are handed over again",
    ]


def test_what_ends_after_the_end_is_lost_quietly(bench: Bench) -> None:
    """And a second close is none."""
    with bench.tracing() as tracer:
        tracer.close()
        with tracer.span("late"):
            pass
    assert bench.spans() == {}
