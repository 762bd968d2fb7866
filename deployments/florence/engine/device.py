"""What a device has against working: its own faults, too little memory, an old driver."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from deployments.errors import SetupError
from deployments.florence.backend import DeviceFault

GB = 1e9
OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
DEVICE_FAULTS = (
    "CUDA error",
    "CUDNN_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR",
    "CUDNN_STATUS_MAPPING_ERROR",
)
OLD_DRIVER = re.compile(r"driver on your system is too old \(found version (\d+)\)")


@contextmanager
def device_faults() -> Iterator[None]:
    """Raise a `DeviceFault` for an error after which the device does nothing more.

    A failed kernel leaves the whole process without its GPU: every later call fails likewise.
    """
    try:
        yield
    except RuntimeError as error:
        if is_device_fault(error):
            raise DeviceFault(first_line(error)) from error
        raise


def is_device_fault(error: Exception) -> bool:
    """Whether an error of torch is one of the device, and no lack of memory."""
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    is_torchs = isinstance(error, torch.AcceleratorError)
    return is_torchs or any(words in str(error) for words in DEVICE_FAULTS)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of torch, or of a library below it, is a lack of memory."""
    if not isinstance(error, RuntimeError):
        return False
    is_torchs = isinstance(error, torch.OutOfMemoryError)
    return is_torchs or any(words in str(error) for words in OUT_OF_MEMORY)


def first_line(error: BaseException) -> str:
    """What an error says; torch adds advice for programmers in further lines."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def setup_errors(what: str, remedy: str) -> Iterator[None]:
    """Say in one line what the device has against `what` that is made ready on it.

    Raises:
        SetupError: the device does not work, or has too little memory, for which `remedy` is.
    """
    try:
        with device_faults():
            yield
    except DeviceFault as fault:
        raise SetupError(
            f"the GPU does not work: {fault}: restart its node, or give the replica another GPU"
        ) from fault
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not is_out_of_memory(error):
            raise
        raise SetupError(f"{what} do not fit into the memory{free_memory()}: {remedy}") from error


def free_memory() -> str:
    """How much of the GPU is free, to be put into a sentence; empty without one."""
    if not torch.cuda.is_initialized():
        return ""
    free, total = torch.cuda.mem_get_info()
    return f", {free / GB:.2f} of {total / GB:.2f} GB are free"


def available_bytes(total: int, free: int, utilization: float, own: int = 0) -> int:
    """What this process may still take of a GPU with `free` of `total` bytes free.

    `utilization` is the share of the whole GPU that it may use, of which it has `own` bytes.
    What other processes have counts only where too little is free for that share: then a
    twentieth of the GPU stays free, for what no allocator knows of.
    """
    return min(int(total * utilization) - own, free - total // 20)


def missing_gpu() -> str:
    """Why there is no GPU to compute on, in one clause; empty when there is one."""
    if torch.cuda.is_available():
        return ""
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:
        return described_absence(str(error), torch.version.cuda)
    return "no CUDA device is visible"


def described_absence(said: str, needed: str | None) -> str:
    """What torch `said` about a GPU that is not there, in one clause.

    `needed` is the version of CUDA that torch was built for, if it was.
    """
    if found := OLD_DRIVER.search(said):
        major, minor = divmod(int(found[1]), 1000)
        return (
            f"the NVIDIA driver is too old: it is for CUDA {major}.{minor // 10}, "
            f"and this torch needs {needed}"
        )
    if needed is None:
        return "no CUDA device is visible to this torch, which was built without CUDA"
    return "no CUDA device is visible"
