"""How many rows fit on the card."""

import torch

from deployments.errors import SetupError
from deployments.florence.engine.rows import Shape

GB = 1e9


def fitting(shape: Shape, dtype: torch.dtype, budget_bytes: int) -> int:
    """The rows that fit into `budget_bytes`, at most those of `shape`.

    Raises:
        SetupError: not even one does.
    """
    num_rows = min(shape.num_rows, budget_bytes // shape.num_bytes(dtype))
    if num_rows < 1:
        raise SetupError(
            f"one sequence takes {shape.num_bytes(dtype) / GB:.2f} GB of the card and "
            f"{max(budget_bytes, 0) / GB:.2f} GB are left: set inference.max_new_tokens or "
            "inference.num_beams lower, or inference.gpu_memory_utilization higher"
        )
    return num_rows


def budget_bytes(device: torch.device, utilization: float, working_bytes: int) -> int:
    """What rows may take of the card: its share, less what is in use and what a pass needs.

    `utilization` is the share of the whole card that this process may use.
    """
    free, total = torch.cuda.mem_get_info(device)
    return left_bytes(total, free, utilization) - working_bytes


def left_bytes(total: int, free: int, utilization: float) -> int:
    """What this process may still take of a card of which `free` of `total` bytes are free."""
    return int(total * utilization) - (total - free)
