"""Spans by OpenTelemetry, handed over from a thread of their own.

What is not taken in time is dropped, oldest first: a trace is worth less than what it tells of.
A replica that is killed loses its last second of spans.
"""

import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from deployments import __version__
from deployments.settings import TracingSettings
from deployments.telemetry.tracing import Kind, Span, Value

EXPORT_EVERY_MS = 1000
CLOSE_S = 3.0  # a collector that is away must not hold up the end of a replica
KINDS: dict[Kind, SpanKind] = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "consumer": SpanKind.CONSUMER,
    "client": SpanKind.CLIENT,
}
# OpenTelemetry's own names for what it has a name for; all others are ours.
STANDARD = {
    "method": "http.request.method",
    "route": "http.route",
    "status": "http.response.status_code",
    "error_type": "error.type",
}
PROPAGATOR = TraceContextTextMapPropagator()


class LiveSpan:
    """See Span."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def trace(self) -> str:
        """See Span."""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def note(self, **attributes: Value) -> None:
        """See Span."""
        self._span.set_attributes(named(attributes))

    def fail(self, error: BaseException) -> None:
        """The type alone: a message may quote what the client sent.

        As OpenTelemetry has it, what was the client's fault is no error of the service.
        """
        self.note(error_type=str(getattr(error, "type", type(error).__name__)))
        if isinstance(error, Exception) and getattr(error, "status", 500) >= 500:
            self._span.set_status(StatusCode.ERROR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self.fail(error)
        self._span.end()


class Telemetry:
    """See Tracer.

    Args:
        exporter: where spans go; called on a thread of its own.
        box: the name of the box that this process is a replica of.
    """

    def __init__(self, exporter: SpanExporter, settings: TracingSettings, box: str) -> None:
        self._exporter = exporter
        self._provider = TracerProvider(
            # Who begins a trace decides; a caller that sends a `traceparent` has begun it.
            sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
            resource=Resource.create(resource(settings, box)),
            shutdown_on_exit=False,  # it would wait for a collector for half a minute
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter, schedule_delay_millis=EXPORT_EVERY_MS)
        )
        self._tracer = self._provider.get_tracer("florence", __version__)

    def span(
        self, name: str, parent: str = "", kind: Kind = "internal", **attributes: Value
    ) -> Span:
        """See Tracer."""
        return LiveSpan(
            self._tracer.start_span(
                name, context_of(parent), KINDS[kind], attributes=named(attributes)
            )
        )

    def past(
        self, name: str, parent: str, seconds: float, ago_s: float = 0.0, **attributes: Value
    ) -> None:
        """See Tracer."""
        if not parent:
            return
        ended = time.time_ns() - int(ago_s * 1e9)
        self._tracer.start_span(
            name,
            context_of(parent),
            attributes=named(attributes),
            start_time=ended - int(seconds * 1e9),
        ).end(ended)

    def close(self) -> None:
        """See Tracer."""
        closing = threading.Thread(target=self._provider.shutdown, name="tracing", daemon=True)
        with suppress(RuntimeError):  # the interpreter ends, and begins no thread any more
            closing.start()
            closing.join(CLOSE_S)
        if closing.is_alive():
            self._exporter.shutdown()  # it tries no more


def context_of(parent: str) -> Context:
    """The context of the span that `parent` names; an empty one for no `traceparent`."""
    return PROPAGATOR.extract({"traceparent": parent}, Context()) if parent else Context()


def named(attributes: Mapping[str, Value]) -> dict[str, str | int | float | bool]:
    """The attributes that say something, under the names that they have in traces."""
    return {
        STANDARD.get(name, f"florence.{name}"): value
        for name, value in attributes.items()
        if value is not None
    }


def resource(settings: TracingSettings, box: str) -> dict[str, str | int]:
    """What all spans of this process have in common."""
    return {
        "service.name": settings.service_name,
        "service.version": __version__,
        "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
        "host.name": socket.gethostname(),
        "process.pid": os.getpid(),
        "florence.box": box,
    }
