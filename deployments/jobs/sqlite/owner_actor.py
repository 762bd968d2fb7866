"""The one process that owns a SQLite file, and the store as all other processes see it.

Several processes that write one SQLite file starve each other for seconds, so a named actor of
Ray owns it.
"""

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import wraps
from operator import methodcaller
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar
from uuid import uuid4

import ray
from ray.exceptions import RayActorError, RayError

from deployments.errors import SetupError, StoreUnavailable
from deployments.jobs.coalescer import Coalescer
from deployments.jobs.sqlite.operations import Tables
from deployments.jobs.sqlite.readers import ReadOnlyReader
from deployments.jobs.sqlite.store import SqliteStore
from deployments.jobs.store_retry import retry
from deployments.settings import QueueSettings, StoreSettings
from deployments.telemetry.log import logger
from deployments.telemetry.metrics import RayRecorder
from deployments.telemetry.process_metrics import ProcessMetrics

P = ParamSpec("P")
T = TypeVar("T")
Call: TypeAlias = methodcaller  # of a SqliteStore
Send = Callable[[Sequence[Call]], Awaitable[Sequence[Any]]]

NAME = "florence-store"
NAMESPACE = "florence"
RESTART_S = 30.0  # within which Ray has restarted an owner that died
RETRY_DELAY_S = 0.1
MAX_UNDER_WAY = 4  # groups of calls, of each kind


class StoreOwner:
    def __init__(self, settings: StoreSettings, queue: QueueSettings) -> None:
        self._settings = settings
        self._queue = queue
        self._store: SqliteStore | None = None
        self._metrics = ProcessMetrics(RayRecorder(in_replica=False), "store")

    async def call_all(self, calls: Sequence[Call]) -> list[Any]:
        """Each call's answer or error, in the same order; the calls run at the same time."""
        return await asyncio.gather(*(self._call(call) for call in calls), return_exceptions=True)

    async def _call(self, call: Call) -> Any:
        return await call(self._opened())

    def _opened(self) -> SqliteStore:
        """The store, opened at its first use.

        An actor that fails in its constructor is not restarted, and the file may be locked for a
        moment: by an owner that is being replaced.
        """
        if self._store is None:
            try:
                self._store = self._open()
            except SetupError as error:
                logger.error("%s", error)
                raise StoreUnavailable from error
        return self._store

    def _open(self) -> SqliteStore:
        file = self._settings.file
        if file is None:
            return SqliteStore.open_temporary(self._queue)
        return SqliteStore.open(file, self._queue, is_owner=True)


def forwarded(
    method: Callable[Concatenate[SqliteStore, P], Coroutine[Any, Any, T]],
    *,
    reads: bool = False,
    counts: bool = False,
) -> Callable[Concatenate["SqliteOwnerClient", P], Coroutine[Any, Any, T]]:
    """A method that the owner is asked to do.

    Args:
        reads: it travels with those that read, which wait for no commit.
        counts: it gets an id, by which the store counts it once however often it is sent.
    """

    @wraps(method)
    async def call(self: "SqliteOwnerClient", /, *args: P.args, **options: P.kwargs) -> T:
        named = {"operation": f"operation {uuid4().hex}"} if counts else {}
        asked = methodcaller(method.__name__, *args, **options, **named)
        answer: T = await self.ask(asked, reads=reads)
        return answer

    return call


def read_here(
    work: Callable[Concatenate[Tables, P], T],
) -> Callable[Concatenate["SqliteOwnerClient", P], Coroutine[Any, Any, T]]:
    """A method that reads the file in this process; the owner is asked while it cannot be read.

    Clients poll, and the owner is one process.
    """

    @wraps(work)
    async def call(self: "SqliteOwnerClient", /, *args: P.args, **options: P.kwargs) -> T:
        if self.reader:
            with suppress(sqlite3.Error):
                return self.reader.read(lambda tables: work(tables, *args, **options))
        asked = methodcaller(work.__name__, *args, **options)
        answer: T = await self.ask(asked, reads=True)
        return answer

    return call


class SqliteOwnerClient:
    """The store as its owner serves it.

    Calls travel in groups. Those under way when the owner dies are sent again to the next one,
    which Ray starts (`retried` says what that means); those that count are counted once.
    """

    def __init__(self, send: Send, reader: ReadOnlyReader | None, retry_s: float = 0.0) -> None:
        self.reader = reader
        self._reads: Coalescer[Call, Any] = Coalescer(send, "store-reads", MAX_UNDER_WAY)
        self._writes: Coalescer[Call, Any] = Coalescer(send, "store-writes", MAX_UNDER_WAY)
        self._retry_s = retry_s

    submit = forwarded(SqliteStore.submit)
    claim = forwarded(SqliteStore.claim)
    heartbeat = forwarded(SqliteStore.heartbeat)
    finish = forwarded(SqliteStore.finish)
    retry_or_finish = forwarded(SqliteStore.retry_or_finish)
    requeue = forwarded(SqliteStore.requeue)
    cancel = forwarded(SqliteStore.cancel)
    rescue = forwarded(SqliteStore.rescue)
    prune = forwarded(SqliteStore.prune)
    status = read_here(Tables.status)
    result = read_here(Tables.result)
    position = read_here(Tables.position)
    backlog = forwarded(SqliteStore.backlog, reads=True)
    stats = forwarded(SqliteStore.stats, reads=True)
    now = forwarded(SqliteStore.now, reads=True)

    claim_webhooks = forwarded(SqliteStore.claim_webhooks)
    record_delivery = forwarded(SqliteStore.record_delivery)
    webhooks = forwarded(SqliteStore.webhooks, reads=True)
    retry_webhook = forwarded(SqliteStore.retry_webhook)
    signing_keys = forwarded(SqliteStore.signing_keys, reads=True)
    put_signing_keys = forwarded(SqliteStore.put_signing_keys)

    add_key = forwarded(SqliteStore.add_key)
    key_by_hash = forwarded(SqliteStore.key_by_hash, reads=True)
    keys = forwarded(SqliteStore.keys, reads=True)
    revoke_key = forwarded(SqliteStore.revoke_key)
    replace_key_hash = forwarded(SqliteStore.replace_key_hash)
    check_rate_limit = forwarded(SqliteStore.check_rate_limit, counts=True)
    acquire_slot = forwarded(SqliteStore.acquire_slot)
    release_slot = forwarded(SqliteStore.release_slot)
    add_usage = forwarded(SqliteStore.add_usage, counts=True)
    usage = forwarded(SqliteStore.usage, reads=True)
    secret = forwarded(SqliteStore.secret)

    async def close(self) -> None:
        """The owner keeps the store open for others."""

    async def ask(self, call: Call, *, reads: bool) -> Any:
        """The owner's answer; raises what its store raised."""
        calls = self._reads if reads else self._writes
        return await retry(lambda: calls(call), self._retry_s)


def owner_client(
    settings: StoreSettings, queue: QueueSettings, retry_s: float
) -> SqliteOwnerClient:
    """A client of the owner, which is started if it is not there."""
    actor = owner(settings, queue)

    async def send(calls: Sequence[Call]) -> Sequence[Any]:
        answers: Sequence[Any] = await actor.call_all.remote(calls)
        return answers

    file = settings.file
    reader = ReadOnlyReader(file.absolute(), queue) if file else None
    return SqliteOwnerClient(surviving(send), reader, retry_s)


def surviving(send: Send) -> Send:
    """`send` that waits for Ray to restart an owner that has died, and then sends again."""

    async def insist(calls: Sequence[Call]) -> Sequence[Any]:
        deadline = time.monotonic() + RESTART_S
        while True:
            try:
                return await send(calls)
            except RayActorError as error:
                if time.monotonic() > deadline:
                    raise StoreUnavailable from error
            except RayError as error:  # whether the calls were applied is not known
                raise StoreUnavailable from error
            await asyncio.sleep(RETRY_DELAY_S)

    return insist


def owner(settings: StoreSettings, queue: QueueSettings) -> Any:
    """The handle of the owner, which the first process to ask starts."""
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


def refuse_many_nodes(settings: StoreSettings) -> None:
    """Check that an embedded store is not used in a cluster, where a restart may leave its node.

    Raises:
        SetupError: the cluster has several nodes.
    """
    if settings.is_postgres or not ray.is_initialized():
        return
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if len(nodes) > 1:
        raise SetupError(
            f"setting store.url: {settings.url} serves one node, and this cluster has "
            f"{len(nodes)}: give postgresql://… as FLORENCE_STORE"
        )
