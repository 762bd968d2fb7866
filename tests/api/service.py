"""A service to call in tests: the real application, real stores, runs that are functions."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fastapi import FastAPI
from starlette.testclient import TestClient

from deployments.api.admission import Shutdown
from deployments.api.app import create_app
from deployments.api.auth import Keyring
from deployments.api.dependencies import Dependencies
from deployments.errors import StoreUnavailable
from deployments.files.base import FileStore
from deployments.files.open import open_file_store
from deployments.florence.checkpoint import Checkpoint
from deployments.florence.messages import Finished, Request
from deployments.florence.partial_parser import OnPartial
from deployments.florence.prompts import Prompts
from deployments.florence.stages import Stages
from deployments.jobs.api_key import ApiKey
from deployments.jobs.job import Job, JobOutcome
from deployments.settings import DEMO_CHECKPOINT, QueueSettings, hash_key, parse
from deployments.telemetry.metrics import PrometheusRecorder
from deployments.telemetry.tracing import open_tracer
from tests.jobs.memory import MemoryStore

T = TypeVar("T")

KEY = "kid:ksecret"
AUTHORIZED = {"Authorization": f"Key {KEY}"}
KEY_ID = hash_key(KEY)[:12]
OTHER_KEY = "other:osecret"
CAPTION = "/fal-ai/florence-2-large/caption"
QUEUED = "/queue/fal-ai/florence-2-large/requests"
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
MODEL = "owner/name@abc; dtype=float16; beams=3"
ANSWER = Finished({"results": "a red square"}, STAGES, model=MODEL)

MAX_NEW_TOKENS = 100
NUM_BEAMS = 3
CHECKPOINT = Checkpoint(DEMO_CHECKPOINT)

RunFunction = Callable[[Request], Awaitable[Finished]]
StreamFunction = Callable[[Request, OnPartial], Awaitable[Finished]]


@dataclass(frozen=True)
class Service:
    """An application with what a test looks at."""

    app: FastAPI
    client: TestClient
    files: FileStore
    root: Path
    runs: list[Request]
    store: MemoryStore
    wakes: list[None] = field(default_factory=list)
    shutdown: Shutdown = field(default_factory=Shutdown)

    def post(self, body: Any, path: str = CAPTION, **headers: str) -> Any:
        """A run of `body` as JSON, with the key."""
        return self.client.post(path, json=body, headers=AUTHORIZED | named(headers))

    def post_bytes(self, body: bytes, **headers: str) -> Any:
        """A run of `body` as it is, with the key."""
        return self.client.post(CAPTION, content=body, headers=AUTHORIZED | named(headers))

    def submit(self, path: str = f"/queue{CAPTION}", **headers: str) -> Any:
        """The answer to a submit of some image, with the key."""
        return self.post({"image_url": "u"}, path, **headers)

    def get(self, path: str, key: str = KEY, **headers: str) -> Any:
        """What is at `path`, with the key."""
        return self.client.get(path, headers={"Authorization": f"Key {key}"} | named(headers))

    def cancel(self, request_id: str, key: str = KEY) -> Any:
        """The answer to a cancel."""
        headers = {"Authorization": f"Key {key}", "Content-Type": "application/json"}
        return self.client.put(f"{QUEUED}/{request_id}/cancel", headers=headers)

    def claim(self) -> Job:
        """Take the next request, as a worker does."""
        [claimed] = do(self.store.claim("worker", 1, 60.0))
        return claimed

    def finish(self, ending: JobOutcome) -> Job:
        """Take the next request, and end it."""
        claimed = self.claim()
        assert do(self.store.finish(claimed.lease, ending))
        return claimed

    def add_key(self, key: str = OTHER_KEY, **more: Any) -> str:
        """Store a key; its id."""
        key_id = key.partition(":")[0]
        do(self.store.add_key(ApiKey(id=key_id, hash=hash_key(key), **more)))
        return key_id

    def queued(self) -> list[dict[str, Any]]:
        """All requests in the store, as its rows."""
        return do(self._rows())

    def metrics(self) -> str:
        """What `/metrics` says."""
        return str(self.client.get("/metrics").text)

    async def _rows(self) -> list[dict[str, Any]]:
        return [row async for row in self.store.read_rows("request")]


class Serve(Protocol):
    """Makes a service."""

    def __call__(
        self,
        run: RunFunction | None = None,
        stream: StreamFunction | None = None,
        ready: Callable[[], Awaitable[bool]] | None = None,
        store: MemoryStore | None = None,
        **sections: Any,
    ) -> Service:
        """A service with these functions and sections of settings."""


def build(
    root: Path,
    run: RunFunction | None = None,
    stream: StreamFunction | None = None,
    ready: Callable[[], Awaitable[bool]] | None = None,
    store: MemoryStore | None = None,
    **sections: Any,
) -> Service:
    """A service whose files are under `root`."""
    runs: list[Request] = []
    wakes: list[None] = []

    async def answer(given: Request, on_partial: OnPartial | None) -> Finished:
        runs.append(given)
        if on_partial and stream:
            return await stream(given, on_partial)
        return await run(given) if run else ANSWER

    async def always() -> bool:
        return True

    tree = {"keys": {"hashes": [hash_key(KEY)]}, "files": {"root": str(root)}} | sections
    settings = parse(tree)
    store = store or MemoryStore(settings.queue)
    shutdown = Shutdown()
    files = open_file_store(settings.files)
    services = Dependencies(
        settings=settings,
        bounds={"num_beams": NUM_BEAMS, "max_new_tokens": MAX_NEW_TOKENS},
        model="demo",
        prompts=Prompts(CHECKPOINT, settings.inference),
        run=answer,
        ready=ready or always,
        wake=lambda: wakes.append(None),
        files=files,
        store=store,
        keyring=Keyring(settings.keys, store),
        recorder=PrometheusRecorder(),
        tracer=open_tracer(settings.tracing, "Ingress"),
        shutdown=shutdown,
    )
    app = create_app(services)
    return Service(app, TestClient(app), files, root, runs, store, wakes, shutdown)


class AwayStore(MemoryStore):
    """A store that cannot be reached as long as `is_away`."""

    def __init__(self) -> None:
        super().__init__(QueueSettings())
        self.is_away = True

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name != "is_away" and self.is_away:
            raise StoreUnavailable
        return super().__getattribute__(name)


def do(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; a memory store belongs to no event loop."""
    return asyncio.run(work)


def named(headers: dict[str, str]) -> dict[str, str]:
    """Header names with dashes."""
    return {name.replace("_", "-"): value for name, value in headers.items()}
