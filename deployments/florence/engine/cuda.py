"""What only matters on a GPU: CUDA graphs, and copies to the host.

A step of twelve layers is some hundred small kernels; launching each from Python takes longer
than computing them. A graph always reads and writes the same tensors, so it fits one size of the
batch; for other sizes, and on a CPU, the work runs as it is.
"""

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

Work = Callable[[], Tensor | None]
WARM_UPS = 2  # libraries choose their kernels and take their memory in the first runs


class CudaGraphs:
    """Graphs by key; all share one memory pool, since only one runs at a time.

    They are recorded on a stream of their own: cuBLAS has a workspace for each stream, and a
    graph keeps its address. Graphs that run at the same time must not write to the same one, and
    torch frees it with the first graph that goes (pytorch/pytorch#193402).
    """

    def __init__(self, device: torch.device) -> None:
        self._recorded: dict[Hashable, tuple[torch.cuda.CUDAGraph, Tensor | None]] = {}
        self._enabled = device.type == "cuda"
        if self._enabled:
            self._pool = torch.cuda.graph_pool_handle()
            self._stream = torch.cuda.Stream()

    def record(self, key: Hashable, work: Work) -> None:
        """Run `work` to warm it up, then record it; what it changes meanwhile must not matter."""
        if not self._enabled or key in self._recorded:
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                work()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            output = work()
        self._recorded[key] = graph, output

    def run(self, key: Hashable, work: Work) -> Tensor | None:
        """Replay what was recorded under `key`; the output is overwritten by the next replay."""
        if key not in self._recorded:
            return work()
        graph, output = self._recorded[key]
        graph.replay()
        return output


class RecordedFunction:
    """A function of batches, replayed by the smallest graph that holds the batch.

    Its arguments have the batch as their first dimension, its result as number `dimension`.
    """

    def __init__(
        self, graphs: CudaGraphs, work: Callable[..., Tensor], dimension: int, name: str
    ) -> None:
        self._graphs = graphs
        self._work = work
        self._dimension = dimension
        self._name = name
        self._buffers: dict[int, Sequence[Tensor]] = {}

    def record(self, *batch: Tensor) -> None:
        size, buffers = len(batch[0]), [values.clone() for values in batch]
        self._graphs.record((self._name, size), lambda: self._work(*buffers))
        self._buffers[size] = buffers

    def __call__(self, *batch: Tensor) -> Tensor:
        """What the function returns, to be read before the next call."""
        num = len(batch[0])
        size = next((size for size in sorted(self._buffers) if size >= num), None)
        if size is None:
            return self._work(*batch)
        buffers = self._buffers[size]
        for buffer, values in zip(buffers, batch, strict=True):
            buffer[:num] = values
        result = self._graphs.run((self._name, size), lambda: self._work(*buffers))
        assert result is not None
        return result.narrow(self._dimension, 0, num)


class HostCopy:
    """A copy of some tensors on its way to the host, for which the device does not stop."""

    def __init__(self, *tensors: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if tensors[0].is_cuda:
            self._copies = [pinned(tensor) for tensor in tensors]
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._copies = [tensor.clone() for tensor in tensors]

    def is_done(self) -> bool:
        """Whether reading would not wait; on a CPU always."""
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
