"""The account of one piece of work on a request: a span while it goes on, a line when it ends."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from deployments.errors import InternalError, ServiceError
from deployments.telemetry.log import about, write
from deployments.telemetry.tracing import Kind, Span, Tracer, Value


class Account:
    """What is known of the work so far."""

    def __init__(self, event: str, endpoint: str, span: Span, request_id: str, key_id: str) -> None:
        self._event = event
        self._endpoint = endpoint
        self._span = span
        self._request_id = request_id
        self._key_id = key_id
        self._outcome: dict[str, Value] = {"status": 200}
        self._fields: dict[str, Value] = {}
        self._began = time.perf_counter()

    @property
    def trace(self) -> str:
        """The `traceparent` of what this work leads to."""
        return self._span.trace

    def note(self, **fields: Value) -> None:
        """Say more about it, in the trace and in the log; None says nothing."""
        self._fields |= fields
        self._span.note(**fields)

    def of(self, request_id: str) -> None:
        """It is about another request than was thought."""
        self._request_id = request_id
        self._span.note(request_id=request_id)

    def by(self, key_id: str) -> None:
        """Whose key it is."""
        self._key_id = key_id
        self._span.note(key_id=key_id)

    def fail(self, error: BaseException) -> None:
        """It came to nothing."""
        self._outcome = outcome(error)

    def close(self) -> None:
        """Write the line."""
        self._span.note(**self._outcome)
        fields = {
            "endpoint": self._endpoint,
            **self._outcome,
            "total_ms": ms(time.perf_counter() - self._began),
            **self._fields,
        }
        write(self._event, about(self._request_id, self._key_id, self.trace, **fields))


@contextmanager
def account(
    tracer: Tracer,
    event: str,
    parent: str,
    kind: Kind,
    *,
    request_id: str,
    endpoint: str,
    key_id: str = "",
    **fields: Value,
) -> Iterator[Account]:
    """Keep the account of the `with` block; it ends with 200, or as its error says."""
    known: dict[str, Value] = {
        "request_id": request_id,
        "key_id": key_id or None,
        "endpoint": endpoint,
    }
    with tracer.span(f"{event} {endpoint}", parent, kind, **known) as span:
        opened = Account(event, endpoint, span, request_id, key_id)
        opened.note(**fields)
        try:
            yield opened
        except BaseException as error:
            opened.fail(error)
            raise
        finally:
            opened.close()


def outcome(error: BaseException) -> dict[str, Value]:
    """The status and the type of an error, as its client sees them."""
    match error:
        case ServiceError():
            return {"status": error.status, "error_type": error.type}
        case asyncio.CancelledError() | GeneratorExit():
            return {"status": None, "error_type": "cancelled"}  # nobody waits for an answer
        case _:
            return {"status": InternalError.status, "error_type": InternalError.type}


def ms(seconds: float) -> float:
    """Seconds in milliseconds, to the microsecond."""
    return round(seconds * 1000, 3)
