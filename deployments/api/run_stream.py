"""A run's output as server-sent events, while the model writes it."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Self

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from deployments.api.dependencies import Tell
from deployments.api.status_stream import HEADERS
from deployments.errors import ClientDisconnected, InternalError, ServiceError
from deployments.florence.progress import progress
from deployments.florence.request import Finished
from deployments.jobs.job import compact
from deployments.telemetry.log import about, logger

Work = Callable[[Tell], Awaitable[Finished]]


class OutputStream(StreamingResponse):
    """The output so far each time it has grown; the last event is all of it.

    The work listens for a caller who hangs up, and is cancelled when nothing can be sent.
    """

    media_type = "text/event-stream"

    def __init__(self, first: str, rest: AsyncGenerator[str, None], request_id: str) -> None:
        super().__init__(following(first, rest, request_id), headers=HEADERS)
        self._rest = rest

    @classmethod
    async def begin(cls, work: Work, request_id: str) -> Self:
        """The stream of `work`, when it has told something: what fails before has its own status.

        Raises:
            Exception: what `work` raises before it has told anything.
        """
        events = events_of(work)
        return cls(await anext(events), events, request_id)

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send the events."""
        async with aclosing(self._rest):
            await self.stream_response(send)


async def events_of(work: Work) -> AsyncGenerator[str, None]:
    """All that `work` tells, and its result."""
    async with aclosing(progress(work)) as outputs:
        async for output in outputs:
            yield event(output.output if isinstance(output, Finished) else output)


async def following(
    first: str, rest: AsyncGenerator[str, None], request_id: str
) -> AsyncGenerator[str, None]:
    """All events; what fails after the first is the last one, since the status has been sent."""
    yield first
    try:
        async for each in rest:
            yield each
    except ClientDisconnected:
        return
    except ServiceError as error:
        yield failure(error)
    except Exception as error:
        logger.error("request %s failed", request_id, exc_info=error, extra=about(request_id))
        yield failure(InternalError())


def failure(error: ServiceError) -> str:
    """The event that tells of `error`, in fal's shape."""
    return f"event: error\n{event(error.body())}"


def event(output: Any) -> str:
    """The event with `output`, in one line."""
    return f"data: {compact(output)}\n\n"
