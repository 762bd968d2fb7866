"""Where spans go: into files of their own, or to a collector."""

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter, SpanExportResult

from deployments.errors import SetupError
from deployments.settings import TracingSettings
from deployments.telemetry.log import logger

TIMEOUT_S = 5.0


class SpanFile(ConsoleSpanExporter):
    """Spans as JSON, one a line, in OpenTelemetry's own words."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("a", encoding="utf-8")
        super().__init__(out=self._file, formatter=lambda span: f"{span.to_json(indent=None)}\n")

    def shutdown(self) -> None:
        """Let go of the file."""
        with suppress(OSError):  # the disk is full, as the log has said
            self._file.close()


class Watched(SpanExporter):
    """An exporter whose failures the operator hears of: once, and once when they are over."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._is_away = False
        self._is_closed = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Hand them over; what cannot be is lost."""
        result, reason = self._attempt(spans)
        is_away = result is not SpanExportResult.SUCCESS
        if is_away and not self._is_away and not self._is_closed:
            logger.warning("spans are lost, see tracing.exporter: %s", reason)
        if self._is_away and not is_away:
            logger.warning("spans are handed over again")
        self._is_away = is_away
        return result

    def shutdown(self) -> None:
        """Nothing comes after this, however often it is said."""
        if not self._is_closed:
            self._is_closed = True
            self._exporter.shutdown()

    def _attempt(self, spans: Sequence[ReadableSpan]) -> tuple[SpanExportResult, str]:
        try:
            return self._exporter.export(spans), "the collector does not take them"
        except Exception as error:  # of a file, or of what somebody else has written
            return SpanExportResult.FAILURE, str(error)


def exporter_of(settings: TracingSettings, box: str) -> SpanExporter:
    """Where the spans of this replica of `box` go.

    Raises:
        SetupError: it is not installed, or the folder cannot be written.
    """
    if settings.exporter == "otlp":
        return Watched(otlp(settings))
    name = f"{box}-{socket.gethostname()}-{os.getpid()}.jsonl"
    return Watched(SpanFile(writable(settings) / name))


def check_exporter(settings: TracingSettings) -> None:
    """Find out whether there could be one.

    Raises:
        SetupError: it is not installed, or the folder cannot be written.
    """
    if settings.exporter == "otlp":
        otlp(settings).shutdown()
    else:
        writable(settings)


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
            "pip install 'florence-serve[otlp]', or choose file or none"
        ) from None
    return OTLPSpanExporter(settings.endpoint, timeout=TIMEOUT_S)


def writable(settings: TracingSettings) -> Path:
    """The folder for files of spans, which is there from now on.

    Raises:
        SetupError: it cannot be made, or not be written.
    """
    folder = Path(settings.folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error.strerror or str(error)) from None
    if not os.access(folder, os.W_OK):
        raise unwritable(folder, "Permission denied")
    return folder


def unwritable(folder: Path, reason: str) -> SetupError:
    """What to tell of a folder that takes no files."""
    return SetupError(
        f"setting tracing.folder: {folder} cannot be written ({reason}): name another folder"
    )
