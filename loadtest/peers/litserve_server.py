"""The checkpoint behind LitServe.      python -m loadtest.peers.litserve_server PORT"""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import litserve  # type: ignore[import-not-found]
from PIL import Image

from loadtest.peers.peer import DecodedImage, PeerJob, PeerModel, Pictures

BATCH_TIMEOUT_S = 0.005


class RegionProposal(litserve.LitAPI):  # type: ignore[misc]
    """One worker: decodes and answers in threads, which Pillow lets run side by side."""

    def setup(self, device: str) -> None:
        job = PeerJob.read()
        self._pictures, self._model = Pictures(job), PeerModel(job)
        self._threads = ThreadPoolExecutor(2)

    def decode_request(self, request: dict[str, Any]) -> str:
        """The image's address; it is decoded with the others of its batch."""
        return str(request["image_url"])

    def batch(self, inputs: Sequence[str]) -> list[DecodedImage]:
        return list(self._threads.map(self._pictures.decode, inputs))

    def predict(self, x: Sequence[DecodedImage]) -> list[tuple[Any, Image.Image]]:
        answers = self._model.generate([decoded.pixels for decoded in x])
        return [(tokens, decoded.image) for tokens, decoded in zip(answers, x, strict=True)]

    def unbatch(self, output: list[tuple[Any, Image.Image]]) -> list[tuple[Any, Image.Image]]:
        return output

    def encode_response(self, output: tuple[Any, Image.Image]) -> dict[str, Any]:
        return self._pictures.answer(*output)


if __name__ == "__main__":
    server = litserve.LitServer(
        RegionProposal(max_batch_size=8, batch_timeout=BATCH_TIMEOUT_S),
        accelerator="cpu",
        timeout=False,
    )
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning"
    )
