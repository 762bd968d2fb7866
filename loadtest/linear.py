"""Which library multiplies the decoder's matrices fastest here: `python -m loadtest.linear`.

A step's products of a decoder of width 256 with four layers, every weight once,
so that the weights come from where they lie in a running engine.
"""

from collections.abc import Callable
from functools import partial

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from deployments.florence.engine.linear import Linear, onednn
from loadtest import figures
from loadtest.stopwatch import cpu_ms

WIDTH, NUM_LAYERS = 256, 4
LAYER = ((3, 1), (1, 1), (1, 1), (1, 1), (4, 1), (1, 4))  # (out, in) in widths
ROWS = (1, 4, 8, 24, 240, 480)


def main() -> None:
    """Measure, print the table, write out/bench/linear.json."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    weights = [torch.randn(o * WIDTH, i * WIDTH) / 16 for o, i in LAYER] * NUM_LAYERS
    layers = [Linear(weight.clone(), torch.randn(len(weight))) for weight in weights]
    rows = [{"rows": num} | measured(layers, num) for num in ROWS]
    Console().print(table(rows), f"Figures: {figures.write('linear', {'milliseconds': rows})}")


@torch.inference_mode()
def measured(layers: list[Linear], num_rows: int) -> dict[str, float]:
    """Milliseconds of processor time for all products, by library."""
    inputs = [torch.randn(num_rows, layer.weight.shape[1]) for layer in layers]
    packed = [layer.packed() for layer in layers]
    ways: dict[str, Callable[[Linear, Tensor], Tensor]] = {
        "torch's default": lambda layer, x: functional.linear(x, layer.weight, layer.bias),
        "oneDNN": lambda layer, x: onednn(x, layer.weight, layer.bias),
        "oneDNN, packed": lambda layer, x: layer(x),
    }
    return {
        name: cpu_ms(partial(each, way, packed if "packed" in name else layers, inputs))
        for name, way in ways.items()
    }


def each(
    way: Callable[[Linear, Tensor], Tensor], layers: list[Linear], inputs: list[Tensor]
) -> None:
    """One pass over the layers."""
    for layer, x in zip(layers, inputs, strict=True):
        way(layer, x)


def table(rows: list[dict[str, float]]) -> Table:
    """The figures for a person."""
    shown = Table(*rows[0], title="Products of one step, ms")
    for row in rows:
        shown.add_row(
            str(int(row["rows"])), *(f"{row[name]:.2f}" for name in row if name != "rows")
        )
    return shown


if __name__ == "__main__":
    typer.run(main)
