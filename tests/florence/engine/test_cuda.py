"""CUDA graphs and copies to the host: on a CPU nothing is recorded, and everything runs."""

import torch

from deployments.florence.engine.cuda import CudaGraphs, HostCopy, RecordedFunction

CPU = torch.device("cpu")


def test_work_runs_each_time() -> None:
    """Recording it does nothing."""
    x = torch.zeros(())
    graphs = CudaGraphs(CPU)
    graphs.record("more", lambda: x.add_(1))
    assert x == 0
    for expected in (1, 2):
        assert graphs.run("more", lambda: x.add_(1)) == expected


def test_a_function_of_batches() -> None:
    """Of any size, also beyond those that were to be recorded."""
    double = RecordedFunction(CudaGraphs(CPU), lambda x, y: torch.stack([x, y]), 1, "stack")
    double.record(torch.zeros(2), torch.zeros(2))
    for size in (1, 2, 3):
        x, y = torch.rand(size), torch.rand(size)
        assert torch.equal(double(x, y), torch.stack([x, y]))


def test_a_copy_is_what_it_was() -> None:
    """Whatever happens to the tensors afterwards; on a CPU it is there at once."""
    flags, numbers = torch.tensor([True, False]), torch.arange(3)
    copies = HostCopy(flags, numbers[1:])
    flags.zero_()
    numbers.zero_()
    assert copies.is_done()
    assert [copy.tolist() for copy in copies.read()] == [[True, False], [1, 2]]
