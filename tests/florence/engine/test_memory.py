"""How many rows fit: as many as are wanted, or as there is room for, or a clear refusal."""

import pytest
import torch

from deployments.errors import SetupError
from deployments.florence.engine.memory import fitting
from deployments.florence.engine.rows import Rows, Shape

SHAPE = Shape(8, 3, num_positions=65, num_encoded=80, num_layers=2, num_heads=2, head_width=16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_row_takes_what_is_said(dtype: torch.dtype) -> None:
    """To a few hundred bytes of all the tensors that are really made."""
    rows = Rows(SHAPE, torch.device("cpu"), dtype)
    tensors = [value for value in vars(rows).values() if isinstance(value, torch.Tensor)]
    real = sum(tensor.nbytes for tensor in tensors) / SHAPE.num_rows
    assert SHAPE.num_bytes(dtype) <= real < 1.05 * SHAPE.num_bytes(dtype) + 1000


@pytest.mark.parametrize(("rows_of_room", "expected"), [(1.0, 1), (2.9, 2), (8.0, 8), (100.0, 8)])
def test_as_many_as_fit(rows_of_room: float, expected: int) -> None:
    """Never more than are wanted."""
    room = int(rows_of_room * SHAPE.num_bytes(torch.float16))
    assert fitting(SHAPE, torch.float16, room) == expected


@pytest.mark.parametrize("room", [-5_000_000_000, 0, 1000])
def test_no_room_for_one(room: int) -> None:
    """One line that names the settings to change, and no negative memory."""
    with pytest.raises(SetupError) as refused:
        fitting(SHAPE, torch.float16, room)
    line = str(refused.value)
    assert len(line.splitlines()) == 1
    assert "0.00 GB are left" in line
    for setting in ("max_new_tokens", "num_beams", "gpu_memory_utilization"):
        assert f"inference.{setting}" in line
