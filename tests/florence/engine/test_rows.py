"""What is kept of a sequence: all of it goes where it goes, and its beams see their own past."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deployments.florence.engine.rows import Limits, Rows, Shape, View
from deployments.florence.engine.search import taken

CPU = torch.device("cpu")
SHAPE = Shape(
    num_rows=5,
    num_lanes=3,
    num_positions=8,
    num_encoded=4,
    num_layers=2,
    num_heads=2,
    head_width=3,
)
WIDTH = 2 * SHAPE.num_heads * SHAPE.head_width  # keys and values of a position
START = 2
CONSTANT = {"numbers"}  # the rows' own numbers


def rows_of(*beams: int) -> Rows:
    """Rows in which sequences with so many beams have begun."""
    rows = Rows(SHAPE, CPU, torch.float32)
    begin(rows, 0, beams)
    return rows


def begin(rows: Rows, first: int, beams: tuple[int, ...], num_encoded: int = 4) -> None:
    """Put sequences with so many beams and random encodings into rows."""
    limits = [Limits(num_beams, max_length=8, min_length=1) for num_beams in beams]
    cross = torch.randn(SHAPE.num_layers, len(beams), num_encoded, WIDTH)
    rows.put(first, cross, torch.zeros(len(beams), 1, 1, num_encoded), limits, START)


def each_row(rows: Rows) -> dict[str, Tensor]:
    """All that has a part for each row, with the rows first."""
    found = {
        "memory": torch.stack(rows.memory).movedim(2, 0),
        "cross": torch.stack(rows.cross).movedim(2, 0),
    }
    for name, value in vars(rows).items():
        if isinstance(value, Tensor) and len(value) == SHAPE.num_rows and name not in CONSTANT:
            found[name] = value
    return found


def scrambled(rows: Rows) -> dict[str, Tensor]:
    """All of it as it is after every part was given values of its own."""
    for tensor in [*rows.memory, *rows.cross, *each_row(rows).values()]:
        values = torch.arange(tensor.numel()).view(tensor.shape)
        tensor.copy_(values % 2 if tensor.dtype is torch.bool else values % 101)
    rows.length[:] = SHAPE.num_positions
    return {name: tensor.clone() for name, tensor in each_row(rows).items()}


def test_a_row_moves_with_all_it_has() -> None:
    """And nothing else changes."""
    rows = Rows(SHAPE, CPU, torch.float32)
    before = scrambled(rows)
    rows.move(3, 1, SHAPE.num_positions)
    for name, tensor in each_row(rows).items():
        assert torch.equal(tensor[1], before[name][3]), name
        for other in (0, 2, 3, 4):
            assert torch.equal(tensor[other], before[name][other]), name


def test_a_row_comes_back_as_it_was() -> None:
    """To another place, while somebody else has had its own."""
    rows = Rows(SHAPE, CPU, torch.float32)
    before = scrambled(rows)
    parts = rows.copy_out(3, SHAPE.num_positions)
    begin(rows, 3, (2,))
    rows.copy_in(0, parts)
    for name, tensor in each_row(rows).items():
        assert torch.equal(tensor[0], before[name][3]), name


def test_who_comes_finds_nothing_of_who_was_there() -> None:
    """What a sequence reads at its beginning is the same in a new row and in one that was used."""
    used, new = Rows(SHAPE, CPU, torch.float32), Rows(SHAPE, CPU, torch.float32)
    scrambled(used)
    for rows in (used, new):
        torch.manual_seed(0)
        begin(rows, 1, (3, 1), num_encoded=3)
    for name in ("length", "max_length", "min_length", "num_beams", "grammar", "scores", "done"):
        assert torch.equal(each_row(used)[name][1:3], each_row(new)[name][1:3]), name
    for name in ("hopeful", "ended", "ended_scores", "ancestors", "cross_mask"):
        assert torch.equal(each_row(used)[name][1:3], each_row(new)[name][1:3]), name
    assert torch.equal(used.cross[0][:, 1:3, :, :3], new.cross[0][:, 1:3, :, :3])
    assert used.cross_mask[1, 0, 0].tolist() == [0, 0, 0, float("-inf")]
    assert used.tokens[1:3, :, 0].eq(START).all()


def test_a_cleared_row_takes_no_part() -> None:
    """It is done, and its length fits any step."""
    rows = Rows(SHAPE, CPU, torch.float32)
    scrambled(rows)
    rows.clear(2)
    assert (bool(rows.done[2]), int(rows.length[2])) == (True, 1)


def visible(view: View, memory: Tensor) -> list[list[list[float]]]:
    """The first number of each state that a lane may see, for every row and lane, in order."""
    states, mask = view.read(memory)[0, :, 0, :, 0], view.mask[:, 0]
    return [
        [states[row][mask[row, lane] == 0].tolist() for lane in range(view.num_lanes)]
        for row in range(view.num_rows)
    ]


def step(rows: Rows, num_lanes: int, span: int, number: int) -> tuple[View, Tensor]:
    """Write a state of its own for each lane of two rows; the view, and what was written (n, k)."""
    view = View(rows, 2, num_lanes, span)
    states = number * 10.0 + torch.arange(2.0 * num_lanes).view(2, num_lanes)
    view.write(rows.memory[0], states[..., None].expand(-1, -1, WIDTH))
    return view, states


places = st.lists(st.tuples(*[st.integers(0, 2)] * 6), min_size=1, max_size=7)


@settings(derandomize=True, deadline=None, database=None)
@given(places)
def test_a_beam_sees_the_line_it_descends_from(parents: list[tuple[int, ...]]) -> None:
    """However often beams change places, each sees one state of each position: its own line's."""
    rows = rows_of(3, 3)
    lines: list[list[list[float]]] = [[[] for _ in range(3)] for _ in range(2)]
    for number, chosen in enumerate(parents):
        view, states = step(rows, 3, min(number + 3, SHAPE.num_positions), number)
        for row in range(2):
            for lane in range(3):
                lines[row][lane] = [*lines[row][lane], float(states[row, lane])]
        assert visible(view, rows.memory[0]) == lines
        origin = torch.tensor(chosen).view(2, 3)
        rows.ancestors[:2, :, : view.span] = taken(view.ancestors, origin)
        lines = [[lines[row][int(lane)] for lane in origin[row]] for row in range(2)]
        rows.length[:2] += 1


@settings(derandomize=True, deadline=None, database=None)
@given(st.lists(st.sampled_from([1, 3]), min_size=1, max_size=7))
def test_one_beam_sees_its_past_whatever_the_lanes(lanes: list[int]) -> None:
    """Steps of one lane and of three follow each other as others come and go."""
    rows = rows_of(1, 1)
    line: list[float] = []
    for number, num_lanes in enumerate(lanes):
        view, states = step(rows, num_lanes, SHAPE.num_positions, number)
        line.append(float(states[1, 0]))
        assert visible(view, rows.memory[0])[1][0] == line
        rows.length[:2] += 1
