"""Spans, as the rest of the service makes them; without an exporter they are nothing.

What a span is a child of is told by text, W3C's `traceparent`, which travels in a Request, waits in
the store beside a queued request, and goes out with its webhook. So one trace leads from the
client through all replicas, whoever carries the request and however long it was queued.

These are our own spans, not Serve's: its tracing (alpha) follows the calls of handles, so a trace
would end at the queue, and would show Serve's parts where an operator looks for ours.
"""

from types import TracebackType
from typing import Literal, Protocol, Self

from deployments.settings import TracingSettings

Value = str | int | float | bool | None
Kind = Literal["internal", "server", "consumer", "client"]


class Span(Protocol):
    """Something that goes on; it ends with the `with` block that it stands at."""

    @property
    def trace(self) -> str:
        """The `traceparent` of its children; empty when nothing is traced."""

    def note(self, **attributes: Value) -> None:
        """Say more about it; None says nothing."""

    def fail(self, error: BaseException) -> None:
        """It came to nothing; an error that leaves the `with` block says so by itself."""

    def __enter__(self) -> Self:
        """It has begun already."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """It ends."""


class Tracer(Protocol):
    """Makes spans. It never blocks, and never raises for an exporter that fails."""

    def span(
        self, name: str, parent: str = "", kind: Kind = "internal", **attributes: Value
    ) -> Span:
        """What begins now; a trace of its own when `parent` is empty or no `traceparent`."""

    def past(
        self, name: str, parent: str, seconds: float, ago_s: float = 0.0, **attributes: Value
    ) -> None:
        """What took `seconds` and ended `ago_s` ago, measured elsewhere; nothing without parent."""

    def close(self) -> None:
        """Hand over what is left, within seconds; what ends later is lost."""


class NoSpan:
    """Nothing, at the price of a call."""

    trace = ""

    def note(self, **attributes: Value) -> None:
        """See Span."""

    def fail(self, error: BaseException) -> None:
        """See Span."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return


class NoTracer:
    """What traces nothing."""

    def span(
        self, name: str, parent: str = "", kind: Kind = "internal", **attributes: Value
    ) -> Span:
        """See Tracer."""
        return NO_SPAN

    def past(
        self, name: str, parent: str, seconds: float, ago_s: float = 0.0, **attributes: Value
    ) -> None:
        """See Tracer."""

    def close(self) -> None:
        """See Tracer."""


NO_SPAN = NoSpan()
OFF = NoTracer()


def open_tracer(settings: TracingSettings, box: str) -> Tracer:
    """The tracer of one replica of `box`.

    Raises:
        SetupError: its exporter is not installed, or its folder cannot be written.
    """
    if settings.exporter == "none":
        return OFF
    from deployments.telemetry.exporters import exporter_of
    from deployments.telemetry.otel import Telemetry

    return Telemetry(exporter_of(settings, box), settings, box)


def check_tracing(settings: TracingSettings) -> None:
    """Find out whether spans can be exported; no collector is asked.

    Raises:
        SetupError: they cannot; the message names the remedy.
    """
    if settings.exporter != "none":
        from deployments.telemetry.exporters import check_exporter

        check_exporter(settings)
