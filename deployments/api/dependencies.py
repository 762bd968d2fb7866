"""What the HTTP side needs from the rest of the service."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from deployments.api.auth import Keyring
from deployments.api.shutdown import Closing
from deployments.files.base import FileStore
from deployments.florence.request import Finished, Request
from deployments.jobs.store import Store
from deployments.settings import Settings
from deployments.telemetry.metrics import PrometheusRecorder
from deployments.telemetry.tracing import OFF, Tracer

Tell = Callable[[Any], None]


@dataclass(frozen=True)
class Services:
    """The neighbours of the HTTP side, as plain awaitables.

    `num_beams` is the most that a run may ask for.
    `stream` is `run` that tells the output so far, as JSON values, each time it has grown.
    `run` raises a ServiceError for what the client should see; anything else is a 500.
    `ready` says whether a run would find every part of the pipeline.
    `wake` tells a worker that the queue has changed; it returns at once and may be lost.
    """

    settings: Settings
    num_beams: int
    run: Callable[[Request], Awaitable[Finished]]
    stream: Callable[[Request, Tell], Awaitable[Finished]]
    ready: Callable[[], Awaitable[bool]]
    wake: Callable[[], None]
    files: FileStore
    store: Store
    keyring: Keyring
    recorder: PrometheusRecorder
    closing: Closing
    tracer: Tracer = OFF
