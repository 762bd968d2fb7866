"""The backend that calls transformers: exact, obedient, and it stops for callers that leave."""

import collections.abc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from transformers import AutoProcessor

from deployments.florence.backend import DeviceFault
from deployments.florence.generate_backend import GREEDY, Generate, generate_options
from deployments.florence.model import Model
from deployments.florence.sequence import Sequence, Tokens
from deployments.florence.tasks import TASKS
from deployments.florence.token_scores import FAR_BINS, NEAR_BINS
from deployments.settings import DEMO_CHECKPOINT, InferenceSettings
from tests.florence.engine.pool import Way, is_cut
from tests.florence.sequences import fresh, mixed_batch, model, new_tokens, scene, sequence

pytestmark = pytest.mark.slow

CLOSE = 3e-5  # log-probabilities in fp32: sums of a batch come in another order than of one alone


def backend(**generation: Any) -> Generate:
    """The demo checkpoint with these settings."""
    return Generate(model(), InferenceSettings(**generation))


@pytest.mark.parametrize("num_beams", [None, 1])
def test_a_batch_has_the_answers_of_each_alone(num_beams: int | None) -> None:
    """In fp32 the tokens of a mixed batch are exactly those of its requests one by one."""
    batch = mixed_batch()
    assert len({len(each.prompt) for each in batch}) > 1
    generate = backend(num_beams=num_beams)
    alone = [generate.answers([each])[0] for each in batch]
    assert alone == generate.answers(batch)


def test_a_probe_takes_no_answer() -> None:
    """Those that have begun end with their step; a fault of the device is told as one."""
    generate = backend(num_beams=1, max_new_tokens=5)
    [each, alone] = [sequence(3, "caption"), sequence(3, "caption")]
    generate.warm_up(each)
    generate.add([each])
    generate.probe()
    assert generate.step() == [each]
    assert [each.tokens] == generate.answers([alone])
    generate._generate = broken  # type: ignore[method-assign]
    for work in (generate.probe, partial(generate.answers, [each])):
        with pytest.raises(DeviceFault, match="CUDA error: an illegal"):
            work()


def broken(*_given: Any, **_changed: Any) -> None:
    """What a lost device does."""
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize("chosen", [None, 1, 2])
def test_sequences_with_beams_of_their_own_share_a_step(chosen: int | None) -> None:
    """Each has the answer that it would have if the settings had its beams."""
    wanted = [None, 1, 3, 2, 3, None]
    batch = [sequence(seed, "object-detection", num_beams=k) for seed, k in enumerate(wanted)]
    plain = [sequence(seed, "object-detection") for seed in range(len(wanted))]
    alone = [
        backend(num_beams=k or chosen).answers([each])[0]
        for k, each in zip(wanted, plain, strict=True)
    ]
    assert alone == backend(num_beams=chosen).answers(batch)


def test_answers_are_the_librarys() -> None:
    """Image by image, the library's own processor and `generate` say the same."""
    processor = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)  # type: ignore[no-untyped-call]
    for path in ("region-proposal", "caption"):
        inputs = processor(text=TASKS[path].marker, images=scene(3), return_tensors="pt")
        with torch.inference_mode():
            rows = model().florence.generate(**inputs, max_new_tokens=511)
        assert tuple(rows[0].tolist()) == backend().answers([sequence(3, path)])[0]


LIMITS = (1, 2, 3, 5, 8, 13, 30)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_scores_are_the_librarys(num_beams: int) -> None:
    """Of each in a mixed batch, as its own transition scores; the unscored ones have none."""
    batch = [*mixed_batch(scored=True), *mixed_batch()]
    backend(num_beams=num_beams, max_new_tokens=30).answers(batch)
    assert [each.scores is not None for each in batch] == [each.scored for each in batch]
    for each in batch[: len(batch) // 2]:
        output = asked(each, num_beams, 30)
        expected = model().florence.compute_transition_scores(
            output.sequences, output.logits, output.get("beam_indices"), normalize_logits=True
        )
        assert each.tokens == tuple(output.sequences[0].tolist())
        assert each.scores is not None
        assert each.scores.logprobs == pytest.approx(expected[0].tolist(), abs=CLOSE)


def test_errors_are_those_of_the_librarys_probabilities() -> None:
    """A location is off by the distance of each bin about it, and by more in all other cases."""
    each = sequence(1, "object-detection", scored=True)
    backend(num_beams=1).answers([each])
    vocabulary, logits = model().checkpoint.vocabulary, asked(each, 1, 511).logits
    assert each.scores is not None
    assert set(each.tokens) & vocabulary.bins.keys()
    for token, step, error in zip(each.tokens[1:], logits, each.scores.errors, strict=True):
        if token not in vocabulary.bins:
            continue
        probabilities = step[0].softmax(-1).tolist()
        distances = {id_: abs(b - vocabulary.bins[token]) for id_, b in vocabulary.bins.items()}
        near = {id_: each for id_, each in distances.items() if each <= NEAR_BINS}
        rest = 1 - sum(probabilities[id_] for id_ in near)
        expected = sum(probabilities[id_] * each for id_, each in near.items()) + rest * FAR_BINS
        assert error == pytest.approx(expected, abs=100 * CLOSE)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_an_answer_is_cut_where_the_library_would_go_on(num_beams: int) -> None:
    """At any limit; a greedy one is whole if the library, with one token more, says the same."""
    paths = ("region-proposal", "caption", "object-detection")
    cut = set()
    for path, limit in product(paths, LIMITS):
        each = sequence(3, path, num_beams=num_beams, max_new_tokens=limit)
        backend().answers([each])
        output = asked(each, num_beams, limit)
        assert each.tokens == tuple(output.sequences[0].tolist())
        assert each.truncated == is_cut(output, Way(max_new_tokens=limit))
        if num_beams == 1:
            more = tuple(asked(each, num_beams, limit + 1).sequences[0].tolist())
            assert each.truncated == (more != each.tokens)
        cut.add(each.truncated)
    assert cut == {True, False}


@torch.inference_mode()
def asked(sequence: Sequence, num_beams: int, limit: int) -> Any:
    """What the library itself says about a sequence alone, and all that it says of it."""
    ids, mask = model().padded([sequence.prompt])
    return model().florence.generate(
        input_ids=ids,
        attention_mask=mask,
        pixel_values=model().normalised([sequence.pixels]),
        num_beams=num_beams,
        max_new_tokens=limit,
        do_sample=False,
        early_stopping=False,
        return_dict_in_generate=True,
        output_logits=True,
    )


def test_answers_have_no_padding() -> None:
    """The shorter answers of a batch are not filled up."""
    found = backend().answers(mixed_batch())
    assert len({len(answer) for answer in found}) > 1
    assert all(model().pad not in answer for answer in found)


@pytest.mark.parametrize("num_beams", [1, 2, 3])
def test_an_answer_that_its_limit_cut_says_so(num_beams: int) -> None:
    """One whose own end is the last token that it may have is whole."""
    asked = sequence(3, "object-detection", num_beams=num_beams)
    [whole] = backend().answers([asked])
    assert not asked.truncated
    lengths = (new_tokens(whole), 5, 2, 1)
    limited = [replace(asked, max_new_tokens=length) for length in lengths]
    found = backend().answers(limited)
    assert found[0] == whole
    assert [new_tokens(tokens) for tokens in found] == list(lengths)
    assert [each.truncated for each in limited] == [False, True, True, True]


def test_twenty_tokens_are_not_the_end() -> None:
    """The default length is far beyond the library's own twenty."""
    [answer] = backend(min_new_tokens=30).answers([sequence(9, "dense-region-caption")])
    assert 30 <= new_tokens(answer) < 511
    assert answer[-1] == model().checkpoint.vocabulary.id("</s>")


class Caller:
    """Waits for an answer and leaves at a given step; counts how often it is asked."""

    def __init__(self, leaves_at: int = 10_000) -> None:
        self.leaves_at = leaves_at
        self.steps = 0

    def __call__(self) -> bool:
        """Whether it still waits."""
        self.steps += 1
        return self.steps < self.leaves_at


def said(
    generate: Generate,
    batch: collections.abc.Sequence[Sequence],
    callers: collections.abc.Sequence[Caller],
) -> list[Tokens]:
    """The answers to these callers."""
    sequences = fresh(batch)
    for each, caller in zip(sequences, callers, strict=True):
        each.is_wanted = caller  # type: ignore[method-assign]
    return generate.answers(sequences)


@pytest.mark.parametrize("num_beams", [None, 1])
def test_a_batch_without_callers_ends_at_once(num_beams: int | None) -> None:
    """A long generation stops at the step at which the last caller leaves."""
    long = backend(num_beams=num_beams, min_new_tokens=500)
    callers = [Caller(3), Caller(7)]
    short = said(long, [sequence(seed, "dense-region-caption") for seed in (1, 2)], callers)
    assert [caller.steps for caller in callers] == [7, 7]
    assert max(map(new_tokens, short)) <= 7


@pytest.mark.parametrize("num_beams", [None, 1])
@pytest.mark.parametrize("left", [0, 1, 2])
def test_the_others_of_a_batch_do_not_change(num_beams: int | None, left: int) -> None:
    """Their tokens are exactly those of a batch in which all stay."""
    batch = [sequence(seed, "object-detection") for seed in (1, 2, 3)]
    undisturbed = backend(num_beams=num_beams).answers(batch)
    callers = [Caller(4) if number == left else Caller() for number in range(3)]
    disturbed = said(backend(num_beams=num_beams), batch, callers)
    assert new_tokens(disturbed[left]) < new_tokens(undisturbed[left])
    del undisturbed[left], disturbed[left]
    assert undisturbed == disturbed


@pytest.mark.parametrize("num_beams", [None, 1])
def test_a_dropped_sequence_delays_no_other(num_beams: int | None) -> None:
    """A batch takes no more steps than the longest sequence that still has a caller."""
    batch = [sequence(2, "region-proposal"), sequence(9, "dense-region-caption")]
    alone, together, left = Caller(), Caller(), Caller()
    generate = backend(num_beams=num_beams)
    said(generate, batch[:1], [alone])
    said(generate, batch, [together, Caller()])
    said(generate, batch, [left, Caller(2)])
    assert alone.steps == left.steps < together.steps


def test_one_that_is_dropped_before_the_pass_is_not_in_it() -> None:
    """Nor is any after a reset."""
    generate = backend(max_new_tokens=4)
    batch = [sequence(seed, "caption") for seed in (1, 2, 3)]
    generate.add(batch)
    generate.drop(batch[1])
    generate.drop(batch[1])
    assert generate.step() == [batch[0], batch[2]]
    generate.add(batch)
    generate.reset()
    assert generate.step() == []


def test_a_pass_is_all_or_nothing() -> None:
    """All begin together, none can be preempted, and nothing is known before the end."""
    generate = backend(max_batch_size=5)
    one = sequence(1, "caption")
    generate.add([one])
    assert (generate.max_batch_size, generate.prefill_batch_size) == (5, 5)
    assert not generate.preempt(one)
    assert generate.progress([one]) == {}


@pytest.mark.parametrize(
    ("settings", "num_beams", "expected"),
    [
        ({}, None, {"max_new_tokens": 511, "min_new_tokens": 0}),
        (
            {"num_beams": 1, "max_new_tokens": 9, "min_new_tokens": 20},
            None,
            {"max_new_tokens": 9, "min_new_tokens": 9, "num_beams": 1} | GREEDY,
        ),
        ({"num_beams": 5}, None, {"max_new_tokens": 511, "min_new_tokens": 0, "num_beams": 5}),
        ({"num_beams": 1}, 3, {"max_new_tokens": 511, "min_new_tokens": 0, "num_beams": 3}),
        (
            {"no_repeat_ngram_size": 0},
            None,
            {"max_new_tokens": 511, "min_new_tokens": 0, "no_repeat_ngram_size": 0},
        ),
    ],
)
def test_settings_reach_the_search(
    settings: dict[str, Any], num_beams: int | None, expected: dict[str, Any]
) -> None:
    """The checkpoint's own search is changed only by what is set, within what it can do."""
    asked = sequence(1, "caption", num_beams=num_beams)
    found = generate_options(model(), InferenceSettings(**settings), asked)
    assert expected | {"do_sample": False} == found


def test_beams_are_the_checkpoints_own_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """`num_beams` reaches `generate` when it is given, and only then."""
    asked: list[Any] = []

    def spy(loaded: Model) -> Callable[..., Any]:
        generate = loaded.florence.generate

        def spied(**given: Any) -> Any:
            asked.append(given.get("num_beams"))
            return generate(**given)

        return spied

    monkeypatch.setattr(model().florence, "generate", spy(model()))
    for generate in (backend(), backend(num_beams=1)):
        generate.answers([sequence(1, "caption")])
    assert asked == [None, 1]
    assert model().florence.generation_config.num_beams == 3


def test_warm_up_leaves_no_trace() -> None:
    """Answers after a warm-up are those before it, though it generates a few tokens only."""
    generate = backend(max_batch_size=2, min_new_tokens=30)
    before = generate.answers([sequence(1, "caption")])
    generate.warm_up(sequence(2, "caption"))
    assert generate.step() == []
    assert before == generate.answers([sequence(1, "caption")])
