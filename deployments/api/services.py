"""What the HTTP side needs from the rest of the service."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from deployments.florence.run import Finished, Run
from deployments.images.storage import FileStore
from deployments.metrics import PrometheusRecorder
from deployments.settings import Settings


@dataclass(frozen=True)
class Services:
    """The neighbours of the HTTP side, as plain awaitables.

    `run` raises a ServiceError for what the client should see; anything else is a 500.
    `ready` says whether a run would find every part of the pipeline.
    """

    settings: Settings
    run: Callable[[Run], Awaitable[Finished]]
    ready: Callable[[], Awaitable[bool]]
    files: FileStore
    recorder: PrometheusRecorder
