"""The engine's benchmark: its three ways do the same work."""

import shutil
from pathlib import Path
from statistics import mean

import pytest

from deployments.florence.vocabulary import Vocabulary
from deployments.settings import DEMO_CHECKPOINT
from loadtest.bench.checkpoint import WORDS, add_words
from loadtest.bench.engine import (
    ALONE,
    ENGINE,
    LIMITS,
    STATIC,
    Comparison,
    EngineBench,
    middles,
    mixed,
    write_checkpoint,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.mark.parametrize("beams", [1, 3])
def test_the_same_answers(folder: Path, beams: int) -> None:
    """It would refuse to compare others."""
    asked = EngineBench(
        requests=6,
        max_batch_size=2,
        beams=beams,
        rounds=1,
        prefill_batch_size=2,
        max_wait_ms=0.0,
    )
    spent = Comparison(folder, asked).run([20, 26, 9, 31, 4, 12])
    assert set(spent) == {ENGINE, STATIC, ALONE}
    assert all(each.cpu_ms > 0 for each in spent.values())
    assert spent[STATIC].mean_batch_size == pytest.approx(102 / (26 + 31 + 12))
    assert 1 < spent[ENGINE].mean_batch_size <= 2


def test_lengths() -> None:
    """Lognormal about 110 tokens, within limits; those answered alone are like the rest."""
    lengths = mixed(96)
    assert (min(lengths), max(lengths)) == LIMITS
    assert sorted(lengths)[48] == pytest.approx(110, rel=0.05)
    assert mean(lengths[place] for place in middles(lengths)) == pytest.approx(
        mean(lengths), rel=0.05
    )


def test_words_of_the_real_vocabulary(tmp_path: Path) -> None:
    """As many as the published tokenizer has; a prompt has the tokens that it had."""
    file = Path(shutil.copy(DEMO_CHECKPOINT / "tokenizer.json", tmp_path))
    demo = Vocabulary(DEMO_CHECKPOINT)
    add_words(file)
    larger = Vocabulary(tmp_path)
    sentence = "Locate the region proposals in the image."
    assert larger.encode(sentence) == demo.encode(sentence)
    assert larger.bins == demo.bins
    assert larger.text([WORDS - 1]) == f"word{WORDS - 1}"
    assert larger.text([WORDS]) == ""
