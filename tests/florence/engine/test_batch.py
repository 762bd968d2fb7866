"""What is kept of a sequence moves with it, and its beams see their own past."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deployments.florence.engine.batch import (
    BatchShape,
    BatchView,
    DecoderBatch,
    SequenceLimits,
    StepSize,
)
from deployments.florence.engine.search import taken

CPU = torch.device("cpu")
SHAPE = BatchShape(
    max_batch_size=5,
    num_beams=3,
    num_positions=8,
    num_encoded=4,
    num_layers=2,
    num_heads=2,
    head_width=3,
)
WIDTH = 2 * SHAPE.num_heads * SHAPE.head_width  # keys and values of a position
START = 2
CONSTANT = {"indices"}


def batch_of(*beams: int) -> DecoderBatch:
    """A batch in which sequences with so many beams have begun."""
    batch = DecoderBatch(SHAPE, CPU, torch.float32)
    begin(batch, 0, beams)
    return batch


def begin(batch: DecoderBatch, first: int, beams: tuple[int, ...], num_encoded: int = 4) -> None:
    """Put sequences with so many beams and random encodings into places."""
    limits = [SequenceLimits(num_beams, max_length=8, min_length=1) for num_beams in beams]
    cross_kv = torch.randn(SHAPE.num_layers, len(beams), num_encoded, WIDTH)
    batch.put(first, cross_kv, torch.zeros(len(beams), 1, 1, num_encoded), limits, START)


def by_place(batch: DecoderBatch) -> dict[str, Tensor]:
    """All that has a part for each place, with the places first."""
    found = {
        "kv": torch.stack(batch.kv).movedim(2, 0),
        "cross_kv": torch.stack(batch.cross_kv).movedim(2, 0),
    }
    for name, value in vars(batch).items():
        if (
            isinstance(value, Tensor)
            and len(value) == SHAPE.max_batch_size
            and name not in CONSTANT
        ):
            found[name] = value
    return found


def scrambled(batch: DecoderBatch) -> dict[str, Tensor]:
    """All of it as it is after every part was given values of its own."""
    for tensor in [*batch.kv, *batch.cross_kv, *by_place(batch).values()]:
        values = torch.arange(tensor.numel()).view(tensor.shape)
        tensor.copy_(values % 2 if tensor.dtype is torch.bool else values % 101)
    batch.length[:] = SHAPE.num_positions
    return {name: tensor.clone() for name, tensor in by_place(batch).items()}


def test_a_sequence_moves_with_all_it_has() -> None:
    """And nothing else changes."""
    batch = DecoderBatch(SHAPE, CPU, torch.float32)
    before = scrambled(batch)
    batch.move(3, 1, SHAPE.num_positions)
    for name, tensor in by_place(batch).items():
        assert torch.equal(tensor[1], before[name][3]), name
        for other in (0, 2, 3, 4):
            assert torch.equal(tensor[other], before[name][other]), name


def test_a_sequence_comes_back_as_it_was() -> None:
    """To another place, after another sequence has had its own."""
    batch = DecoderBatch(SHAPE, CPU, torch.float32)
    before = scrambled(batch)
    parts = batch.copy_out(3, SHAPE.num_positions)
    begin(batch, 3, (2,))
    batch.copy_in(0, parts)
    for name, tensor in by_place(batch).items():
        assert torch.equal(tensor[0], before[name][3]), name


def test_a_new_sequence_finds_nothing_of_the_one_before() -> None:
    """What it reads at its beginning is the same in a new place and in one that was used."""
    used, new = (DecoderBatch(SHAPE, CPU, torch.float32) for _ in range(2))
    scrambled(used)
    for batch in (used, new):
        torch.manual_seed(0)
        begin(batch, 1, (3, 1), num_encoded=3)
    for name in ("length", "max_length", "min_length", "num_beams", "grammar", "scores", "done"):
        assert torch.equal(by_place(used)[name][1:3], by_place(new)[name][1:3]), name
    for name in ("can_improve", "ended", "ended_scores", "ancestors", "cross_mask"):
        assert torch.equal(by_place(used)[name][1:3], by_place(new)[name][1:3]), name
    assert torch.equal(used.cross_kv[0][:, 1:3, :, :3], new.cross_kv[0][:, 1:3, :, :3])
    assert used.cross_mask[1, 0, 0].tolist() == [0, 0, 0, float("-inf")]
    assert used.tokens[1:3, :, 0].eq(START).all()


def test_a_cleared_place_takes_no_part() -> None:
    """It is done, and its length fits any step."""
    batch = DecoderBatch(SHAPE, CPU, torch.float32)
    scrambled(batch)
    batch.clear(2)
    assert (bool(batch.done[2]), int(batch.length[2])) == (True, 1)


def visible(view: BatchView, kv: Tensor) -> list[list[list[float]]]:
    """The first number of each state that a beam may see, for every sequence and beam, in order."""
    [(_, seen, added)] = view.read(kv)
    states, mask = seen[0, :, 0, :, 0], added[:, 0]
    return [
        [states[n][mask[n, beam] == 0].tolist() for beam in range(view.num_beams)]
        for n in range(view.size)
    ]


def step(batch: DecoderBatch, num_beams: int, span: int, number: int) -> tuple[BatchView, Tensor]:
    """Write a state of each beam of two sequences; the view, and what was written (n, k)."""
    view = BatchView(batch, StepSize(2, num_beams, span))
    states = number * 10.0 + torch.arange(2.0 * num_beams).view(2, num_beams)
    view.write(batch.kv[0], states[..., None].expand(-1, -1, WIDTH))
    return view, states


places = st.lists(st.tuples(*[st.integers(0, 2)] * 6), min_size=1, max_size=7)


@settings(derandomize=True, deadline=None, database=None)
@given(places)
def test_a_beam_sees_the_line_it_descends_from(parents: list[tuple[int, ...]]) -> None:
    """However often beams change places, each sees one state of each position: its own line's."""
    batch = batch_of(3, 3)
    lines: list[list[list[float]]] = [[[] for _ in range(3)] for _ in range(2)]
    for number, chosen in enumerate(parents):
        view, states = step(batch, 3, min(number + 3, SHAPE.num_positions), number)
        for n in range(2):
            for beam in range(3):
                lines[n][beam] = [*lines[n][beam], float(states[n, beam])]
        assert visible(view, batch.kv[0]) == lines
        origin = torch.tensor(chosen).view(2, 3)
        batch.ancestors[:2, :, : view.span] = taken(view.ancestors, origin)
        lines = [[lines[n][int(beam)] for beam in origin[n]] for n in range(2)]
        batch.length[:2] += 1


@settings(derandomize=True, deadline=None, database=None)
@given(st.lists(st.sampled_from([1, 3]), min_size=1, max_size=7))
def test_one_beam_sees_its_past_whatever_the_beams(beams: list[int]) -> None:
    """Steps of one beam and of three follow each other as others come and go."""
    batch = batch_of(1, 1)
    line: list[float] = []
    for number, num_beams in enumerate(beams):
        view, states = step(batch, num_beams, SHAPE.num_positions, number)
        line.append(float(states[1, 0]))
        assert visible(view, batch.kv[0])[1][0] == line
        batch.length[:2] += 1
