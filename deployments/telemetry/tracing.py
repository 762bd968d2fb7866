"""Spans by OpenTelemetry's API, which does nothing until an exporter is set.

A span's parent is given as text, W3C's `traceparent`. The text travels with a request, waits in the
store with a queued job, and goes out with its webhook. So one trace leads from the client through
all replicas, also when the request was queued.

These spans are ours, not Serve's: Serve's tracing (alpha) follows the calls of handles, so a trace
would end at the queue, and would show Serve's parts where an operator looks for ours.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NoOpTracer, SpanKind, StatusCode
from opentelemetry.trace import Span as Span  # for others to import
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from deployments import __version__
from deployments.settings import TracingSettings

Value = str | int | float | bool | None
Kind = Literal["internal", "server", "consumer", "client"]
# Names that OpenTelemetry has defined; all other attributes are ours.
STANDARD = {
    "method": "http.request.method",
    "route": "http.route",
    "status": "http.response.status_code",
    "error_type": "error.type",
}
PROPAGATOR = TraceContextTextMapPropagator()


class Tracer:
    """Makes spans. It never blocks, and never raises for an exporter that fails.

    Args:
        tracer: OpenTelemetry's; by default the one that records nothing.
        close: hands over the spans that are left, within seconds; spans that end later are lost.
    """

    def __init__(
        self, tracer: trace.Tracer | None = None, close: Callable[[], None] = lambda: None
    ) -> None:
        self._tracer = tracer or NoOpTracer()
        self._is_on = tracer is not None
        self.close = close

    @contextmanager
    def span(
        self, name: str, parent: str = "", kind: Kind = "internal", **attributes: Value
    ) -> Iterator[Span]:
        """A span as long as the `with` block.

        It begins a trace of its own when `parent` is no `traceparent`.
        """
        span = self._tracer.start_span(
            name, self._context(parent), SpanKind[kind.upper()], named(attributes)
        )
        try:
            yield span
        except BaseException as error:
            fail(span, error)
            raise
        finally:
            span.end()

    def past(
        self, name: str, parent: str, seconds: float, ago_s: float = 0.0, **attributes: Value
    ) -> None:
        """A span that took `seconds` and ended `ago_s` ago, measured elsewhere.

        Without a parent there is none.
        """
        if not parent or not self._is_on:
            return
        ended = time.time_ns() - int(ago_s * 1e9)
        self._tracer.start_span(
            name,
            self._context(parent),
            attributes=named(attributes),
            start_time=ended - int(seconds * 1e9),
        ).end(ended)

    def _context(self, parent: str) -> Context:
        """That of the span that `parent` names; an empty one for no `traceparent`, or when off.

        OpenTelemetry's no-op tracer would pass a caller's trace on, to webhooks too.
        """
        if not parent or not self._is_on:
            return Context()
        return PROPAGATOR.extract({"traceparent": parent}, Context())


OFF = Tracer()


def open_tracer(settings: TracingSettings, deployment: str) -> Tracer:
    """The tracer of one replica of `deployment`.

    Raises:
        SetupError: its exporter is not installed, or its folder cannot be written.
    """
    if settings.exporter == "none":
        return OFF
    from deployments.telemetry.exporters import open_exporter, open_provider, shut_down

    exporter = open_exporter(settings, deployment)
    provider = open_provider(exporter, settings, deployment)
    tracer = provider.get_tracer("florence", __version__)
    return Tracer(tracer, lambda: shut_down(provider, exporter))


def check_tracing(settings: TracingSettings) -> None:
    """Find out whether spans can be exported; no collector is asked.

    Raises:
        SetupError: they cannot; the message names the remedy.
    """
    if settings.exporter != "none":
        from deployments.telemetry.exporters import check_exporter

        check_exporter(settings)


def traceparent(span: Span) -> str:
    """What makes other spans the children of `span`; empty when nothing is traced."""
    context = span.get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def set_attributes(span: Span, **attributes: Value) -> None:
    """Say more about a span; None says nothing."""
    span.set_attributes(named(attributes))


def fail(span: Span, error: BaseException) -> None:
    """Say that the span's work failed: the type alone, as a message may quote what a client sent.

    As OpenTelemetry defines it, the client's fault is no error of the service.
    """
    set_attributes(span, error_type=str(getattr(error, "type", type(error).__name__)))
    if isinstance(error, Exception) and getattr(error, "status", 500) >= 500:
        span.set_status(StatusCode.ERROR)


def named(attributes: Mapping[str, Value]) -> dict[str, str | int | float | bool]:
    """The attributes that are not None, under the names that they have in traces."""
    return {
        STANDARD.get(name, f"florence.{name}"): value
        for name, value in attributes.items()
        if value is not None
    }
