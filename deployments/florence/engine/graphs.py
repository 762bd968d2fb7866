"""CUDA graphs: work is recorded once and then launched as one piece.

A step of twelve layers is some hundred small kernels; launching each from Python takes longer
than computing them. A recording always reads and writes the same tensors, so it fits one number
of rows, of lanes and of positions; for other sizes, and on a CPU, the work runs as it is.
"""

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

Work = Callable[[], Tensor | None]
REHEARSALS = 2  # libraries choose their kernels and take their memory in the first runs


class Graphs:
    """Recorded work by key; all share one memory pool, since only one runs at a time.

    They are recorded on a stream of their own: cuBLAS has a workspace for each stream, and a
    recording keeps its address. Recordings that run side by side must not write to the same one,
    and torch frees it with the first recording that goes (pytorch/pytorch#193402).
    """

    def __init__(self, device: torch.device) -> None:
        self._recorded: dict[Hashable, tuple[torch.cuda.CUDAGraph, Tensor | None]] = {}
        self._enabled = device.type == "cuda"
        if self._enabled:
            self._pool = torch.cuda.graph_pool_handle()
            self._stream = torch.cuda.Stream()

    def record(self, key: Hashable, work: Work) -> None:
        """Rehearse `work` and record it; what it changes meanwhile must not matter."""
        if not self._enabled or key in self._recorded:
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(REHEARSALS):
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


class Recorded:
    """A function of batches, replayed by the smallest recording that holds the batch.

    Its arguments have the batch as their first dimension, its result as number `dimension`.
    """

    def __init__(
        self, graphs: Graphs, work: Callable[..., Tensor], dimension: int, name: str
    ) -> None:
        self._graphs = graphs
        self._work = work
        self._dimension = dimension
        self._name = name
        self._buffers: dict[int, Sequence[Tensor]] = {}

    def record(self, *batch: Tensor) -> None:
        """Record it for batches of this size."""
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
