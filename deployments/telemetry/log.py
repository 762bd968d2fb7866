"""The service's log, and the fields that a line about a request has.

Serve writes the lines: in JSON with each field by itself, in text without the fields.
"""

import logging
from typing import Any

from deployments.errors import ServiceError
from deployments.ray_compat import SERVE_LOGGER, log_extra, log_fields

logger = logging.getLogger(f"{SERVE_LOGGER}.florence")

Fields = dict[str, Any]


def about(request_id: str, key_id: str = "", trace: str = "", **more: Any) -> Fields:
    """The `extra` of a log call about a request.

    `trace` is a `traceparent`; fields that are empty or None are left out. Never a key, a URL or
    an image.
    """
    given = {"request_id": request_id, "key_id": key_id, "trace_id": trace_id(trace), **more}
    return log_extra({name: value for name, value in given.items() if value not in (None, "")})


def trace_id(trace: str) -> str:
    """The trace's id in a `traceparent`, 32 hex digits; empty for none."""
    return trace[3:35]


def write(event: str, extra: Fields) -> None:
    """One line whose text has the fields too."""
    if logger.isEnabledFor(logging.INFO):
        words = " ".join(f"{name}={value}" for name, value in log_fields(extra).items())
        logger.info("%s %s", event, words, extra=extra)


def hide_client_errors() -> None:
    """Keep Serve from logging client errors in this replica.

    Serve logs every error that a deployment raises, with its traceback. An error of the client is
    in the log already, as the line of its request.
    """
    logging.getLogger(SERVE_LOGGER).addFilter(is_no_client_error)


def is_no_client_error(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, ServiceError) and error.status < 500)
