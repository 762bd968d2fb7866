"""The one process that owns an embedded store, and the store as all others see it.

Several processes that write one SQLite file starve each other for seconds, so a named actor of
Ray holds it. Calls to it travel in batches: while some are under way, the next ones gather.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import ray
from ray.exceptions import RayActorError, RayTaskError

from deployments.errors import ServiceError, SetupError, StoreUnavailable
from deployments.jobs.late import opened_late
from deployments.jobs.open import SQLITE, open_store
from deployments.jobs.sqlite.read_only import LOOKS, Beside
from deployments.jobs.store import Store
from deployments.ray_compat import original_error
from deployments.settings import QueueSettings, StoreSettings
from deployments.telemetry.metrics import RayRecorder
from deployments.telemetry.process_metrics import ProcessMetrics

NAME = "florence-store"
NAMESPACE = "florence"
PATIENCE_S = 30.0  # for an owner that died and is started again
RETRY_DELAY_S = 0.1
MAX_BATCH = 256
MAX_UNDER_WAY = 4  # batches of one lane
READS = frozenset({"status", "result", "position", "backlog", "stats", "key_by_hash", "now"})

Arguments = tuple[str, tuple[Any, ...], dict[str, Any]]
Answer = tuple[bool, Any]  # whether it went well, and the result or the error


class StoreOwner:
    """The actor. It dies rather than serve a store that it could not open."""

    def __init__(self, settings: StoreSettings, queue: QueueSettings) -> None:
        self._store = opened_late(lambda: open_store(settings, queue, is_owner=True))
        self._metrics = ProcessMetrics(RayRecorder(in_replica=False), "store")

    async def call_all(self, calls: list[Arguments]) -> list[Answer]:
        """Each call's answer, in the same order; the calls run side by side."""
        return await asyncio.gather(*(self._call(*call) for call in calls))

    async def _call(self, method: str, args: tuple[Any, ...], options: dict[str, Any]) -> Answer:
        try:
            return True, await getattr(self._store, method)(*args, **options)
        except Exception as error:  # it is the caller's, and must not fail the others of the batch
            return False, error


@dataclass
class Call:
    """A call that waits to travel, and where its answer goes."""

    arguments: Arguments
    future: "asyncio.Future[Any]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Lane:
    """Carries calls to the owner, many at a time, in the order in which they came."""

    def __init__(self, send: Callable[[list[Arguments]], Awaitable[list[Answer]]]) -> None:
        self._send = send
        self._waiting: list[Call] = []
        self._trips: set[asyncio.Task[None]] = set()

    async def call(self, arguments: Arguments) -> Any:
        """The answer; raises what the owner's store raised."""
        call = Call(arguments)
        self._waiting.append(call)
        self._depart()
        return await call.future

    def _depart(self) -> None:
        while self._waiting and len(self._trips) < MAX_UNDER_WAY:
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            trip = asyncio.create_task(self._travel(batch), name="store-trip")
            self._trips.add(trip)
            trip.add_done_callback(self._return)

    def _return(self, trip: "asyncio.Task[None]") -> None:
        self._trips.discard(trip)
        self._depart()

    async def _travel(self, batch: list[Call]) -> None:
        try:
            answers = await self._send([call.arguments for call in batch])
        except BaseException as error:
            for call in batch:
                settle(call, (False, error))
            if not isinstance(error, Exception):
                raise
            return
        for call, answer in zip(batch, answers, strict=True):
            settle(call, answer)


def settle(call: Call, answer: Answer) -> None:
    """Give the caller its answer, if it still waits."""
    if call.future.done():
        return
    went_well, value = answer
    if went_well:
        call.future.set_result(value)
    else:
        call.future.set_exception(value)


class OwnedStore:
    """Every method of Store but the copying ones, done by the owner.

    A file is read beside it: those who poll are many, and the owner is one process.
    An owner that dies is started again by Ray, and what was under way is sent once more:
    a submit means the same twice, a cancel may then hear that it has happened already,
    and a lease that a lost answer gave runs out.
    """

    def __init__(self, settings: StoreSettings, queue: QueueSettings) -> None:
        self._actor = owner(settings, queue)
        self._beside = beside(settings, queue)
        self._reads = Lane(self._send)
        self._writes = Lane(self._send)

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        if not hasattr(Store, method):
            raise AttributeError(method)
        lane = self._reads if method in READS else self._writes

        async def call(*args: Any, **options: Any) -> Any:
            if self._beside and method in LOOKS:
                could_be_read, answer = self._beside.read(method, *args, **options)
                if could_be_read:
                    return answer
            return await lane.call((method, args, options))

        return call

    async def close(self) -> None:
        """The owner keeps the store open for others."""

    async def _send(self, calls: list[Arguments]) -> list[Answer]:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                answers: list[Answer] = await self._actor.call_all.remote(calls)
                return answers
            except RayActorError as error:
                if time.monotonic() > deadline:
                    raise StoreUnavailable from error
            except RayTaskError as error:
                cause = original_error(error)
                raise cause if isinstance(cause, ServiceError) else StoreUnavailable() from error
            await asyncio.sleep(RETRY_DELAY_S)


def refuse_many_nodes(settings: StoreSettings) -> None:
    """Raise SetupError for an embedded store in a cluster, which a restart could leave behind."""
    if not (is_embedded(settings) and ray.is_initialized()):
        return
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if len(nodes) > 1:
        raise SetupError(
            f"setting store.url: {settings.url} serves one node, and this cluster has "
            f"{len(nodes)}: give postgresql://… as FLORENCE_STORE"
        )


def is_embedded(settings: StoreSettings) -> bool:
    """Whether the store lives in a process of ours."""
    return not settings.url.startswith("postgres")


def beside(settings: StoreSettings, queue: QueueSettings) -> Beside | None:
    """Reads the owner's file; None for a store that has none."""
    if not settings.url.startswith(SQLITE):
        return None
    return Beside(Path(settings.url.removeprefix(SQLITE)).absolute(), queue)


def owner(settings: StoreSettings, queue: QueueSettings) -> Any:
    """The handle of the owner, which the first who asks starts."""
    options = {
        "name": NAME,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "max_restarts": -1,
        "max_concurrency": 1000,
    }
    return ray.remote(StoreOwner).options(**options).remote(settings, queue)


def store_of(settings: StoreSettings, queue: QueueSettings) -> Store:
    """The store as a box uses it: PostgreSQL directly, an embedded one through its owner."""
    if is_embedded(settings):
        return cast(Store, OwnedStore(settings, queue))
    return opened_late(lambda: open_store(settings, queue))
