"""`florence convert`: what it reports, and what it refuses in one line."""

from pathlib import Path

import pytest
import torch
from transformers import Florence2ForConditionalGeneration

from deployments.florence.checkpoint import Checkpoint
from deployments.settings import DEMO_CHECKPOINT
from tests.cli.conftest import Florence
from tests.florence.adapters import save_adapter
from tests.florence.original_layout import write_original


def test_it_says_what_was_done_and_how_it_is_served(florence: Florence, tmp_path: Path) -> None:
    write_original(DEMO_CHECKPOINT, tmp_path / "original", 1545)
    target = tmp_path / "made"
    left = florence("convert", str(tmp_path / "original"), str(target))
    assert (left.code, left.err) == (0, "")
    assert f"{target}: 267 tensors, float16, 7.0 MB." in left.out
    assert "vocabulary     1,545 rows, now 1,600" in left.out
    assert "tokens added   1,025" in left.out
    assert left.out.endswith(f"Serve it with: florence serve --model {target}\n")
    Checkpoint(target).check()


def test_it_says_whether_an_adapter_fits(florence: Florence, tmp_path: Path) -> None:
    """And changes nothing."""
    base = Florence2ForConditionalGeneration.from_pretrained(DEMO_CHECKPOINT, dtype=torch.float32)
    save_adapter(tmp_path / "adapter", base, target_modules=["fc1"], r=2)
    words = ["convert", str(DEMO_CHECKPOINT), "--check", "--adapter", str(tmp_path / "adapter")]
    left = florence(*words)
    assert left.code == 0
    assert left.out == f"{tmp_path / 'adapter'} fits: LoRA, 13 layers, rank 2.\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["demo-folder"], "give DEST, or --check without one"),
        (["a", "--check"], "--check needs --adapter"),
        (["/nowhere", "made"], "no checkpoint folder at /nowhere"),
        ([str(DEMO_CHECKPOINT), "made", "--adapter", "/nowhere"], "no folder of an adapter"),
        ([str(DEMO_CHECKPOINT), str(DEMO_CHECKPOINT)], "is not empty: give a new folder"),
    ],
)
def test_wrong_words_are_one_line(florence: Florence, words: list[str], says: str) -> None:
    left = florence("convert", *words)
    [line] = left.err.splitlines()
    assert (left.code, left.out) == (2, "")
    assert says in line
