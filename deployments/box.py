"""A neighbour in the pipeline, and the two ways in which something can be handed to it.

Serve passes arguments and results through Ray's object store, by reference: whatever the size, a
box that only hands something on never reads it. What is small is cheaper by value, over gRPC:
an image's two hops take 2.6 ms of processor time instead of 8 with 150 kB of pixels, as much with
0.8 MB, and a quarter more with the 1.8 MB of the real model's (docs/benchmarks.md).
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ray.serve.handle import DeploymentHandle

SMALL_PIXELS = 512 * 1024  # bytes


@dataclass(frozen=True)
class Box:
    """A neighbour: methods of a handle in production, functions in a test.

    `run` begins the box's work; its arguments may be what another box has begun.
    `run_small`, where there is one, begins the same if all arguments are here and small.
    """

    run: Callable[..., Awaitable[Any]]
    ready: Callable[[], Awaitable[bool]]
    run_small: Callable[..., Awaitable[Any]] | None = None

    @property
    def small(self) -> Callable[..., Awaitable[Any]]:
        """The better way to begin when all arguments are here and small."""
        return self.run_small or self.run


def box_of(neighbour: Box | DeploymentHandle[Any], small: bool = True) -> Box:
    """A neighbour as the pipeline calls it, whichever way it was given.

    Without `small`, what it takes or returns can be large.
    """
    if isinstance(neighbour, Box):
        return neighbour
    run, ready = neighbour.run.remote, neighbour.ready.remote
    return Box(run, ready, neighbour.options(_by_reference=False).run.remote if small else None)


def are_small(image_size: tuple[int, int]) -> bool:
    """Whether images of this (width, height), three bytes a pixel, are worth passing by value."""
    width, height = image_size
    return 3 * width * height <= SMALL_PIXELS
