"""Lets calls travel in groups: those made while a group is under way share the next one.

One transaction, or one message to another process, costs about the same for one call as for a
hundred.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from deployments.errors import StoreUnavailable

Call = TypeVar("Call")
Answer = TypeVar("Answer")

MAX_WAITING = 10_000  # calls; more are refused
MAX_GROUP = 256  # calls of one group, so that the first does not wait for long


class Coalescer(Generic[Call, Answer]):
    """Sends calls in the order in which they are made, up to `max_under_way` groups at a time.

    Args:
        send: gives one answer for each call, in the same order; an exception is raised for the
            caller.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Call]], Awaitable[Sequence[Answer | BaseException]]],
        name: str,
        max_under_way: int = 1,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._send = send
        self._name = name
        self._max_under_way = max_under_way
        self._max_waiting = max_waiting
        self._waiting: list[tuple[Call, asyncio.Future[Answer]]] = []
        self._senders: set[asyncio.Task[None]] = set()

    async def __call__(self, call: Call) -> Answer:
        """The answer to `call`, which is sent even if the caller is cancelled meanwhile.

        Raises:
            StoreUnavailable: too many calls wait.
        """
        if len(self._waiting) >= self._max_waiting:
            raise StoreUnavailable
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, future))
        if len(self._senders) < self._max_under_way:
            sender = asyncio.create_task(self._send_waiting(), name=self._name)
            self._senders.add(sender)
        return await future

    async def finished(self) -> None:
        """Wait until no call waits or is under way."""
        while self._senders:
            await asyncio.wait(self._senders)

    async def _send_waiting(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
                answers = await self._answers([call for call, _ in group])
                for (_, future), answer in zip(group, answers, strict=True):
                    settle(future, answer)
                await asyncio.sleep(0)  # the callers just answered may have more to ask
        finally:  # here and not in a callback, before which a call might be made
            self._senders = {each for each in self._senders if each is not asyncio.current_task()}

    async def _answers(self, calls: Sequence[Call]) -> Sequence[Answer | BaseException]:
        """A group that fails as a whole is taken apart, so that a call fails for itself alone."""
        try:
            return await self._send(calls)
        except StoreUnavailable as error:
            return [error] * len(calls)
        except Exception as error:
            if len(calls) == 1:
                return [error]
            return [answer for call in calls for answer in await self._answers([call])]


def settle(future: "asyncio.Future[Answer]", answer: Answer | BaseException) -> None:
    """Give a caller its answer, if it still waits."""
    if future.done():
        return
    if isinstance(answer, BaseException):
        future.set_exception(answer)
    else:
        future.set_result(answer)
