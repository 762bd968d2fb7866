"""The scripts' output: one JSON value per line."""

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fal_client.client import FalClientHTTPError, Status


def output(value: Any) -> None:
    """Print a value."""
    sys.stdout.write(json.dumps(value) + "\n")


@contextmanager
def section(name: str) -> Iterator[None]:
    """The output of the call `name`; an error is part of it, and the next call goes on."""
    output({"call": name})
    try:
        yield
    except Exception:
        output({"failed": traceback.format_exc()})


def shown(status: Status) -> dict[str, Any]:
    """A status, with the name that the client gives it."""
    return {"is": type(status).__name__, **vars(status)}


def failed(error: FalClientHTTPError) -> dict[str, Any]:
    """An error of the service, as the client raises it."""
    return {
        "status": error.status_code,
        "message": error.message,
        "error_type": error.response_headers.get("x-fal-error-type"),
        "request_id": error.response_headers.get("x-fal-request-id"),
        "body": error.response.json(),
    }
