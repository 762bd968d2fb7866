"""What the HTTP side needs from the rest of the service."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from fastapi import Request as HttpRequest

from deployments.api.admission import Shutdown
from deployments.api.auth import Keyring
from deployments.files.base import FileStore
from deployments.florence.messages import Finished, Request
from deployments.florence.partial_parser import OnPartial
from deployments.florence.prompts import Prompts
from deployments.florence.tasks import Task
from deployments.jobs.store import Store
from deployments.settings import Settings
from deployments.telemetry.metrics import PrometheusRecorder
from deployments.telemetry.request_span import RequestSpan, request_span
from deployments.telemetry.tracing import OFF, Tracer


@dataclass(frozen=True)
class Dependencies:
    """Everything that routes call, as plain functions, so that tests can pass their own.

    `bounds` has the most that an input may ask for, by field; `model` is the checkpoint's name;
    `prompts` checks the text of an input.
    `run` calls its second argument, if there is one, with the output so far each time it has
    grown. It raises a ServiceError for what the client should see; anything else is a 500.
    `ready` says whether a run would find every part of the pipeline.
    `wake` notifies the dispatcher that the queue has changed; it returns at once and may be lost.
    """

    settings: Settings
    bounds: Mapping[str, int]
    model: str
    prompts: Prompts
    run: Callable[[Request, OnPartial | None], Awaitable[Finished]]
    ready: Callable[[], Awaitable[bool]]
    wake: Callable[[], None]
    files: FileStore
    store: Store
    keyring: Keyring
    recorder: PrometheusRecorder
    shutdown: Shutdown
    tracer: Tracer = OFF

    def request_span(
        self, event: str, request: HttpRequest, task: Task
    ) -> AbstractContextManager[RequestSpan]:
        """A span and a log line for the `with` block, in the trace that the caller began."""
        return request_span(
            self.tracer,
            event,
            request.headers.get("traceparent", ""),
            "server",
            request_id=request.state.request_id,
            endpoint=task.path,
        )
