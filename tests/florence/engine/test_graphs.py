"""Recorded work: on a CPU nothing is recorded, and everything runs."""

import torch

from deployments.florence.engine.graphs import Graphs, Recorded

CPU = torch.device("cpu")


def test_work_runs_each_time() -> None:
    """Recording it does nothing."""
    x = torch.zeros(())
    graphs = Graphs(CPU)
    graphs.record("more", lambda: x.add_(1))
    assert x == 0
    for expected in (1, 2):
        assert graphs.run("more", lambda: x.add_(1)) == expected


def test_a_function_of_batches() -> None:
    """Of any size, also beyond those that were to be recorded."""
    double = Recorded(Graphs(CPU), lambda x, y: torch.stack([x, y]), 1, "stack")
    double.record(torch.zeros(2), torch.zeros(2))
    for size in (1, 2, 3):
        x, y = torch.rand(size), torch.rand(size)
        assert torch.equal(double(x, y), torch.stack([x, y]))
