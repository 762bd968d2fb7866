"""The next token equals that of transformers' processors, for sequences of any lengths."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
)

from deployments.florence.engine.batch import (
    BatchShape,
    BatchView,
    DecoderBatch,
    SequenceLimits,
    StepSize,
)
from deployments.florence.engine.search import GenerationRules, Search

CPU = "cpu"
BOS, PAD, EOS = 0, 1, 2
VOCAB_SIZE = 5  # so few that everything is repeated
MAX_LENGTH = 12

histories = st.lists(
    st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=MAX_LENGTH - 1),
    min_size=1,
    max_size=6,
)


def rules(forced: bool) -> GenerationRules:
    """The rules of greedy search."""
    return GenerationRules(
        start=EOS,
        pad=PAD,
        eos=EOS,
        forced_bos=BOS if forced else None,
        forced_eos=EOS if forced else None,
        ngram=3,
        early_stopping=False,
        length_penalty=1.0,
    )


def batch_with(said: list[list[int]], ngrams: list[int], min_length: int) -> DecoderBatch:
    """A batch whose sequences have these tokens, and n-grams of these lengths at most once."""
    shape = BatchShape(
        len(said), 1, MAX_LENGTH, num_encoded=1, num_layers=1, num_heads=1, head_width=1
    )
    batch = DecoderBatch(shape, torch.device(CPU), torch.float32)
    limits = [SequenceLimits(1, MAX_LENGTH, min_length, ngram=each) for each in ngrams]
    batch.put(0, torch.zeros(1, len(said), 1, 2), torch.zeros(len(said), 1, 1, 1), limits, EOS)
    for n, tokens in enumerate(said):
        batch.tokens[n, 0, : len(tokens)] = torch.tensor(tokens)
        batch.length[n] = len(tokens)
    return batch


def theirs(scores: Tensor, tokens: list[int], ngram: int, forced: bool, least: int) -> int:
    """What transformers chooses after these tokens, from scores (V)."""
    processors = LogitsProcessorList()
    if ngram:
        processors.append(NoRepeatNGramLogitsProcessor(ngram))
    processors.append(MinNewTokensLengthLogitsProcessor(1, least, EOS, device=CPU))
    if forced:
        processors.append(ForcedBOSTokenLogitsProcessor(BOS))
        processors.append(ForcedEOSTokenLogitsProcessor(MAX_LENGTH, EOS, device=CPU))
    left = processors(torch.LongTensor([tokens]), torch.FloatTensor(scores[None].tolist()))
    return int(left.argmax())


@pytest.mark.slow
@pytest.mark.parametrize("forced", [True, False])
@pytest.mark.parametrize("kinds", [[0], [1], [2], [3], [4], [0, 5, 1, 3, 2], [0, 32]])
@settings(derandomize=True, deadline=None, database=None, max_examples=40)
@given(said=histories, least=st.integers(1, MAX_LENGTH), seed=st.integers(0, 1000))
def test_the_next_token_is_the_librarys(
    kinds: list[int], forced: bool, said: list[list[int]], least: int, seed: int
) -> None:
    """No repeated n-gram, no early end, and the forced first and last token, for each sequence."""
    ngrams = [kinds[n % len(kinds)] for n in range(len(said))]
    batch = batch_with(said, ngrams, least + 1)
    scores = torch.randn(len(said), VOCAB_SIZE, generator=torch.Generator().manual_seed(seed))
    expected = [
        theirs(each, tokens, ngram, forced, least)
        for each, tokens, ngram in zip(scores, said, ngrams, strict=True)
    ]
    view = BatchView(batch, StepSize(len(said), 1, max(map(len, said)), max(kinds)))
    Search(rules(forced), batch)(scores[:, None].clone(), view)
    for n, tokens in enumerate(said):
        assert batch.tokens[n, 0, : len(tokens) + 1].tolist() == [*tokens, expected[n]]
        assert int(batch.length[n]) == len(tokens) + 1
        over = expected[n] == EOS or len(tokens) + 1 == MAX_LENGTH
        assert bool(batch.done[n]) is over


def test_a_sequence_that_is_done_stays_as_it_is() -> None:
    """Next to one that goes on."""
    batch = batch_with([[2, 0, 4], [2, 0, 4]], [3, 3], min_length=1)
    batch.done[0] = True
    before = batch.tokens[0].clone()
    scores = torch.zeros(2, 1, VOCAB_SIZE)
    scores[..., 3] = 1.0
    Search(rules(forced=True), batch)(scores, BatchView(batch, StepSize(2, 1, 4, 3)))
    assert torch.equal(batch.tokens[0], before)
    assert batch.length.tolist() == [3, 4]
    assert batch.tokens[1, 0, :4].tolist() == [2, 0, 4, 3]
