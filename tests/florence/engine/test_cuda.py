"""CUDA graphs and copies to the host: on a CPU nothing is recorded, and everything runs."""

import pytest
import torch

from deployments.florence.backend import DeviceFault
from deployments.florence.engine.cuda import (
    CudaGraphs,
    HostCopy,
    RecordedFunction,
    device_faults,
    is_out_of_memory,
)

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


LOST = "CUDA error: an illegal memory access was encountered"


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError(f"{LOST}\nCUDA kernel errors might be reported later\n"),
        torch.AcceleratorError("HIP error: the operation cannot be performed"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    ],
)
def test_a_fault_of_the_device_is_told_in_one_line(error: RuntimeError) -> None:
    """Whatever library noticed it."""
    with pytest.raises(DeviceFault) as caught, device_faults():
        raise error
    assert str(caught.value) == str(error).splitlines()[0]
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (RuntimeError("The size of tensor a (2) must match the size of tensor b (3)"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"), False),
        (ValueError("CUDA error: none"), False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), True),
    ],
)
def test_other_errors_are_no_faults_of_the_device(error: Exception, is_memory: bool) -> None:
    """A lack of memory passes, and a shape that does not fit is that of a request."""
    with pytest.raises(type(error)) as caught, device_faults():
        raise error
    assert caught.value is error
    assert is_out_of_memory(error) is is_memory
