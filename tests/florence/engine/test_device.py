"""What a device has against working, told in one line; torch's errors are made here."""

import pytest
import torch

from deployments.errors import SetupError
from deployments.florence.backend import DeviceFault
from deployments.florence.engine.device import (
    available_bytes,
    described_absence,
    device_faults,
    is_out_of_memory,
    missing_gpu,
    setup_errors,
)

GB = 10**9
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


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered\nMore."),
            "the GPU does not work: CUDA error: uncorrectable ECC error encountered: "
            "restart its node, or give the replica another GPU",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore."),
            "weights of 1.55 GB do not fit into the memory: do less",
        ),
        (MemoryError(), "weights of 1.55 GB do not fit into the memory: do less"),
    ],
)
def test_a_device_that_cannot_be_set_up_is_told_in_one_line(error: Exception, line: str) -> None:
    """So that a replica that never starts says why."""
    with pytest.raises(SetupError) as caught, setup_errors("weights of 1.55 GB", "do less"):
        raise error
    assert str(caught.value) == line


@pytest.mark.parametrize("error", [RuntimeError("a bug"), SetupError("a line"), ValueError()])
def test_other_errors_of_the_setup_are_left_alone(error: Exception) -> None:
    """They have their own lines, or are bugs."""
    with pytest.raises(type(error)) as caught, setup_errors("weights", "do less"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("others", "own", "utilization", "expected"),
    [
        (0, 0, 0.9, 72),
        (0, 10, 0.9, 62),
        (36, 0, 0.45, 36),  # a second replica has the share that the first had
        (36, 10, 0.45, 26),
        (60, 10, 0.45, 6),  # nearly all that is free
        (0, 40, 0.45, -4),
        (80, 0, 0.9, -4),
    ],
)
def test_a_share_of_a_card_is_a_process_s_own(
    others: int, own: int, utilization: float, expected: int
) -> None:
    """Of a card of 80 GB: others' memory is not counted as ours, and is not free."""
    free = 80 - others - own
    assert available_bytes(80 * GB, free * GB, utilization, own * GB) == expected * GB


OLD = (
    "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU "
    "driver by downloading and installing a new version from the URL: http://www.nvidia.com"
)


@pytest.mark.parametrize(
    ("said", "needed", "clause"),
    [
        (
            OLD,
            "13.0",
            "the NVIDIA driver is too old: it is for CUDA 12.2, and this torch needs 13.0",
        ),
        ("Found no NVIDIA driver on your system.", "13.0", "no CUDA device is visible"),
        (
            "Torch not compiled with CUDA enabled",
            None,
            "no CUDA device is visible to this torch, which was built without CUDA",
        ),
    ],
)
def test_an_absent_gpu_is_explained(said: str, needed: str | None, clause: str) -> None:
    """An old driver with both versions."""
    assert described_absence(said, needed) == clause


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_there_is_no_gpu_here() -> None:
    """And the reason is one clause."""
    assert "no CUDA device is visible" in missing_gpu()
