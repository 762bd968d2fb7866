"""The batcher with a real engine: each caller gets the answer that it would get alone."""

import asyncio
import collections.abc
import time
from dataclasses import dataclass, replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from deployments.florence.batcher import Batcher
from deployments.florence.engine.engine import Engine
from deployments.florence.sequence import Progress, Sequence, Tokens
from tests.florence.engine.pool import Pool, Way

SOON_S = 30.0  # the longest that all may take together
Task = asyncio.Task[Tokens]


@dataclass(frozen=True)
class Caller:
    """A client of one of a pool's sequences.

    Comes and, unless it stays, leaves so many thousandths of a second after those before it came.
    """

    number: int
    num_beams: int
    priority: int
    comes_ms: int
    leaves_ms: int | None


def callers(num_sequences: int) -> st.SearchStrategy[list[Caller]]:
    """Callers that arrive, and a few that leave early."""
    each = st.builds(
        Caller,
        st.integers(0, num_sequences - 1),
        st.sampled_from((1, 3)),
        priority=st.integers(-2, 2),
        comes_ms=st.sampled_from((0, 0, 0, 3)),
        leaves_ms=st.sampled_from((None, None, 1, 20)),
    )
    return st.lists(each, min_size=1, max_size=16)


async def serve(
    engine: Engine,
    pool: collections.abc.Sequence[Sequence],
    asking: collections.abc.Sequence[Caller],
    turn_tokens: float,
) -> tuple[list[Tokens | BaseException], list[list[Progress]]]:
    """The answer and the partial answers of each caller."""
    batcher = Batcher(engine, max_wait_s=0.001, max_queue=100, turn_tokens=turn_tokens)
    progress: list[list[Progress]] = [[] for _ in asking]
    tasks: list[Task] = []
    try:
        for caller, parts in zip(asking, progress, strict=True):
            await asyncio.sleep(caller.comes_ms / 1000)
            sequence = replace(
                pool[caller.number],
                num_beams=caller.num_beams,
                priority=caller.priority,
                deadline=time.time() + SOON_S,
            )
            tasks.append(asyncio.create_task(batcher.submit(sequence, parts.append)))
            if caller.leaves_ms is not None:
                asyncio.get_running_loop().call_later(caller.leaves_ms / 1000, tasks[-1].cancel)
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        batcher.close()
    return ended, progress


@pytest.mark.slow
@settings(
    max_examples=20,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
)
@given(data=st.data())
def test_every_caller_gets_its_own_answer(clear: Pool, data: st.DataObject) -> None:
    """A caller that stays gets all of it, and nothing else on the way; one that leaves may, too."""
    asking = data.draw(callers(len(clear.sequences)))
    most = data.draw(st.integers(1, 6))
    together = data.draw(st.integers(1, min(most, 4)))
    turn_tokens = data.draw(st.sampled_from((float("inf"), 3)))
    engine = clear.engine(Way(), 3, most, together, launch_ahead=data.draw(st.booleans()))
    ended, progress = asyncio.run(serve(engine, clear.sequences, asking, turn_tokens))
    for caller, end, parts in zip(asking, ended, progress, strict=True):
        answer = clear.answer(caller.number, Way(), caller.num_beams).tokens
        if caller.leaves_ms is None or not isinstance(end, asyncio.CancelledError):
            assert end == answer
        assert all(answer[: len(part.tokens)] == part.tokens for part in parts)
