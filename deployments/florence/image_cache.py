"""Image tokens of recent images: a sequence about a known image skips the vision tower.

That is most of the work before the first token, and a faster answer shows that the image was known.
Keys therefore contain the API key, so that a client learns nothing about the images of others.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """What has a size in bytes, as tensors do."""

    @property
    def nbytes(self) -> int: ...


V = TypeVar("V", bound=Sized)


class ImageCache(Generic[V]):
    """The most recently used values, up to `max_bytes` together; used by one thread."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self.num_bytes = 0

    def get(self, key: Hashable | None) -> V | None:
        """The value, which counts as used now; a key of None is never known."""
        if key is None or key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key]

    def put(self, key: Hashable | None, value: V) -> None:
        """Keep a value, and forget those that were not used for longest."""
        if key is None or value.nbytes > self.max_bytes:
            return
        if key in self._values:
            self.num_bytes -= self._values.pop(key).nbytes
        self._values[key] = value
        self.num_bytes += value.nbytes
        while self.num_bytes > self.max_bytes:
            self.num_bytes -= self._values.popitem(last=False)[1].nbytes
