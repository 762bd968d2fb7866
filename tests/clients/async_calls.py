"""Calls of fal's asynchronous Python client, named on the command line."""

import asyncio
import os
import sys
from collections.abc import Awaitable
from typing import Any

import fal_client
from fal_client import client
from fal_client.client import FalClientHTTPError
from httpx_sse import SSEError

from tests.clients import loopback  # noqa: F401 (imported for what it does)
from tests.clients.inputs import (
    BASE_URL,
    BYTES,
    ENDPOINT,
    FILE,
    GOOD,
    HANGING,
    LATE,
    NO_IMAGE,
    SEVERAL,
    TOO_MANY,
)
from tests.clients.output import failed, output, section, shown


async def run() -> None:
    """The synchronous run."""
    output(await fal_client.run_async(ENDPOINT, arguments=GOOD))


async def subscribe() -> None:
    """fal's published example."""

    def on_queue_update(update: client.Status) -> None:
        output(shown(update))
        if isinstance(update, fal_client.InProgress):
            for log in update.logs or ():
                output(log["message"])

    result = await fal_client.subscribe_async(
        ENDPOINT, arguments=LATE, with_logs=True, on_queue_update=on_queue_update
    )
    output(result)


async def submit() -> None:
    """A handle, and the webhook."""
    webhook_url = os.environ["WEBHOOK_URL"]
    handle = await fal_client.submit_async(ENDPOINT, arguments=GOOD, webhook_url=webhook_url)
    output(handle.request_id)
    output(await handle.get())


async def iter_events() -> None:
    """All that is heard until the end."""
    handle = await fal_client.submit_async(ENDPOINT, arguments=GOOD)
    async for event in handle.iter_events(with_logs=True):
        output(shown(event))


async def by_id() -> None:
    """Another process knows no more than the id."""
    request_id = (await fal_client.submit_async(ENDPOINT, arguments=GOOD)).request_id
    output(await fal_client.result_async(ENDPOINT, request_id))
    output(shown(await fal_client.status_async(ENDPOINT, request_id, with_logs=True)))


async def cancel() -> None:
    """A request that would hang, and one that has ended."""
    handle = await fal_client.submit_async(ENDPOINT, arguments=HANGING)
    await fal_client.cancel_async(ENDPOINT, handle.request_id)
    output(shown([event async for event in handle.iter_events()][-1]))
    output(await error_of(handle.get()))
    output(await error_of(handle.cancel()))


async def stream() -> None:
    """Every event, and the run that it comes to."""
    async for event in fal_client.stream_async(ENDPOINT, arguments=SEVERAL):
        output(event)
    output(await fal_client.run_async(ENDPOINT, arguments=SEVERAL))
    try:
        [event async for event in fal_client.stream_async(ENDPOINT, arguments=TOO_MANY)]
    except SSEError as error:
        output(str(error))


async def encode_file() -> None:
    """A file in the request itself."""
    encoded = fal_client.encode_file(FILE)
    output(await fal_client.run_async(ENDPOINT, arguments={"image_url": encoded}))


async def upload() -> None:
    """A file by its URL: the client does not let its address be configured."""
    client.REST_URL = f"{BASE_URL}/rest"
    client.CDN_URL = f"{BASE_URL}/cdn"
    url = await fal_client.upload_async(BYTES, "image/png")
    output(url)
    output(await fal_client.run_async(ENDPOINT, arguments={"image_url": url}))


async def errors() -> None:
    """What can go wrong."""
    unknown = "00000000-0000-4000-8000-000000000000"
    stranger = fal_client.AsyncClient(key="wrong")
    output(await error_of(fal_client.run_async(ENDPOINT, arguments=NO_IMAGE)))
    output(await error_of(fal_client.subscribe_async(ENDPOINT, arguments=NO_IMAGE)))
    output(await error_of(fal_client.status_async(ENDPOINT, unknown)))
    output(await error_of(fal_client.cancel_async(ENDPOINT, unknown)))
    output(await error_of(stranger.run(ENDPOINT, arguments=GOOD)))


async def error_of(call: Awaitable[Any]) -> dict[str, Any]:
    """The error that `call` ends with."""
    try:
        return {"answer": await call}
    except FalClientHTTPError as error:
        return failed(error)


async def perform(names: list[str]) -> None:
    """One call after the other."""
    for name in names:
        with section(name):
            await globals()[name]()


if __name__ == "__main__":
    asyncio.run(perform(sys.argv[1:]))
