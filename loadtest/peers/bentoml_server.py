"""The checkpoint behind BentoML: `bentoml serve loadtest.peers.bentoml_server:FrontService`.

Two services, as BentoML advises where decoding and inference want different resources:
the first decodes and answers, the second batches what the first asks of the model.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import bentoml  # type: ignore[import-not-found]
import numpy as np

from loadtest.peers.peer import PeerJob, PeerModel, Pictures

LONGEST_WAIT_MS = 60_000
COMMON: dict[str, Any] = {
    "traffic": {"timeout": 120},
    "logging": {"access": {"enabled": False}},
    # its default closes every connection after 100 requests, with those under way on it
    "runner_connection": {"max_requests": 10**9, "max_age": 1e9},
}


@bentoml.service(workers=1, **COMMON)
class GenerateService:
    def __init__(self) -> None:
        self._model = PeerModel(PeerJob.read())

    @bentoml.api(batchable=True, max_batch_size=8, max_latency_ms=LONGEST_WAIT_MS)  # type: ignore[untyped-decorator]
    def generate(self, pixels: np.ndarray) -> list[list[int]]:
        """Token ids of images (batch, height, width, 3)."""
        return [list(tokens) for tokens in self._model.generate(list(pixels))]


@bentoml.service(workers=1, **COMMON)
class FrontService:
    engine = bentoml.depends(GenerateService)

    def __init__(self) -> None:
        self._pictures = Pictures(PeerJob.read())
        self._threads = ThreadPoolExecutor(2)

    @bentoml.api(route="/predict")  # type: ignore[untyped-decorator]
    async def predict(self, image_url: str) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        decoded = await loop.run_in_executor(self._threads, self._pictures.decode, image_url)
        [tokens] = await self.engine.to_async.generate(decoded.pixels[None])
        return self._pictures.answer(tuple(tokens), decoded.image)
