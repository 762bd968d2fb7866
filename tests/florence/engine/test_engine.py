"""The engine's tokens equal those of transformers' `generate` for each sequence alone.

In fp32 on the CPU; what comes when, with which others, and what leaves early is drawn by
hypothesis.
"""

import collections.abc
import gc
import weakref
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from deployments.florence.engine.engine import Engine, grouped
from deployments.florence.sequence import Progress, Sequence, Tokens
from tests.florence.engine.pool import EOS, Answer, Pool, Way
from tests.florence.engine.traffic import NEVER, NGRAMS, Drive, Planned, Traffic, traffics
from tests.florence.sequences import answers as tokens_of
from tests.florence.sequences import fresh

pytestmark = pytest.mark.slow

CLOSE = 4e-6  # log-probabilities in fp32, as a part of the largest logit
LENGTHS = (16, 7)  # most new tokens of a sequence
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


def alone_of(pool: Pool, way: Way, planned: Planned) -> Answer:
    """The answer of `generate` to a sequence alone."""
    ngram = way.ngram if planned.ngram is None else planned.ngram
    own = replace(way, max_new_tokens=planned.max_new_tokens, ngram=ngram)
    return pool.answer(planned.number, own, planned.num_beams)


def cleared(pool: Pool, way: Way, planned: Planned) -> Planned:
    """The same about the next of the pool's sequences whose answer is no near-tie."""
    size = len(pool.sequences)
    others = (replace(planned, number=(planned.number + n) % size) for n in range(size))
    return next(each for each in others if alone_of(pool, way, each).is_clear)


def check(pool: Pool, way: Way, num_beams: int, traffic: Traffic) -> None:
    """Every sequence that has not left has exactly the answer of being alone."""
    traffic = replace(traffic, planned=tuple(cleared(pool, way, each) for each in traffic.planned))
    engine = pool.engine(
        way, num_beams, traffic.max_batch_size, traffic.prefill_batch_size, traffic.launch_ahead
    )
    ended = Drive(engine, pool.sequences, traffic).ended()
    for number, planned in enumerate(traffic.planned):
        if number in ended or planned.cancelled_after == NEVER:
            equals(ended[number], alone_of(pool, way, planned))


def equals(sequence: Sequence, answer: Answer) -> None:
    """It has these tokens, their scores if it is scored, and says rightly whether it was cut."""
    assert sequence.tokens == answer.tokens
    assert sequence.truncated == answer.truncated
    assert (sequence.scores is not None) == sequence.scored
    if sequence.scores is not None:
        close = CLOSE * max(1.0, answer.largest)
        assert sequence.scores.logprobs == pytest.approx(answer.logprobs, 0, close)
        assert len(sequence.scores.errors) == len(answer.logprobs)


def whole_pool(
    pool: Pool, way: Way, num_beams: int, max_batch_size: int = 5, prefill_batch_size: int = 3
) -> Traffic:
    """Each sequence of the pool once."""
    numbers = range(len(pool.sequences))
    planned = tuple(
        Planned(number, num_beams, way.max_new_tokens, scored=number % 2 == 0) for number in numbers
    )
    return Traffic(planned, (2, 0, 1), max_batch_size, prefill_batch_size)


@pytest.mark.slow
@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@exactly
@given(data=st.data())
def test_each_gets_the_answer_of_being_alone(
    pool: Pool, way: Way, num_beams: int, data: st.DataObject
) -> None:
    """Whatever the order, batch sizes, cancellations and preemptions, with any beams."""
    beams = sorted({1, num_beams})
    check(pool, way, num_beams, data.draw(traffics(len(pool.sequences), beams, LENGTHS)))


@pytest.mark.slow
@pytest.mark.parametrize("early_stopping", ENDS)
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@settings(exactly, max_examples=3)
@given(data=st.data())
def test_every_way_to_end_a_beam_search(
    uneven: Pool, early_stopping: bool | str, length_penalty: float, data: st.DataObject
) -> None:
    """Four beams next to two and one; each sequence with four at least once."""
    way = Way(early_stopping=early_stopping, length_penalty=length_penalty)
    whole = whole_pool(uneven, way, num_beams=4)
    drawn = data.draw(traffics(len(uneven.sequences), (4, 2, 1), (16,)))
    check(uneven, way, 4, replace(drawn, planned=whole.planned + drawn.planned))


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("forced", [True, False])
@pytest.mark.parametrize(("most", "least"), [(1, 0), (2, 0), (2, 2), (3, 0), (16, 9)])
def test_lengths(uneven: Pool, most: int, least: int, forced: bool, num_beams: int) -> None:
    """From a single token on, and with an end that is put off."""
    way = Way(forced=forced, max_new_tokens=most, min_new_tokens=least)
    check(uneven, way, num_beams, whole_pool(uneven, way, num_beams))


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_long_answers(uneven: Pool, num_beams: int, ahead: bool) -> None:
    """Longer than the first span of the attention, next to some that have just begun."""
    way = Way(max_new_tokens=LONGER, min_new_tokens=LONGER)
    check(uneven, way, num_beams, replace(whole_pool(uneven, way, num_beams), launch_ahead=ahead))


@pytest.mark.parametrize("num_beams", [1, 2, 3])
def test_limits_and_ngrams_of_their_own(uneven: Pool, num_beams: int) -> None:
    """Every limit from one token on, n-grams of every length, scored and not, all in one batch."""
    planned = [
        Planned(number % 5, 1 + number % num_beams, most, ngram=ngram, scored=number % 3 > 0)
        for number, (most, ngram) in enumerate(product(range(1, 17), (None, *NGRAMS)))
    ]
    check(uneven, Way(), num_beams, Traffic(tuple(planned), (3, 1), 7, 3))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_batch_of_one(uneven: Pool, num_beams: int) -> None:
    """One after the other."""
    check(uneven, Way(), num_beams, whole_pool(uneven, Way(), num_beams, 1, 1))


def test_one_of_three_beams_at_first(uneven: Pool) -> None:
    """Greedy ones alone, then with beams, then alone again."""
    planned = [Planned(number, 1, 16) for number in range(10)]
    planned[3:3] = [Planned(number, 3, 7) for number in (3, 0)]
    check(uneven, Way(), 3, Traffic(tuple(planned), (1, 0, 0), 3, 2))


def test_beams_are_the_engines_own_unless_asked_for(clear: Pool) -> None:
    """And so is the longest answer."""
    [answer] = tokens_of(clear.engine(Way(), 3, 1, 1), clear.sequences[:1])
    assert answer == clear.answer(0, Way(), 3).tokens


def finished(engine: Engine, sequences: collections.abc.Sequence[Sequence]) -> list[Tokens]:
    """The tokens of sequences that have begun, and of no others."""
    ended: list[Sequence] = []
    while len(ended) < len(sequences):
        ended += engine.step()
    assert set(ended) == set(sequences)
    return [each.tokens for each in sequences]


def alone(pool: Pool, numbers: collections.abc.Sequence[int]) -> list[Tokens]:
    """The answers of `generate` to each of these."""
    return [pool.answer(number, Way(), 3).tokens for number in numbers]


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("gone", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_leaving_while_with_the_encoder(clear: Pool, gone: tuple[int, ...], ahead: bool) -> None:
    """Even all of them; the others' answers are their own, and so are those of the next ones."""
    engine = clear.engine(Way(), 3, 4, 3, ahead)
    batch = fresh(clear.sequences[:3])
    engine.add(batch)
    for number in gone:
        engine.drop(batch[number])
    stayed = [number for number in range(3) if number not in gone]
    assert finished(engine, [batch[number] for number in stayed]) == alone(clear, stayed)
    assert tokens_of(engine, clear.sequences[3:6]) == alone(clear, [3, 4, 5])


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("leaver", [0, 1, 2])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_leaving_later(clear: Pool, leaver: int, steps: int, ahead: bool) -> None:
    """From the first place, from the last, and from between."""
    engine = clear.engine(Way(), 3, 3, 3, ahead)
    batch = fresh(clear.sequences[:3])
    engine.add(batch)
    for _ in range(steps):
        assert not engine.step()
    engine.drop(batch[leaver])
    stayed = [number for number in range(3) if number != leaver]
    assert finished(engine, [batch[number] for number in stayed]) == alone(clear, stayed)


def test_leaving_with_the_answer_on_its_way(clear: Pool) -> None:
    """One that is dropped gets none, though its end was found when the other was preempted."""
    answers = [clear.answer(number, Way(), 1).tokens for number in range(len(clear.sequences))]
    first, last = min(answers, key=len), max(answers, key=len)
    engine = clear.engine(Way(), 1, 2, 2, launch_ahead=True)
    batch = fresh(clear.sequences[answers.index(answer)] for answer in (first, last))
    engine.add(batch)
    for _ in first[1:]:
        assert not engine.step()
    assert engine.preempt(batch[1])
    engine.drop(batch[0])
    engine.add(batch[1:])
    assert finished(engine, batch[1:]) == [last]


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_reset_forgets_everything(clear: Pool, steps: int, ahead: bool) -> None:
    """Also what is with the encoder; nothing of it is in later answers."""
    engine = clear.engine(Way(), 3, 5, 2, ahead)
    batch = fresh(clear.sequences[:4])
    engine.add(batch[:2])
    for _ in range(steps):
        engine.step()
    engine.add(batch[2:])
    engine.reset()
    assert not engine.step()
    assert engine.progress(batch) == {}
    assert tokens_of(engine, clear.sequences[4:6]) == alone(clear, [4, 5])


@pytest.mark.parametrize("steps", [0, 1, 5])
@pytest.mark.parametrize("ahead", [False, True])
def test_a_probe_changes_no_answer(clear: Pool, steps: int, ahead: bool) -> None:
    """Alone, with others at the encoder, and while they run; nothing is left of it."""
    engine = clear.engine(Way(), 3, 4, 2, ahead)
    engine.probe()
    batch = fresh(clear.sequences[:3])
    engine.add(batch[:2])
    for _ in range(steps):
        assert not engine.step()
    engine.probe()
    engine.add(batch[2:])
    engine.probe()
    assert finished(engine, batch) == alone(clear, (0, 1, 2))
    engine.probe()
    assert engine.step() == []


@pytest.mark.parametrize("ahead", [False, True])
def test_a_probe_takes_no_answer_that_is_on_its_way(clear: Pool, ahead: bool) -> None:
    """Another that has ended meanwhile is told of by the next step."""
    engine = clear.engine(Way(), 3, 4, 2, ahead)
    batch = [replace(each, max_new_tokens=n) for n, each in enumerate(clear.sequences[:2], 2)]
    engine.add(batch)
    ended: list[Sequence] = []
    for _ in range(5):
        ended += engine.step()
        engine.probe()
    assert set(ended) == set(batch)
    assert [len(each.tokens) for each in batch] == [3, 4]


def test_dropping_a_stranger_changes_nothing(clear: Pool) -> None:
    """Nor does dropping twice."""
    engine = clear.engine(Way(), 3, 2, 1)
    batch = fresh(clear.sequences[:2])
    for each in batch:
        engine.add([each])
    engine.drop(replace(clear.sequences[0]))
    engine.step()
    engine.drop(batch[0])
    engine.drop(batch[0])
    assert finished(engine, batch[1:]) == alone(clear, [1])


def are_gone(batch: list[Sequence]) -> bool:
    """Whether nothing else refers to these sequences; the list is empty afterwards."""
    left = [weakref.ref(each) for each in batch]
    batch.clear()
    gc.collect()
    return not any(each() for each in left)


@pytest.mark.parametrize("ahead", [False, True])
def test_no_state_is_kept_of_a_dropped_sequence(uneven: Pool, ahead: bool) -> None:
    """With an answer, or dropped from the batch, from the encoder or while preempted."""
    engine = uneven.engine(Way(), 3, 4, 2, ahead)
    batch = fresh(uneven.sequences[:4])
    engine.add(batch[:2])
    engine.step()
    assert engine.preempt(batch[0])
    engine.add(batch[2:])
    for number in range(3):
        engine.drop(batch[number])
    finished(engine, batch[3:])
    assert are_gone(batch)


@pytest.mark.parametrize("ahead", [False, True])
def test_no_state_is_kept_after_a_reset(uneven: Pool, ahead: bool) -> None:
    """Of what runs, what is with the encoder, and what is preempted."""
    engine = uneven.engine(Way(), 3, 4, 2, ahead)
    batch = fresh(uneven.sequences[:3])
    engine.add(batch[:2])
    engine.step()
    assert engine.preempt(batch[0])
    engine.add(batch[2:])
    engine.reset()
    assert are_gone(batch)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("early_stopping", ENDS)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_progress_is_the_beginning_of_the_answer(
    uneven: Pool, num_beams: int, early_stopping: bool | str, ahead: bool
) -> None:
    """Nothing is taken back, and it grows."""
    way = Way(early_stopping=early_stopping)
    engine = uneven.engine(way, num_beams, 16, 16, ahead)
    batch = [replace(each, scored=number % 2 == 0) for number, each in enumerate(uneven.sequences)]
    engine.add(batch)
    progress: dict[Sequence, list[Progress]] = {each: [Progress(())] for each in batch}
    num_ended = 0
    while num_ended < len(batch):
        num_ended += len(engine.step())
        for each, found in engine.progress(batch).items():
            progress[each].append(found)
    for each, parts in progress.items():
        assert parts == sorted(parts, key=lambda part: len(part.tokens))
        assert all(each.tokens[: len(part.tokens)] == part.tokens for part in parts)
        assert len(parts[-1].tokens) > 1
        if each.scores is not None:
            found_scores = [part.scores for part in parts[1:]]
            assert found_scores == [each.scores[: len(p.tokens) - 1] for p in parts[1:]]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_long_and_short_ones_attend_in_groups(uneven: Pool, num_beams: int) -> None:
    """Sequences that join a long one, which then ends among them."""
    way = Way(max_new_tokens=120, min_new_tokens=100)
    numbers = [n for n in range(12) if uneven.answer(n, way, num_beams).is_clear][:4]
    assert len(numbers) > 2
    engine = uneven.engine(way, num_beams, 4, 1)
    first, *others = batch = fresh([uneven.sequences[n] for n in numbers])
    engine.add([first])
    for _ in range(90):
        engine.step()
    for each in others:
        engine.add([each])
    engine.step()
    assert engine._size().groups == ((1, 96), (len(others), 32))
    answers = [uneven.answer(n, way, num_beams).tokens for n in numbers]
    assert finished(engine, batch) == answers


@pytest.mark.parametrize(
    ("spans", "groups"),
    [
        ([], ()),
        ([32], ((1, 32),)),
        ([32, 64, 96], ((2, 64), (1, 96))),
        ([96, 64, 64, 64], ((2, 96), (2, 64))),
        ([32, 32, 832, 32], ((2, 32), (1, 832), (1, 32))),
        ([64, 64, 64, 96], ((3, 64), (1, 96))),
    ],
)
def test_neighbours_of_like_span_are_a_group(
    spans: list[int], groups: tuple[tuple[int, int], ...]
) -> None:
    """As long as that pads them by fewer than 64 positions in all."""
    assert grouped(spans, 64) == groups


@pytest.mark.slow
def test_answers_end_anywhere(demo: Pool, slim_base: Pool, uneven: Pool) -> None:
    """At the first token, at nearly every one until the last, and not at all."""
    answers = [
        pool.answer(number, way, 1).tokens
        for pool in (demo, slim_base, uneven)
        for number in range(len(pool.sequences))
        for way in WAYS.values()
    ]
    longest = 1 + Way().max_new_tokens
    lengths = {len(answer) for answer in answers}
    assert {2, 3, longest - 1, longest} <= lengths
    assert len(lengths) > 12
    assert any(answer[-1] != EOS for answer in answers)


def test_every_way_matters(uneven: Pool) -> None:
    """Beams, n-grams, forced tokens and the end of the search change some answer each."""
    numbers = range(len(uneven.sequences))

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


@pytest.mark.slow
def test_repeats_are_there_where_n_grams_may_come_again(uneven: Pool) -> None:
    """All answers end, whether or not what they say goes round in circles."""
    engine = uneven.engine(Way(max_new_tokens=LONGER), 1, 4, 4)
    for ngram in (3, 0):
        asked = [replace(each, no_repeat_ngram_size=ngram) for each in uneven.sequences]
        said = tokens_of(engine, asked)
        assert any(map(repeats, said)) is (ngram == 0)


def repeats(tokens: Tokens) -> bool:
    """Whether three tokens come again in their order."""
    threes = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return len(set(threes)) < len(threes)
