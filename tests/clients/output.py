"""The scripts' output: one JSON value per line."""

import json
import sys
from typing import Any

from fal_client.client import FalClientHTTPError, Status


def output(value: Any) -> None:
    """Print a value."""
    sys.stdout.write(json.dumps(value) + "\n")


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
