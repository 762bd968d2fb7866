"""Sequences of several adapters in one batch have the tokens of each merged model alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import SetupError
from deployments.florence.engine.low_rank import attach
from deployments.florence.image_cache import ImageCache
from deployments.florence.sequence import Sequence
from tests.florence.engine.checkpoints import SLIM_BASE, UNEVEN
from tests.florence.engine.low_rank import KINDS, AdaptedPool, RandomFactors
from tests.florence.engine.pool import Answer, Way
from tests.florence.engine.test_engine import LENGTHS, equals, exactly
from tests.florence.engine.traffic import NEVER, Drive, Planned, Traffic, traffics
from tests.florence.sequences import answers, fresh

NAMES = ("", *KINDS)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> AdaptedPool:
    return AdaptedPool(UNEVEN, tmp_path_factory.mktemp("uneven"))


@pytest.fixture(scope="module")
def slim_base(tmp_path_factory: pytest.TempPathFactory) -> AdaptedPool:
    return AdaptedPool(SLIM_BASE, tmp_path_factory.mktemp("slim-base"))


def alone(pool: AdaptedPool, way: Way, planned: Planned) -> Answer:
    """The merged model's answer to a sequence."""
    ngram = way.ngram if planned.ngram is None else planned.ngram
    own = replace(way, max_new_tokens=planned.max_new_tokens, ngram=ngram)
    return pool.answer(planned.adapter, planned.number, own, planned.num_beams)


def cleared(pool: AdaptedPool, way: Way, planned: Planned) -> Planned:
    """The same about the next sequence whose answer is no near-tie."""
    size = len(pool.base.sequences)
    others = (replace(planned, number=(planned.number + n) % size) for n in range(size))
    return next(each for each in others if alone(pool, way, each).is_clear)


def check(pool: AdaptedPool, way: Way, num_beams: int, traffic: Traffic) -> None:
    """Every sequence that has not left has exactly the merged model's answer."""
    traffic = replace(traffic, planned=tuple(cleared(pool, way, each) for each in traffic.planned))
    engine = pool.base.engine(
        way, num_beams, traffic.max_batch_size, traffic.prefill_batch_size, traffic.launch_ahead
    )
    ended = Drive(engine, pool.base.sequences, traffic).ended()
    for number, planned in enumerate(traffic.planned):
        if number in ended or planned.cancelled_after == NEVER:
            equals(ended[number], alone(pool, way, planned))


def mix(num_beams: int) -> Traffic:
    """Each adapter and the base side by side, each asked twice."""
    planned = [
        Planned(number, num_beams, 16, adapter=name, scored=number % 2 == 0)
        for number, name in enumerate((*NAMES, *reversed(NAMES)))
    ]
    return Traffic(tuple(planned), (3, 0, 2, 1), 6, 3)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_each_has_the_answer_of_its_merged_model(uneven: AdaptedPool, num_beams: int) -> None:
    """All adapters and the base in one batch."""
    check(uneven, Way(), num_beams, mix(num_beams))


@pytest.mark.slow
@pytest.mark.parametrize("num_beams", [1, 3])
def test_in_the_shape_of_base(slim_base: AdaptedPool, num_beams: int) -> None:
    check(slim_base, Way(), num_beams, mix(num_beams))


@pytest.mark.slow
@pytest.mark.parametrize("num_beams", [1, 3])
@exactly
@given(data=st.data())
def test_whatever_the_traffic(uneven: AdaptedPool, num_beams: int, data: st.DataObject) -> None:
    """They join and leave at any time, are cancelled and preempted, with any beams."""
    size, beams = len(uneven.base.sequences), sorted({1, num_beams})
    check(uneven, Way(), num_beams, data.draw(traffics(size, beams, LENGTHS, NAMES)))


def test_every_adapter_changes_answers(uneven: AdaptedPool) -> None:
    """Else the others would prove nothing."""
    numbers = range(len(uneven.base.sequences))
    found = [[uneven.answer(name, n, Way(), 1).tokens for n in numbers] for name in NAMES]
    assert all(a != b for n, a in enumerate(found) for b in found[:n])


def test_a_preempted_sequence_resumes_with_its_own(uneven: AdaptedPool) -> None:
    """In a place where another adapter's was."""
    planned = tuple(
        cleared(uneven, Way(), Planned(n, 3, 16, preempted_after=n % 4, adapter=name))
        for n, name in enumerate(NAMES * 2)
    )
    check(uneven, Way(), 3, Traffic(planned, (2, 1), 3, 2))


def test_adapters_share_an_image_unless_they_see_it_differently(uneven: AdaptedPool) -> None:
    """One pass of the vision tower for the base and what changes words; one for `eyes`."""
    cache: ImageCache[torch.Tensor] = ImageCache(10**9)
    engine = uneven.base.engine(Way(), 1, 5, 5, image_cache=cache)
    number = next(
        n
        for n in range(len(uneven.base.sequences))
        if all(uneven.answer(name, n, Way(), 1).is_clear for name in NAMES)
    )
    asked = [
        replace(uneven.base.sequences[number], adapter=name, image_key="picture") for name in NAMES
    ]
    expected = [uneven.answer(name, number, Way(), 1).tokens for name in NAMES]
    for _ in range(2):
        assert answers(engine, asked) == expected
    assert cache.num_bytes == 2 * cache.get(("picture", 0)).nbytes  # type: ignore[union-attr]
    again = fresh(asked)
    engine.add(again)
    assert all(each.image_is_known for each in again)


def test_the_base_alone_costs_and_changes_nothing(uneven: AdaptedPool) -> None:
    """Its answers beside attached adapters are bit-equal to those of a model without any."""
    pool = uneven.base
    with_them = pool.engine(Way(), 3, 3, 3)
    attached, pool.adapters = pool.adapters, None
    try:
        without = pool.engine(Way(), 3, 3, 3)
    finally:
        pool.adapters = attached
    scored = [replace(each, scored=True) for each in pool.sequences[:3]]
    logprobs = []
    for engine in (with_them, without):
        batch = fresh(scored)
        engine.add(batch)
        ended: list[Sequence] = []
        while len(ended) < len(batch):
            ended += engine.step()
        logprobs.append([each.scores.logprobs for each in batch if each.scores is not None])
    assert len(logprobs[0]) == 3
    assert logprobs[0] == logprobs[1]


def test_an_unknown_adapter_fails_alone(uneven: AdaptedPool) -> None:
    """Before anything of its batch has begun."""
    engine = uneven.base.engine(Way(), 1, 2, 2)
    with pytest.raises(ValueError, match="no adapter 'strange'"):
        engine.add([replace(uneven.base.sequences[0], adapter="strange")])
    assert engine.step() == []


MISFITS = {
    "unknown": ("model.language_model.encoder.layers.99.fc1", (2, 40), (64, 2), "no projection"),
    "no projection": ("model.language_model.shared", (2, 40), (64, 2), "no projection"),
    "shape": ("model.language_model.encoder.layers.0.fc1", (2, 41), (64, 2), "64 x 41 weights"),
}


@pytest.mark.parametrize(("module", "down", "up", "words"), MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit_is_refused(
    uneven: AdaptedPool, module: str, down: tuple[int, int], up: tuple[int, int], words: str
) -> None:
    """In one line that names the adapter and the module."""
    pair = RandomFactors(np.zeros(down, np.float32), np.zeros(up, np.float32), 1.0)
    with pytest.raises(SetupError, match=words) as raised:
        attach(uneven.base.model.florence, {"tenant": {module: pair}})
    assert "\n" not in str(raised.value)
    assert "tenant" in str(raised.value)
