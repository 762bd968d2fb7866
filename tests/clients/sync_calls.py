"""Calls of fal's Python client, named on the command line."""

import os
import sys
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


def run() -> None:
    """The synchronous run."""
    output(fal_client.run(ENDPOINT, arguments=GOOD))


def subscribe() -> None:
    """fal's published example."""

    def on_queue_update(update: client.Status) -> None:
        output(shown(update))
        if isinstance(update, fal_client.InProgress):
            for log in update.logs or ():
                output(log["message"])

    result = fal_client.subscribe(
        ENDPOINT, arguments=LATE, with_logs=True, on_queue_update=on_queue_update
    )
    output(result)


def submit() -> None:
    """A handle, and the webhook."""
    handle = fal_client.submit(ENDPOINT, arguments=GOOD, webhook_url=os.environ["WEBHOOK_URL"])
    output(handle.request_id)
    output(handle.get())


def iter_events() -> None:
    """All that is heard until the end."""
    handle = fal_client.submit(ENDPOINT, arguments=GOOD)
    for event in handle.iter_events(with_logs=True):
        output(shown(event))


def by_id() -> None:
    """Another process knows no more than the id."""
    request_id = fal_client.submit(ENDPOINT, arguments=GOOD).request_id
    output(fal_client.result(ENDPOINT, request_id))
    output(shown(fal_client.status(ENDPOINT, request_id, with_logs=True)))


def cancel() -> None:
    """A request that would hang, and one that has ended."""
    handle = fal_client.submit(ENDPOINT, arguments=HANGING)
    fal_client.cancel(ENDPOINT, handle.request_id)
    output(shown(list(handle.iter_events())[-1]))
    output(error_of(handle.get))
    output(error_of(handle.cancel))


def stream() -> None:
    """Every event, and the run that it comes to."""
    for event in fal_client.stream(ENDPOINT, arguments=SEVERAL):
        output(event)
    output(fal_client.run(ENDPOINT, arguments=SEVERAL))
    try:
        list(fal_client.stream(ENDPOINT, arguments=TOO_MANY))
    except SSEError as error:
        output(str(error))


def encode_file() -> None:
    """A file in the request itself."""
    output(fal_client.run(ENDPOINT, arguments={"image_url": fal_client.encode_file(FILE)}))


def upload() -> None:
    """A file by its URL: the client does not let its address be configured."""
    client.REST_URL = f"{BASE_URL}/rest"
    client.CDN_URL = f"{BASE_URL}/cdn"
    url = fal_client.upload(BYTES, "image/png")
    output(url)
    output(fal_client.run(ENDPOINT, arguments={"image_url": url}))


def errors() -> None:
    """What can go wrong."""
    unknown = "00000000-0000-4000-8000-000000000000"
    stranger = fal_client.SyncClient(key="wrong")
    output(error_of(lambda: fal_client.run(ENDPOINT, arguments=NO_IMAGE)))
    output(error_of(lambda: fal_client.subscribe(ENDPOINT, arguments=NO_IMAGE)))
    output(error_of(lambda: fal_client.status(ENDPOINT, unknown)))
    output(error_of(lambda: fal_client.cancel(ENDPOINT, unknown)))
    output(error_of(lambda: stranger.run(ENDPOINT, arguments=GOOD)))


def error_of(call: Any) -> dict[str, Any]:
    """The error that `call` ends with."""
    try:
        return {"answer": call()}
    except FalClientHTTPError as error:
        return failed(error)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        with section(name):
            globals()[name]()
