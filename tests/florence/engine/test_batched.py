"""The batcher before a real engine: whatever the priorities, each caller gets the answer alone."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from deployments.florence.batcher import Batched, Batcher
from deployments.florence.engine.engine import Engine
from deployments.florence.request import Query, Request, Tokens
from deployments.florence.schemas import ImageInput
from tests.florence.engine.pool import Pool, Way

SOON_S = 30.0  # the longest that all may take together
Task = asyncio.Task[Batched[Tokens]]


@dataclass(frozen=True)
class Caller:
    """Somebody who asks one of a pool's queries.

    Comes and, unless it stays, leaves so many thousandths of a second after those before it came.
    """

    number: int
    num_beams: int
    priority: int
    comes_ms: int
    leaves_ms: int | None


def callers(num_queries: int) -> st.SearchStrategy[list[Caller]]:
    """Some that come, and a few that leave."""
    each = st.builds(
        Caller,
        st.integers(0, num_queries - 1),
        st.sampled_from((1, 3)),
        priority=st.integers(-2, 2),
        comes_ms=st.sampled_from((0, 0, 0, 3)),
        leaves_ms=st.sampled_from((None, None, 1, 20)),
    )
    return st.lists(each, min_size=1, max_size=16)


async def serve(
    engine: Engine, queries: Sequence[Query], asking: Sequence[Caller], turn_steps: float
) -> tuple[list[Tokens | BaseException], list[list[Tokens]]]:
    """What becomes of each caller, and what it was told on the way."""
    batcher = Batcher[Query, Tokens](engine, max_wait_s=0.001, max_queue=100, turn_steps=turn_steps)
    told: list[list[Tokens]] = [[] for _ in asking]
    tasks: list[Task] = []
    try:
        for caller, parts in zip(asking, told, strict=True):
            await asyncio.sleep(caller.comes_ms / 1000)
            query = replace(queries[caller.number], num_beams=caller.num_beams)
            run = Request(
                "r", "t", ImageInput(image_url="u"), time.time() + SOON_S, priority=caller.priority
            )
            tasks.append(asyncio.create_task(batcher.submit(query, run, report=parts.append)))
            if caller.leaves_ms is not None:
                asyncio.get_running_loop().call_later(caller.leaves_ms / 1000, tasks[-1].cancel)
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        batcher.close()
    return [one.result if isinstance(one, Batched) else one for one in ended], told


@pytest.mark.slow
@settings(
    max_examples=20,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
)
@given(data=st.data())
def test_every_caller_gets_its_own_answer(uneven: Pool, data: st.DataObject) -> None:
    """Who stays gets all of it, and nothing else on the way; who leaves may have had it."""
    asking = data.draw(callers(len(uneven.queries)))
    num_slots = data.draw(st.integers(1, 6))
    micro_batch = data.draw(st.integers(1, min(num_slots, 4)))
    turn_steps = data.draw(st.sampled_from((float("inf"), 3)))
    engine = uneven.engine(Way(), 3, num_slots, micro_batch, ahead=data.draw(st.booleans()))
    ended, told = asyncio.run(serve(engine, uneven.queries, asking, turn_steps))
    for caller, end, parts in zip(asking, ended, told, strict=True):
        answer = uneven.answer(caller.number, Way(), caller.num_beams).tokens
        if caller.leaves_ms is None or not isinstance(end, asyncio.CancelledError):
            assert end == answer
        assert all(answer[: len(part)] == part for part in parts)
