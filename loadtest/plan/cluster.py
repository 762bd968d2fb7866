"""The nodes with GPUs: asked for when a replica has no room, given back when nobody uses them."""

from dataclasses import dataclass, field
from math import inf

from loadtest.plan.clock import Clock


@dataclass(frozen=True)
class NodeType:
    """A node: its GPUs, how long it takes to come, and how long it may be without use."""

    gpus: int
    start_s: float
    idle_s: float


@dataclass(eq=False, slots=True)
class Node:
    """A node, paid from when it was asked for."""

    asked: float
    ready: float
    ended: float = inf
    used: int = 0
    times_left: int = field(default=0)  # how often it was left without use


class Cluster:
    """As many nodes as are asked for."""

    def __init__(self, clock: Clock, type_: NodeType) -> None:
        self._clock = clock
        self._type = type_
        self.nodes: list[Node] = []

    def place(self, is_there: bool = False) -> Node:
        """Take a GPU; of a new node where none is free, which takes its time unless `is_there`."""
        node = next((node for node in self.nodes if self._has_room(node)), None)
        if node is None:
            now = self._clock.now
            node = Node(now, now if is_there else now + self._type.start_s)
            self.nodes.append(node)
        node.used += 1
        return node

    def free(self, node: Node) -> None:
        """Give a GPU back; a node without use ends after its idle time."""
        node.used -= 1
        if node.used == 0:
            node.times_left += 1
            left = node.times_left
            idle_from = max(self._clock.now, node.ready)
            self._clock.at(idle_from + self._type.idle_s, lambda: self._end(node, left))

    def count(self) -> int:
        """Nodes that are there or on their way."""
        return sum(node.ended == inf for node in self.nodes)

    def gpu_seconds(self, until: float) -> float:
        """Seconds of all GPUs that are to be paid until a time."""
        return self._type.gpus * sum(min(until, node.ended) - node.asked for node in self.nodes)

    def _has_room(self, node: Node) -> bool:
        return node.ended == inf and node.used < self._type.gpus

    def _end(self, node: Node, times_left: int) -> None:
        if node.used == 0 and node.times_left == times_left:
            node.ended = self._clock.now
