"""The nodes with GPUs: asked for when a replica finds no free GPU, given back when unused."""

from dataclasses import dataclass
from math import inf

from loadtest.plan.clock import Clock

IDLE_S = 60.0  # an unused node is kept for so long, as KubeRay does by default


@dataclass(eq=False, slots=True)
class Node:
    """A node with one GPU, paid from when it was asked for."""

    asked: float
    ready: float
    ended: float = inf
    is_used: bool = True
    num_releases: int = 0


class Nodes:
    """As many nodes as are asked for; each takes `start_s` to come."""

    def __init__(self, clock: Clock, start_s: float) -> None:
        self._clock = clock
        self._start_s = start_s
        self._nodes: list[Node] = []

    def take(self, is_there: bool = False) -> Node:
        """A free node, or a new one, which takes its time unless `is_there`."""
        for node in self._nodes:
            if node.ended == inf and not node.is_used:
                node.is_used = True
                return node
        now = self._clock.now
        node = Node(now, now if is_there else now + self._start_s)
        self._nodes.append(node)
        return node

    def release(self, node: Node) -> None:
        """Give a node back; unused, it ends after its idle time."""
        node.is_used = False
        node.num_releases += 1
        release = node.num_releases
        idle_from = max(self._clock.now, node.ready)
        self._clock.at(idle_from + IDLE_S, lambda: self._end(node, release))

    def count(self) -> int:
        """Nodes that are there or on their way."""
        return sum(node.ended == inf for node in self._nodes)

    def gpu_seconds(self) -> float:
        """Seconds of all GPUs that are to be paid until now."""
        return sum(min(self._clock.now, node.ended) - node.asked for node in self._nodes)

    def _end(self, node: Node, release: int) -> None:
        if not node.is_used and node.num_releases == release:
            node.ended = self._clock.now
