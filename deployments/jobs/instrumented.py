"""A store whose calls are measured."""

import time
from collections.abc import Callable, Coroutine
from functools import partial, wraps
from operator import methodcaller
from typing import Any, Concatenate, ParamSpec, TypeVar

from deployments.errors import StoreUnavailable
from deployments.jobs.store import Store
from deployments.jobs.store_retry import attempt_failed
from deployments.telemetry.metrics import Recorder

P = ParamSpec("P")
T = TypeVar("T")


def measured(
    method: Callable[Concatenate[Store, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["InstrumentedStore", P], Coroutine[Any, Any, T]]:
    """The method of that name: how long it took, and whether the store was available."""
    name = method.__name__

    @wraps(method)
    async def call(self: "InstrumentedStore", /, *args: P.args, **options: P.kwargs) -> T:
        started_at = time.perf_counter()
        count_error = partial(self.recorder.record, "florence_store_errors_total", operation=name)
        outer = attempt_failed.set(count_error)
        try:
            answer: T = await methodcaller(name, *args, **options)(self.store)
            return answer
        except StoreUnavailable:  # a refusal, such as QueueFull, is an answer
            count_error()
            raise
        finally:
            attempt_failed.reset(outer)
            seconds = time.perf_counter() - started_at
            self.recorder.record("florence_store_call_seconds", seconds, operation=name)

    return call


class InstrumentedStore:
    """Every method of `store`; each but `close` is measured under its name."""

    def __init__(self, store: Store, recorder: Recorder) -> None:
        self.store = store
        self.recorder = recorder

    submit = measured(Store.submit)
    claim = measured(Store.claim)
    heartbeat = measured(Store.heartbeat)
    finish = measured(Store.finish)
    retry_or_finish = measured(Store.retry_or_finish)
    requeue = measured(Store.requeue)
    cancel = measured(Store.cancel)
    rescue = measured(Store.rescue)
    prune = measured(Store.prune)
    status = measured(Store.status)
    result = measured(Store.result)
    position = measured(Store.position)
    backlog = measured(Store.backlog)
    stats = measured(Store.stats)
    now = measured(Store.now)

    claim_webhooks = measured(Store.claim_webhooks)
    record_delivery = measured(Store.record_delivery)
    webhooks = measured(Store.webhooks)
    retry_webhook = measured(Store.retry_webhook)
    signing_keys = measured(Store.signing_keys)
    put_signing_keys = measured(Store.put_signing_keys)

    add_key = measured(Store.add_key)
    key_by_hash = measured(Store.key_by_hash)
    keys = measured(Store.keys)
    revoke_key = measured(Store.revoke_key)
    replace_key_hash = measured(Store.replace_key_hash)
    check_rate_limit = measured(Store.check_rate_limit)
    acquire_slot = measured(Store.acquire_slot)
    release_slot = measured(Store.release_slot)
    add_usage = measured(Store.add_usage)
    usage = measured(Store.usage)
    secret = measured(Store.secret)

    async def close(self) -> None:
        await self.store.close()
