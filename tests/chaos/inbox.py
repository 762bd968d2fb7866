"""A receiver of webhooks that sorts what it receives by job."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from tests.acceptance.receiver import Delivery, Receiver


class Inbox(Receiver):
    """Accepts every webhook; `bodies` holds those of each job, in the order they came."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)

    def accept(self, path: str, headers: Mapping[str, str], body: bytes) -> int:
        """Remember a delivery."""
        received = Delivery(path, headers, body, 200).message
        self.bodies[received["request_id"]].append(received)
        return super().accept(path, headers, body)
