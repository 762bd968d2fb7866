"""The service's log, and what a line says of its request beside its words.

Serve writes it: in JSON each field stands by itself; in text there are the words alone.
"""

import logging
from typing import Any

from deployments.errors import ServiceError

logger = logging.getLogger("ray.serve.florence")  # Serve writes these to the replica's log

Fields = dict[str, Any]


def about(request_id: str, key_id: str = "", trace: str = "", **more: Any) -> Fields:
    """The `extra` of a log call that is about a request.

    `trace` is a `traceparent`; what is empty or None is left out. Never a key, a URL or an image.
    """
    given = {"request_id": request_id, "key_id": key_id, "trace_id": trace_id(trace), **more}
    known = {name: value for name, value in given.items() if value not in (None, "")}
    # Serve would write its own id of the call, which no client knows, over the request's.
    return {"skip_context_filter": True, "ray_serve_extra_fields": known}


def trace_id(trace: str) -> str:
    """The trace's id in a `traceparent`, 32 hex digits; empty for none."""
    return trace[3:35]


def write(event: str, extra: Fields) -> None:
    """One line with all its fields, for people who read text too."""
    if logger.isEnabledFor(logging.INFO):
        fields = extra["ray_serve_extra_fields"]
        words = " ".join(f"{name}={value}" for name, value in fields.items())
        logger.info("%s %s", event, words, extra=extra)


def hide_client_errors() -> None:
    """Let Serve not write of refusals in this replica.

    It writes an error with its traceback for whatever a box raises; but what a client did wrong
    is in the log already, as the line of its run.
    """
    logging.getLogger("ray.serve").addFilter(is_not_client_error)


def is_not_client_error(record: logging.LogRecord) -> bool:
    """Whether a record tells of anything but an error that its client has made."""
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, ServiceError) and error.status < 500)
