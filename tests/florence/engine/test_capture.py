"""A CUDA graph touches nothing of the host's: seen without one, on torch's meta device.

A graph must neither ask the device for a value nor read a tensor of the host, whose address
it would keep. On the meta device the first raises, and the second is a tensor elsewhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Florence2Config, Florence2ForConditionalGeneration

from deployments.florence.engine.batch import BatchShape, BatchView, DecoderBatch, StepSize
from deployments.florence.engine.decoder import Decoder
from deployments.florence.engine.encoder import Encoder
from deployments.florence.engine.search import BoxGrammar, GenerationRules, Search
from deployments.settings import DEMO_CHECKPOINT

META = torch.device("meta")
DTYPE = torch.float16
TEXT: Any = Florence2Config.from_pretrained(DEMO_CHECKPOINT).text_config
SHAPE = BatchShape(
    8,
    3,
    num_positions=129,
    num_encoded=120,
    num_layers=TEXT.decoder_layers,
    num_heads=TEXT.decoder_attention_heads,
    head_width=TEXT.d_model // TEXT.decoder_attention_heads,
)
ENDS: tuple[bool | str, ...] = (True, False, "never")


class OnDevice(TorchDispatchMode):
    """Notes the operations that touch a tensor elsewhere than on the meta device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_operations = 0
        self.strays: list[str] = []

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        tensors = (leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor))
        self.num_operations += 1
        if any(tensor.device != META for tensor in tensors):
            self.strays.append(str(operation))
        return result


@contextmanager
def recording() -> Iterator[OnDevice]:
    """Watches operations as they reach the device: `no_grad` takes composite ones apart."""
    with torch.no_grad(), OnDevice() as watch:
        yield watch
    assert watch.num_operations > 0
    assert watch.strays == []


@cache
def florence() -> Any:
    """The demo's model without weights."""
    with META:
        model = Florence2ForConditionalGeneration(Florence2Config.from_pretrained(DEMO_CHECKPOINT))
    return model.to(DTYPE).eval()  # type: ignore[arg-type]


def rules(early_stopping: bool | str = True) -> GenerationRules:
    """Everything that a generation config may ask of the engine."""
    return GenerationRules(
        start=2,
        pad=1,
        eos=2,
        forced_bos=0,
        forced_eos=2,
        ngram=3,
        early_stopping=early_stopping,
        length_penalty=1.0,
    )


def empty(*size: int, dtype: torch.dtype = DTYPE) -> Tensor:
    return torch.empty(size, dtype=dtype, device=META)


@pytest.mark.slow
@pytest.mark.parametrize("early_stopping", ENDS)
@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("scored", [False, True])
def test_a_step(
    num_beams: int, early_stopping: bool | str, constrained: bool, scored: bool
) -> None:
    """Decoder, search, grammar and scores."""
    batch, decoder = DecoderBatch(SHAPE, META, DTYPE), Decoder(florence())
    bins = {100 + bin_: bin_ for bin_ in range(1000)}
    grammar = BoxGrammar(bins, decoder.vocab_size, 2, batch)
    search = Search(rules(early_stopping), batch, grammar if constrained else None)
    with recording():
        view = BatchView(batch, StepSize(SHAPE.max_batch_size, num_beams, 64, 3, scored))
        search(decoder(batch, view), view)


def test_the_encoder() -> None:
    """Both graphs of a pass: the images, then the prompts."""
    encoder = Encoder(florence())
    with recording():
        seen = encoder.encode_images(empty(4, 160, 160, 3))
        text, mask = empty(4, 15, dtype=torch.int64), empty(4, 1, 1, seen.shape[1] + 15)
        encoder.encode(seen, text, mask)


def test_moving_and_clearing_places() -> None:
    """These are not recorded, but a copy from the host would hold up all that runs."""
    batch = DecoderBatch(SHAPE, META, DTYPE)
    with recording():
        batch.move(3, 1, 20)
        batch.copy_in(2, batch.copy_out(1, 20))
        batch.clear(3)


@pytest.mark.parametrize(
    ("stray", "error"),
    [
        (lambda x: x + torch.ones(()), AssertionError),
        (lambda x: x + torch.ones(3).to(META), AssertionError),
        (lambda x: x * x.sum().item(), RuntimeError),
        (lambda x: x[x > 0], NotImplementedError),
    ],
    ids=["a host's number", "a copy from the host", "a question", "a size that depends on values"],
)
def test_what_it_would_see(stray: Any, error: type[Exception]) -> None:
    """Each of these would break a graph, or stop the device."""
    with pytest.raises(error), recording():
        stray(empty(3))
