"""The account of a call that asks for work: who called, what for, and what came of it."""

from contextlib import AbstractContextManager

from fastapi import Request as HttpRequest

from deployments.florence.tasks import Task
from deployments.telemetry.request_span import RequestSpan, request_span
from deployments.telemetry.tracing import Tracer


def visit(
    event: str, request: HttpRequest, task: Task, tracer: Tracer
) -> AbstractContextManager[RequestSpan]:
    """Keep the account of the `with` block, in the trace that the caller may have begun."""
    return request_span(
        tracer,
        event,
        request.headers.get("traceparent", ""),
        "server",
        request_id=request.state.request_id,
        endpoint=task.path,
    )
