"""A receiver of webhooks that sorts what it is told by request."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from tests.acceptance.receiver import Delivery, Receiver


class Inbox(Receiver):
    """Accepts every webhook; `told` holds the bodies of each request, in the order they came."""

    def __init__(self) -> None:
        super().__init__()
        self.told: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)

    def accept(self, path: str, headers: Mapping[str, str], body: bytes) -> int:
        """Remember a delivery."""
        told = Delivery(path, headers, body, 200).told
        self.told[told["request_id"]].append(told)
        return super().accept(path, headers, body)
