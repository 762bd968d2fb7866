"""Group commit: whatever is asked for while one transaction is under way goes into the next.

To make a transaction durable costs the same for one request as for a hundred.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from deployments.errors import StoreUnavailable

Item = TypeVar("Item")
Answer = TypeVar("Answer")

MAX_WAITING = 10_000  # items; whoever comes beyond them is refused
MAX_GROUP = 256  # items of one transaction, so that the first need not wait for long


class Gatherer(Generic[Item, Answer]):
    """Carries items to `carry` in groups, one group at a time.

    Args:
        carry: one answer for each item, in the same order; an exception is raised by its caller.
    """

    def __init__(
        self,
        carry: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]],
        name: str,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._carry = carry
        self._name = name
        self._max_waiting = max_waiting
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._task: asyncio.Task[None] | None = None

    async def ask(self, item: Item) -> Answer:
        """The answer for `item`; it is carried even if the caller is cancelled meanwhile.

        Raises:
            StoreUnavailable: too many wait.
        """
        if len(self._waiting) >= self._max_waiting:
            raise StoreUnavailable
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=self._name)
        return await future

    async def finished(self) -> None:
        """Wait until nothing is under way."""
        while self._task is not None:
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
                await self._settle(group)
                await asyncio.sleep(0)  # those just answered may have more to ask
        finally:
            self._task = None

    async def _settle(self, group: "list[tuple[Item, asyncio.Future[Answer]]]") -> None:
        answers = await self._answers([item for item, _ in group])
        for (_, future), answer in zip(group, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    async def _answers(self, items: Sequence[Item]) -> Sequence[Answer | Exception]:
        """Nobody fails for what another one has asked: a group that fails is taken apart."""
        try:
            return await self._carry(items)
        except StoreUnavailable as error:
            return [error] * len(items)
        except Exception as error:
            if len(items) == 1:
                return [error]
            return [answer for item in items for answer in await self._answers([item])]
