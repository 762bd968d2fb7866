"""How a decoding step's attention is fastest on a CPU: `python -m loadtest.attention`.

Eight rows of a decoder of width 256 with four layers and as many memories, so that
keys and values come from where they lie in a running engine.
"""

from collections.abc import Callable
from functools import partial

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from deployments.florence.engine.attention import attend
from loadtest import figures
from loadtest.stopwatch import cpu_ms

NUM_ROWS, NUM_HEADS, HEAD_WIDTH, NUM_LAYERS = 8, 8, 32, 4
WIDTH = NUM_HEADS * HEAD_WIDTH
POSITIONS = (32, 64, 128, 320, 608)
LANES = (1, 3)
ROOM = 640

Way = Callable[[Tensor, Tensor, Tensor], Tensor]


def main() -> None:
    """Measure, print the table, write out/bench/attention.json."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = [
        {"beams": lanes, "positions": num} | measured(lanes, num)
        for lanes in LANES
        for num in POSITIONS
    ]
    Console().print(table(rows), f"Figures: {figures.write('attention', {'milliseconds': rows})}")


@torch.inference_mode()
def measured(num_lanes: int, num_positions: int) -> dict[str, float]:
    """Milliseconds of processor time for all layers, by layout and way."""
    query = torch.randn(NUM_ROWS, num_lanes, WIDTH)
    mask = torch.zeros(NUM_ROWS, 1, num_lanes, num_positions * num_lanes)
    by_position = [torch.randn(NUM_ROWS, ROOM * num_lanes, 2 * WIDTH) for _ in range(NUM_LAYERS)]
    by_head = [
        torch.randn(2, NUM_ROWS, NUM_HEADS, ROOM * num_lanes, HEAD_WIDTH) for _ in range(NUM_LAYERS)
    ]
    ways: dict[str, tuple[Way, list[Tensor]]] = {
        "fused, by position": (fused, [split(memory) for memory in by_position]),
        "fused, by head": (fused, by_head),
        "products, by head": (attend, by_head),
    }
    return {
        name: cpu_ms(partial(each, way, query, memories, mask))
        for name, (way, memories) in ways.items()
    }


def each(way: Way, query: Tensor, memories: list[Tensor], mask: Tensor) -> None:
    """One pass over the layers."""
    for memory in memories:
        way(query, memory[..., : mask.shape[-1], :], mask)


def fused(query: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
    """torch's attention: queries (n, k, d) over (2, n, heads, positions, width)."""
    heads = query.unflatten(-1, (NUM_HEADS, -1)).transpose(1, 2)
    keys, values = memory.unbind()
    mixed = functional.scaled_dot_product_attention(heads, keys, values, attn_mask=mask)
    return mixed.transpose(1, 2).flatten(2)


def split(memory: Tensor) -> Tensor:
    """Keys and values as the projections leave them, (n, positions, 2·d), seen head by head."""
    parts: Tensor = memory.unflatten(-1, (2, NUM_HEADS, -1))
    return parts.permute(2, 0, 3, 1, 4)


def table(rows: list[dict[str, float]]) -> Table:
    """The figures for a person."""
    shown = Table(*rows[0], title="Attention of one step, ms")
    for row in rows:
        counts, times = list(row.values())[:2], list(row.values())[2:]
        shown.add_row(*(str(int(n)) for n in counts), *(f"{ms:.3f}" for ms in times))
    return shown


if __name__ == "__main__":
    typer.run(main)
