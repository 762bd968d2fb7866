"""A service to call in tests: the real application, a real file store, runs that are functions."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fastapi import FastAPI
from starlette.testclient import TestClient

from deployments.api.app import create_app
from deployments.api.services import Services
from deployments.florence.run import Finished, Run, Stages
from deployments.images.storage import LocalFileStore
from deployments.metrics import PrometheusRecorder
from deployments.settings import hash_key, parse

KEY = "kid:ksecret"
AUTHORIZED = {"Authorization": f"Key {KEY}"}
CAPTION = "/fal-ai/florence-2-large/caption"
STAGES = Stages(
    fetch_s=0.1,
    decode_s=0.02,
    queue_wait_s=0.003,
    model_s=0.25,
    postprocess_s=0.0005,
    batch_size=4,
    batch_share=0.25,
    num_tokens=12,
)
ANSWER = Finished({"results": "a red square"}, STAGES)

RunFunction = Callable[[Run], Awaitable[Finished]]


@dataclass(frozen=True)
class Service:
    """An application with what a test looks at."""

    app: FastAPI
    client: TestClient
    files: LocalFileStore
    root: Path
    runs: list[Run]

    def post(self, body: Any, path: str = CAPTION, **headers: str) -> Any:
        """A run of `body` as JSON, with the key."""
        return self.client.post(path, json=body, headers=AUTHORIZED | named(headers))

    def post_bytes(self, body: bytes, **headers: str) -> Any:
        """A run of `body` as it is, with the key."""
        return self.client.post(CAPTION, content=body, headers=AUTHORIZED | named(headers))

    def metrics(self) -> str:
        """What `/metrics` says."""
        return str(self.client.get("/metrics").text)


class Serve(Protocol):
    """Makes a service."""

    def __call__(
        self,
        run: RunFunction | None = None,
        ready: Callable[[], Awaitable[bool]] | None = None,
        **sections: Any,
    ) -> Service:
        """A service with these functions and sections of settings."""


def build(
    root: Path,
    run: RunFunction | None = None,
    ready: Callable[[], Awaitable[bool]] | None = None,
    **sections: Any,
) -> Service:
    """A service whose files are under `root`."""
    runs: list[Run] = []

    async def answer(given: Run) -> Finished:
        runs.append(given)
        return await run(given) if run else ANSWER

    async def always() -> bool:
        return True

    tree = {"keys": {"hashes": [hash_key(KEY)]}, "files": {"root": str(root)}} | sections
    settings = parse(tree)
    files = LocalFileStore(settings.files)
    app = create_app(Services(settings, answer, ready or always, files, PrometheusRecorder()))
    return Service(app, TestClient(app), files, root, runs)


def named(headers: dict[str, str]) -> dict[str, str]:
    """Header names with dashes."""
    return {name.replace("_", "-"): value for name, value in headers.items()}
