"""Server-sent events: the output of a run while it is generated, and the status of a job."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from types import MappingProxyType

from fastapi import Request as HttpRequest
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from deployments.api.deadline import cancel_on_disconnect
from deployments.api.responses import QueueStatus
from deployments.errors import ClientDisconnected, InternalError, ServiceError, StoreUnavailable
from deployments.florence import identity
from deployments.florence.latest import latest
from deployments.florence.messages import Finished, PartialOutput, Stopwatch
from deployments.florence.partial_parser import OnPartial
from deployments.jobs.job import JobState, JobStatus, LogEntry, compact
from deployments.telemetry.log import about, logger

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # nginx would hold events back
KEEP_ALIVE = ": keep-alive\n\n"

Output = PartialOutput | Finished
Outputs = AsyncGenerator[Output, None]
Events = AsyncGenerator[str, None]
FindStatus = Callable[[], Awaitable[JobStatus | None]]
DescribeStatus = Callable[[JobStatus, Sequence[LogEntry]], QueueStatus]


class EventStream(StreamingResponse):
    """Some `events`, which are closed when they cannot be sent.

    Only their source can notice a caller who hangs up while no event is sent.
    """

    media_type = "text/event-stream"

    def __init__(self, events: Events, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        self._events = events
        super().__init__(events, headers={**HEADERS, **headers})

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            await self.stream_response(send)


class OutputStream(EventStream):
    """The outputs of a run, which ends with the stream, also before its first event is sent."""

    def __init__(self, first: Output, others: Outputs, request_id: str) -> None:
        self._outputs = others
        super().__init__(output_events(first, others, request_id), identity.headers(first.model))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._outputs):
            await super().__call__(scope, receive, send)


class StatusStream(EventStream):
    """Events that end when the caller hangs up."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientDisconnected):
            sending = super().__call__(scope, receive, send)
            await cancel_on_disconnect(HttpRequest(scope, receive), sending)


def event(data: str) -> str:
    """The event with `data`, which is JSON in one line."""
    return f"data: {data}\n\n"


async def output_stream(
    run: Callable[[OnPartial], Awaitable[Finished]], request_id: str
) -> EventStream:
    """The partial outputs of `run` and its result, once the first of them is there.

    The header names the model that writes the first.

    Raises:
        Exception: what `run` raises before that, so that the error has a status of its own.
    """
    outputs = latest(run)
    return OutputStream(await anext(outputs), outputs, request_id)


async def output_events(first: Output, others: Outputs, request_id: str) -> Events:
    """An event for each output; an error is the last event."""
    yield event(compact(first.output))
    try:
        async for output in others:
            yield event(compact(output.output))
    except ClientDisconnected:
        return
    except Exception as error:
        yield error_event(error, request_id)


def error_event(error: Exception, request_id: str) -> str:
    if not isinstance(error, ServiceError):
        logger.error("request %s failed", request_id, exc_info=error, extra=about(request_id))
        error = InternalError()
    return f"event: error\n{event(compact(error.body()))}"


class StatusEvents:
    """Polls the status of a job, and makes an event of each change.

    Args:
        find: the status now; None when the job was forgotten.
        describe: the status in fal's words, with the lines of its log that are new.
        with_logs: whether these are wanted.
    """

    KEEP_ALIVE_S = 15.0  # proxies close connections that are silent for a minute
    POLL_S = 0.1  # after a change, the next one is often near
    MAX_POLL_S = 0.5
    BACKOFF = 1.25  # the factor between polls that find nothing new

    def __init__(self, find: FindStatus, describe: DescribeStatus, with_logs: bool) -> None:
        self._find = find
        self._describe = describe
        self._with_logs = with_logs
        self._sent: tuple[JobState, int | None] | None = None
        self._num_logs = 0

    async def events(self, status: JobStatus | None) -> Events:
        """`status`, and each one that differs from the one before, until the job has ended.

        A comment keeps the connection alive while nothing changes.
        """
        silence, pause_s = Stopwatch(), self.POLL_S
        while status is not None:
            if change := self._change(status):
                silence, pause_s = Stopwatch(), self.POLL_S
                yield change
            elif silence.seconds() >= self.KEEP_ALIVE_S:
                silence = Stopwatch()
                yield KEEP_ALIVE
            if status.state.is_terminal:
                return
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * self.BACKOFF, self.MAX_POLL_S)
            status = await self._next(status)

    async def _next(self, status: JobStatus) -> JobStatus | None:
        """The status now, or the last one while the store is away."""
        try:
            return await self._find()
        except StoreUnavailable:
            return status

    def _change(self, status: JobStatus) -> str:
        """The event for `status`; empty when nothing is new."""
        state = status.state, status.position
        logs = self._new_logs(status)
        if state == self._sent and not logs:
            return ""
        self._sent = state
        self._num_logs += len(logs)
        return event(self._describe(status, logs).json_text())

    def _new_logs(self, status: JobStatus) -> Sequence[LogEntry]:
        """fal shows no log while a job waits, so lines are kept back until it runs."""
        if not self._with_logs or status.state is JobState.QUEUED:
            return ()
        return status.logs[self._num_logs :]
