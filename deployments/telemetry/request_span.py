"""One piece of work on a request: a span in its trace while it goes on, a log line at its end."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.trace import Span

from deployments.errors import InternalError, ServiceError
from deployments.telemetry.log import about, write
from deployments.telemetry.tracing import Kind, Tracer, Value, set_attributes, traceparent


class RequestSpan:
    """The span, and the fields of the line so far."""

    def __init__(self, event: str, endpoint: str, span: Span, request_id: str, key_id: str) -> None:
        self._event = event
        self._endpoint = endpoint
        self._span = span
        self._request_id = request_id
        self._key_id = key_id
        self._fields: dict[str, Value] = {}
        self._began = time.perf_counter()

    @property
    def traceparent(self) -> str:
        """Makes other spans the children of this one; empty when nothing is traced."""
        return traceparent(self._span)

    def note(self, **fields: Value) -> None:
        """Say more, in the trace and in the log; None says nothing."""
        self._fields |= fields
        set_attributes(self._span, **fields)

    def set_request(self, request_id: str) -> None:
        """The id of the request, when another one than at the start."""
        self._request_id = request_id
        set_attributes(self._span, request_id=request_id)

    def set_key(self, key_id: str) -> None:
        self._key_id = key_id
        set_attributes(self._span, key_id=key_id)

    def end(self, outcome: dict[str, Value]) -> None:
        set_attributes(self._span, **outcome)
        fields = {
            "endpoint": self._endpoint,
            **outcome,
            "total_ms": round(1000 * (time.perf_counter() - self._began), 3),
            **self._fields,
        }
        write(self._event, about(self._request_id, self._key_id, self.traceparent, **fields))


@contextmanager
def request_span(
    tracer: Tracer,
    event: str,
    parent: str,
    kind: Kind,
    *,
    request_id: str,
    endpoint: str,
    key_id: str = "",
    **fields: Value,
) -> Iterator[RequestSpan]:
    """The span and the line of the `with` block; its status is 200, or that of its error."""
    known = {"request_id": request_id, "key_id": key_id or None, "endpoint": endpoint}
    with tracer.span(f"{event} {endpoint}", parent, kind, **known) as span:
        work = RequestSpan(event, endpoint, span, request_id, key_id)
        work.note(**fields)
        outcome: dict[str, Value] = {"status": 200}
        try:
            yield work
        except BaseException as error:
            outcome = outcome_of(error)
            raise
        finally:
            work.end(outcome)


def outcome_of(error: BaseException) -> dict[str, Value]:
    """The status and the type of an error, as its client sees them."""
    match error:
        case ServiceError():
            return {"status": error.status, "error_type": error.type}
        case asyncio.CancelledError() | GeneratorExit():
            return {"status": None, "error_type": "cancelled"}  # the client has left
        case _:
            return {"status": InternalError.status, "error_type": InternalError.type}
