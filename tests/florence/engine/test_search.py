"""The next token: what transformers' own processors leave over, for rows of any length at once."""

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

from deployments.florence.engine.rows import Limits, Rows, Shape, View
from deployments.florence.engine.search import Rules, Search

CPU = "cpu"
BOS, PAD, EOS = 0, 1, 2
NUM_WORDS = 5  # so few that everything is repeated
MAX_LENGTH = 12

histories = st.lists(
    st.lists(st.integers(0, NUM_WORDS - 1), min_size=1, max_size=MAX_LENGTH - 1),
    min_size=1,
    max_size=6,
)


def rules(ngram: int, forced: bool) -> Rules:
    """Greedy ones."""
    return Rules(
        start=EOS,
        pad=PAD,
        eos=EOS,
        forced_bos=BOS if forced else None,
        forced_eos=EOS if forced else None,
        ngram=ngram,
        early_stopping=False,
        length_penalty=1.0,
    )


def rows_with(said: list[list[int]], min_length: int) -> Rows:
    """Rows whose sequences have said so much."""
    shape = Shape(len(said), 1, MAX_LENGTH, num_encoded=1, num_layers=1, num_heads=1, head_width=1)
    rows = Rows(shape, torch.device(CPU), torch.float32)
    limits = [Limits(1, MAX_LENGTH, min_length) for _ in said]
    rows.put(0, torch.zeros(1, len(said), 1, 2), torch.zeros(len(said), 1, 1, 1), limits, EOS)
    for row, tokens in enumerate(said):
        rows.tokens[row, 0, : len(tokens)] = torch.tensor(tokens)
        rows.length[row] = len(tokens)
    return rows


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


@pytest.mark.parametrize("forced", [True, False])
@pytest.mark.parametrize("ngram", [0, 1, 2, 3, 4])
@settings(derandomize=True, deadline=None, database=None, max_examples=40)
@given(said=histories, least=st.integers(1, MAX_LENGTH), seed=st.integers(0, 1000))
def test_the_next_token_is_the_librarys(
    ngram: int, forced: bool, said: list[list[int]], least: int, seed: int
) -> None:
    """No repeated n-gram, no early end, and the forced first and last token, row by row."""
    rows = rows_with(said, least + 1)
    scores = torch.randn(len(said), NUM_WORDS, generator=torch.Generator().manual_seed(seed))
    expected = [
        theirs(row, tokens, ngram, forced, least) for row, tokens in zip(scores, said, strict=True)
    ]
    view = View(rows, len(said), 1, max(map(len, said)))
    Search(rules(ngram, forced), rows)(scores[:, None].clone(), view)
    for row, tokens in enumerate(said):
        assert rows.tokens[row, 0, : len(tokens) + 1].tolist() == [*tokens, expected[row]]
        assert int(rows.length[row]) == len(tokens) + 1
        over = expected[row] == EOS or len(tokens) + 1 == MAX_LENGTH
        assert bool(rows.done[row]) is over


def test_a_row_that_is_done_stays_as_it_is() -> None:
    """Beside one that goes on."""
    rows = rows_with([[2, 0, 4], [2, 0, 4]], min_length=1)
    rows.done[0] = True
    before = rows.tokens[0].clone()
    scores = torch.zeros(2, 1, NUM_WORDS)
    scores[..., 3] = 1.0
    Search(rules(3, forced=True), rows)(scores, View(rows, 2, 1, 4))
    assert torch.equal(rows.tokens[0], before)
    assert rows.length.tolist() == [3, 4]
    assert rows.tokens[1, 0, :4].tolist() == [2, 0, 4, 3]
