"""The engine says what transformers' `generate` says to each query alone, to the token.

In fp32 on the CPU; who comes when, beside whom, and who leaves early is drawn by hypothesis.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.florence.backend import Job
from deployments.florence.engine.engine import Engine
from deployments.florence.run import Query, Tokens
from tests.florence.engine.pool import Answer, Pool, Way
from tests.florence.engine.traffic import NEVER, Traffic, Visit, drive, traffics

MARGIN = 1e-4  # sums in another order move a score by 1e-5 (by 1e-4 the longest of `slim_base`)
LENGTHS = (16, 7)  # most new tokens of a query
LONG = Way(max_new_tokens=70, min_new_tokens=70)
ENDS: tuple[bool | str, ...] = (True, False, "never")

exactly = settings(max_examples=6, derandomize=True, deadline=None, database=None)


def expected(pool: Pool, way: Way, visit: Visit) -> Answer:
    """What `generate` says to a visit's query alone."""
    own = replace(way, max_new_tokens=visit.max_new_tokens)
    answer = pool.answer(visit.number, own, visit.num_beams)
    assert answer.margin > MARGIN, "a near-tie: take another query into the pool"
    return answer


def check(pool: Pool, way: Way, num_beams: int, traffic: Traffic) -> None:
    """Everybody who has not left has exactly the answer of being alone."""
    engine = pool.engine(way, num_beams, traffic.num_slots, traffic.micro_batch, traffic.ahead)
    answers = drive(engine, pool.queries, traffic)
    for number, visit in enumerate(traffic.visits):
        if number in answers or visit.cancelled_after == NEVER:
            assert answers[number] == expected(pool, way, visit).tokens


@pytest.mark.slow
@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("ngram", [0, 3])
@pytest.mark.parametrize("forced", [True, False])
@exactly
@given(data=st.data())
def test_everyone_gets_the_answer_of_being_alone(
    pool: Pool, forced: bool, ngram: int, num_beams: int, data: st.DataObject
) -> None:
    """Whatever the order, slots, micro-batches, cancellations and suspensions; beams may be mixed."""
    beams = (1, 3) if num_beams == 3 else (1,)
    traffic = data.draw(traffics(len(pool.queries), beams, LENGTHS))
    check(pool, Way(ngram=ngram, forced=forced), num_beams, traffic)
