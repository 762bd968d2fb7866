"""OpenTelemetry's SDK: it hands spans over to a file or a collector, from a thread of its own.

A span that is not taken in time is dropped, the oldest first, because no request waits for its
trace. A replica that is killed loses the spans of its last second.
"""

import os
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from deployments import __version__
from deployments.errors import SetupError
from deployments.settings import TracingSettings
from deployments.telemetry.log import logger

EXPORT_EVERY_MS = 1000
TIMEOUT_S = 5.0
CLOSE_S = 3.0  # a collector that does not answer must not hold up the end of a replica


class FileExporter(ConsoleSpanExporter):
    """Writes spans as JSON, one a line, in OpenTelemetry's own format."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("a", encoding="utf-8")
        super().__init__(out=self._file, formatter=lambda span: f"{span.to_json(indent=None)}\n")

    def shutdown(self) -> None:
        with suppress(OSError):  # a full disk, which the log has reported
            self._file.close()


class LoggedExporter(SpanExporter):
    """Logs when `exporter` begins to fail, and when it works again, rather than every failure."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._is_failing = False
        self._is_closed = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Hand the spans over; those that cannot be are lost."""
        result, reason = self._attempt(spans)
        is_failing = result is not SpanExportResult.SUCCESS
        if is_failing and not self._is_failing and not self._is_closed:
            logger.warning("spans are lost, see tracing.exporter: %s", reason)
        if self._is_failing and not is_failing:
            logger.warning("spans are handed over again")
        self._is_failing = is_failing
        return result

    def shutdown(self) -> None:
        """Close the exporter; a second call does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._exporter.shutdown()

    def _attempt(self, spans: Sequence[ReadableSpan]) -> tuple[SpanExportResult, str]:
        try:
            return self._exporter.export(spans), "the collector does not take them"
        except Exception as error:  # whichever exporter it is
            return SpanExportResult.FAILURE, str(error)


def open_exporter(settings: TracingSettings, deployment: str) -> SpanExporter:
    """The exporter of one replica of `deployment`.

    Raises:
        SetupError: it is not installed, or the folder cannot be written.
    """
    if settings.exporter == "otlp":
        return LoggedExporter(otlp(settings))
    name = f"{deployment}-{socket.gethostname()}-{os.getpid()}.jsonl"
    return LoggedExporter(FileExporter(writable(settings) / name))


def check_exporter(settings: TracingSettings) -> None:
    """Find out whether an exporter can be opened; no collector is asked.

    Raises:
        SetupError: it is not installed, or the folder cannot be written.
    """
    if settings.exporter == "otlp":
        otlp(settings).shutdown()
    else:
        writable(settings)


def open_provider(
    exporter: SpanExporter, settings: TracingSettings, deployment: str
) -> TracerProvider:
    provider = TracerProvider(
        # The caller that begins a trace decides; one that sends a `traceparent` has begun it.
        sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
        resource=Resource.create(
            {
                "service.name": settings.service_name,
                "service.version": __version__,
                "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
                "host.name": socket.gethostname(),
                "process.pid": os.getpid(),
                "florence.deployment": deployment,
            }
        ),
        shutdown_on_exit=False,  # it would wait half a minute for a collector
    )
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=EXPORT_EVERY_MS))
    return provider


def shut_down(provider: TracerProvider, exporter: SpanExporter) -> None:
    """Hand over the spans that are left, for at most `CLOSE_S` seconds."""
    closing = threading.Thread(target=provider.shutdown, name="tracing", daemon=True)
    with suppress(RuntimeError):  # the interpreter ends, and starts no thread
        closing.start()
        closing.join(CLOSE_S)
    if closing.is_alive():
        exporter.shutdown()  # ends its retries


def otlp(settings: TracingSettings) -> SpanExporter:
    """OpenTelemetry's protocol over HTTP; headers come from OTEL_EXPORTER_OTLP_HEADERS.

    Raises:
        SetupError: it is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise SetupError(
            "setting tracing.exporter: otlp is not installed: "
            "make install-otlp in the checkout, or choose file or none"
        ) from None
    return OTLPSpanExporter(settings.endpoint, timeout=TIMEOUT_S)


def writable(settings: TracingSettings) -> Path:
    """The folder for files of spans, made if it was missing.

    Raises:
        SetupError: it cannot be made, or not be written.
    """
    folder = Path(settings.folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(folder, os.W_OK) else "Permission denied"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise SetupError(
            f"setting tracing.folder: {folder} cannot be written ({reason}): name another folder"
        )
    return folder
