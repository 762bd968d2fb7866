"""The engine says what transformers' `generate` says to each query alone, to the token.

In fp32 on the CPU; who comes when, beside whom, and who leaves early is drawn by hypothesis.
"""

import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from deployments.florence.backend import Job
from deployments.florence.engine.engine import Engine
from deployments.florence.request import Query, Tokens
from tests.florence.engine.pool import EOS, Answer, Pool, Way
from tests.florence.engine.traffic import NEVER, Traffic, Visit, drive, traffics

pytestmark = pytest.mark.slow

MARGIN = 1e-4  # sums in another order move a score by 1e-5, and those of deep models by some more
LENGTHS = (16, 7)  # most new tokens of a query
LONGER = 70  # than two spans of the attention
ENDS: tuple[bool | str, ...] = (True, False, "never")
WAYS = {
    "all rules": Way(),
    "no n-grams": Way(ngram=0),
    "nothing forced": Way(forced=False),
    "no rules": Way(ngram=0, forced=False),
}

exactly = settings(
    max_examples=6,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
)


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


def everyone(
    pool: Pool, way: Way, num_beams: int, num_slots: int = 5, micro_batch: int = 3
) -> Traffic:
    """Each query of the pool once."""
    numbers = range(len(pool.queries))
    visits = tuple(Visit(number, num_beams, way.max_new_tokens) for number in numbers)
    return Traffic(visits, (2, 0, 1), num_slots, micro_batch)


@pytest.mark.slow
@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@exactly
@given(data=st.data())
def test_everyone_gets_the_answer_of_being_alone(
    pool: Pool, way: Way, num_beams: int, data: st.DataObject
) -> None:
    """Whatever the order, slots, micro-batches, cancellations and pauses, beside any beams."""
    beams = sorted({1, num_beams})
    check(pool, way, num_beams, data.draw(traffics(len(pool.queries), beams, LENGTHS)))


@pytest.mark.slow
@pytest.mark.parametrize("early_stopping", ENDS)
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@settings(exactly, max_examples=3)
@given(data=st.data())
def test_every_way_to_end_a_beam_search(
    uneven: Pool, early_stopping: bool | str, length_penalty: float, data: st.DataObject
) -> None:
    """Four beams beside two and one; each query with four at least once."""
    way = Way(early_stopping=early_stopping, length_penalty=length_penalty)
    whole = everyone(uneven, way, num_beams=4)
    drawn = data.draw(traffics(len(uneven.queries), (4, 2, 1), (16,)))
    check(uneven, way, 4, replace(drawn, visits=whole.visits + drawn.visits))


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("forced", [True, False])
@pytest.mark.parametrize(("most", "least"), [(1, 0), (2, 0), (2, 2), (3, 0), (16, 9)])
def test_lengths(uneven: Pool, most: int, least: int, forced: bool, num_beams: int) -> None:
    """From a single token on, and with an end that is put off."""
    way = Way(forced=forced, max_new_tokens=most, min_new_tokens=least)
    check(uneven, way, num_beams, everyone(uneven, way, num_beams))


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_long_answers(uneven: Pool, num_beams: int, ahead: bool) -> None:
    """Longer than the span that the attention reaches at first, beside such as have just begun."""
    way = Way(max_new_tokens=LONGER, min_new_tokens=LONGER)
    check(uneven, way, num_beams, replace(everyone(uneven, way, num_beams), ahead=ahead))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_one_slot(uneven: Pool, num_beams: int) -> None:
    """One after the other."""
    check(uneven, Way(), num_beams, everyone(uneven, Way(), num_beams, num_slots=1, micro_batch=1))


def test_one_of_three_beams_at_first(uneven: Pool) -> None:
    """Greedy ones alone, then beside beams, then alone again: the lanes come and go."""
    visits = [Visit(number, 1, 16) for number in range(10)]
    visits[3:3] = [Visit(number, 3, 7) for number in (3, 0)]
    check(uneven, Way(), 3, Traffic(tuple(visits), (1, 0, 0), num_slots=3, micro_batch=2))


def test_beams_are_the_engines_own_unless_asked_for(uneven: Pool) -> None:
    """And so is the longest answer."""
    [answer] = said(uneven.engine(Way(), 3, 1, 1), uneven.queries[:1])
    assert answer == uneven.answer(0, Way(), 3).tokens


def said(engine: Engine, queries: Sequence[Query]) -> list[Tokens]:
    """The answers of a few that begin together."""
    jobs = [Job(query) for query in queries]
    engine.admit(jobs)
    return finished(engine, jobs)


def finished(engine: Engine, jobs: Sequence[Job[Query]]) -> list[Tokens]:
    """The answers to jobs that have begun, and to nobody else."""
    found: dict[Job[Query], Tokens] = {}
    while len(found) < len(jobs):
        found |= dict(engine.step())
    assert set(found) == set(jobs)
    return [found[job] for job in jobs]


def alone(pool: Pool, numbers: Sequence[int]) -> list[Tokens]:
    """What `generate` says to each of these."""
    return [pool.answer(number, Way(), 3).tokens for number in numbers]


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("gone", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_leaving_while_with_the_encoder(uneven: Pool, gone: Sequence[int], ahead: bool) -> None:
    """Even all of them; the others' answers are their own, and so are those of who comes next."""
    engine = uneven.engine(Way(), 3, 4, 3, ahead)
    jobs = [Job(query) for query in uneven.queries[:3]]
    engine.admit(jobs)
    for number in gone:
        engine.drop(jobs[number])
    stayed = [number for number in range(3) if number not in gone]
    assert finished(engine, [jobs[number] for number in stayed]) == alone(uneven, stayed)
    assert said(engine, uneven.queries[3:6]) == alone(uneven, [3, 4, 5])


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("leaver", [0, 1, 2])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_leaving_later(uneven: Pool, leaver: int, steps: int, ahead: bool) -> None:
    """From the first row, from the last, and from between."""
    engine = uneven.engine(Way(), 3, 3, 3, ahead)
    jobs = [Job(query) for query in uneven.queries[:3]]
    engine.admit(jobs)
    for _ in range(steps):
        assert not engine.step()
    engine.drop(jobs[leaver])
    stayed = [number for number in range(3) if number != leaver]
    assert finished(engine, [jobs[number] for number in stayed]) == alone(uneven, stayed)


def test_leaving_with_the_answer_on_its_way(uneven: Pool) -> None:
    """Who is dropped gets none, though it was found at its end when the other was suspended."""
    answers = [uneven.answer(number, Way(), 1).tokens for number in range(len(uneven.queries))]
    first, last = min(answers, key=len), max(answers, key=len)
    engine = uneven.engine(Way(), 1, 2, 2, ahead=True)
    jobs = [Job(uneven.queries[answers.index(answer)]) for answer in (first, last)]
    engine.admit(jobs)
    for _ in first[1:]:
        assert not engine.step()
    assert engine.suspend(jobs[1])
    engine.drop(jobs[0])
    engine.admit(jobs[1:])
    assert finished(engine, jobs[1:]) == [last]


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_reset_forgets_everything(uneven: Pool, steps: int, ahead: bool) -> None:
    """Also who is with the encoder; nothing of them is in later answers."""
    engine = uneven.engine(Way(), 3, 5, 2, ahead)
    jobs = [Job(query) for query in uneven.queries[:4]]
    engine.admit(jobs[:2])
    for _ in range(steps):
        engine.step()
    engine.admit(jobs[2:])
    engine.reset()
    assert not engine.step()
    assert all(engine.progress(job) is None for job in jobs)
    assert said(engine, uneven.queries[4:6]) == alone(uneven, [4, 5])


def test_dropping_a_stranger_changes_nothing(uneven: Pool) -> None:
    """Nor does dropping twice."""
    engine = uneven.engine(Way(), 3, 2, 1)
    jobs = [Job(query) for query in uneven.queries[:2]]
    for job in jobs:
        engine.admit([job])
    engine.drop(Job(uneven.queries[0]))
    engine.step()
    engine.drop(jobs[0])
    engine.drop(jobs[0])
    assert finished(engine, jobs[1:]) == alone(uneven, [1])


def are_gone(jobs: list[Job[Query]]) -> bool:
    """Whether nobody else knows these jobs; the list is empty afterwards."""
    left = [weakref.ref(job) for job in jobs]
    jobs.clear()
    gc.collect()
    return not any(job() for job in left)


@pytest.mark.parametrize("ahead", [False, True])
def test_nothing_is_kept_of_who_has_left(uneven: Pool, ahead: bool) -> None:
    """With an answer, or dropped from a row, from the encoder or in a pause."""
    engine = uneven.engine(Way(), 3, 4, 2, ahead)
    jobs = [Job(query) for query in uneven.queries[:4]]
    engine.admit(jobs[:2])
    engine.step()
    assert engine.suspend(jobs[0])
    engine.admit(jobs[2:])
    for number in range(3):
        engine.drop(jobs[number])
    finished(engine, jobs[3:])
    assert are_gone(jobs)


@pytest.mark.parametrize("ahead", [False, True])
def test_nothing_is_kept_after_a_reset(uneven: Pool, ahead: bool) -> None:
    """Of who has a row, who is with the encoder, and who pauses."""
    engine = uneven.engine(Way(), 3, 4, 2, ahead)
    jobs = [Job(query) for query in uneven.queries[:3]]
    engine.admit(jobs[:2])
    engine.step()
    assert engine.suspend(jobs[0])
    engine.admit(jobs[2:])
    engine.reset()
    assert are_gone(jobs)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("early_stopping", ENDS)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_progress_is_the_beginning_of_the_answer(
    uneven: Pool, num_beams: int, early_stopping: bool | str, ahead: bool
) -> None:
    """What has been told is never taken back, and it grows."""
    way = Way(early_stopping=early_stopping)
    engine = uneven.engine(way, num_beams, 16, 16, ahead)
    jobs = [Job(query) for query in uneven.queries]
    engine.admit(jobs)
    told: dict[Job[Query], list[Tokens]] = {job: [()] for job in jobs}
    found: dict[Job[Query], Tokens] = {}
    while len(found) < len(jobs):
        found |= dict(engine.step())
        for job in jobs:
            if (tokens := engine.progress(job)) is not None:
                told[job].append(tokens)
    for job, parts in told.items():
        assert parts == sorted(parts, key=len)
        assert all(found[job][: len(part)] == part for part in parts)
        assert len(parts[-1]) > 1


@pytest.mark.slow
def test_answers_end_anywhere(demo: Pool, slim_base: Pool, uneven: Pool) -> None:
    """At the first token, at nearly every one until the last, and not at all."""
    answers = [
        pool.answer(number, way, 1).tokens
        for pool in (demo, slim_base, uneven)
        for number in range(len(pool.queries))
        for way in WAYS.values()
    ]
    longest = 1 + Way().max_new_tokens
    lengths = {len(answer) for answer in answers}
    assert {2, 3, longest - 1, longest} <= lengths
    assert len(lengths) > 12
    assert any(answer[-1] != EOS for answer in answers)


def test_every_way_matters(uneven: Pool) -> None:
    """Beams, n-grams, forced tokens and the end of the search change some answer each."""
    numbers = range(len(uneven.queries))

    def answers(way: Way, num_beams: int) -> list[Tokens]:
        return [uneven.answer(number, way, num_beams).tokens for number in numbers]

    ways = [
        Way(),
        Way(ngram=0),
        Way(forced=False),
        Way(length_penalty=0.0),
        Way(length_penalty=2.0),
    ]
    found = [answers(Way(), 1), *(answers(way, 3) for way in ways)]
    found.append(answers(Way(early_stopping="never"), 3))
    assert all(a != b for n, a in enumerate(found) for b in found[:n])
