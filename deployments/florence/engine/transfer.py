"""Numbers on their way from the device to the host, without stopping the device."""

import torch
from torch import Tensor


class Transfer:
    """A copy of some tensors, under way; on a CPU it has arrived at once."""

    def __init__(self, *tensors: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if tensors[0].is_cuda:
            self._copies = [pinned(tensor) for tensor in tensors]
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._copies = [tensor.clone() for tensor in tensors]

    def arrived(self) -> bool:
        """Whether reading would not wait."""
        return self._event is None or self._event.query()

    def read(self) -> list[Tensor]:
        """The copies, in the order given; waits for them."""
        if self._event is not None:
            self._event.synchronize()
        return self._copies


def pinned(tensor: Tensor) -> Tensor:
    """A copy in host memory that the device writes by itself."""
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return copy.copy_(tensor, non_blocking=True)
