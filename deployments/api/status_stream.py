"""A request's status as server-sent events: one for each change, until it has ended."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress

from fastapi import Request as HttpRequest
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from deployments.api.deadline import attended
from deployments.api.statuses import QueueStatus
from deployments.errors import ClientDisconnected, StoreUnavailable
from deployments.florence.request import Stopwatch
from deployments.jobs.job import JobState, JobStatus, LogEntry

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # nginx would hold events back
KEEP_ALIVE = ": keep-alive\n\n"

Look = Callable[[], Awaitable[JobStatus | None]]
Tell = Callable[[JobStatus, Sequence[LogEntry]], QueueStatus]


class EventStream(StreamingResponse):
    """Events as they happen; it ends with the last one, or when the caller hangs up."""

    media_type = "text/event-stream"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        with suppress(ClientDisconnected):
            await attended(HttpRequest(scope, receive), self.stream_response(send))


class Watch:
    """Looks at one request again and again, and tells what has changed.

    Args:
        look: the request as it stands, None when it is forgotten.
        tell: what to say of it, with the lines of its log that are new.
        with_logs: whether these are wanted.
    """

    KEEP_ALIVE_S = 15.0  # proxies close connections that are silent for a minute
    POLL_S = 0.1  # after a change, the next one is often near
    MAX_POLL_S = 0.5
    SLOWER = 1.25  # each look that finds nothing new makes the wait so much longer

    def __init__(self, look: Look, tell: Tell, with_logs: bool) -> None:
        self._look = look
        self._tell = tell
        self._with_logs = with_logs
        self._seen: tuple[JobState, int | None] | None = None
        self._num_logs = 0

    async def events(self, status: JobStatus | None) -> AsyncIterator[str]:
        """`status`, and each that differs from the one before; every wait is interrupted by
        a sign of life where it gets long.
        """
        silence, pause_s = Stopwatch(), self.POLL_S
        while status is not None:
            if event := self._news(status):
                silence, pause_s = Stopwatch(), self.POLL_S
                yield event
            elif silence.seconds() >= self.KEEP_ALIVE_S:
                silence = Stopwatch()
                yield KEEP_ALIVE
            if status.state.is_terminal:
                return
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * self.SLOWER, self.MAX_POLL_S)
            status = await self._next(status)

    async def _next(self, status: JobStatus) -> JobStatus | None:
        """The request as it stands now, or as it stood, while the store is away."""
        try:
            return await self._look()
        except StoreUnavailable:
            return status

    def _news(self, status: JobStatus) -> str:
        """The event for `status`; empty when nothing is new."""
        seen = status.state, status.position
        logs = self._new_logs(status)
        if seen == self._seen and not logs:
            return ""
        self._seen = seen
        self._num_logs += len(logs)
        return f"data: {self._tell(status, logs).json_text()}\n\n"

    def _new_logs(self, status: JobStatus) -> Sequence[LogEntry]:
        """fal tells nothing of the log while a request waits, so lines stay until it runs."""
        if not self._with_logs or status.state is JobState.QUEUED:
            return ()
        return status.logs[self._num_logs :]
