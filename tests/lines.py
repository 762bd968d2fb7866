"""The lines of the log, written by Serve's own formatters, with its own fields around ours."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray._common.formatters import JSONFormatter
from ray.serve._private.common import ServeComponentType
from ray.serve._private.logging_utils import (
    ServeComponentFilter,
    ServeContextFilter,
    ServeFormatter,
    ServeLogAttributeRemovalFilter,
)

from deployments.telemetry.log import logger


class Lines(logging.Handler):
    """Keeps what a replica's file would have, as JSON and as text."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.json: list[dict[str, Any]] = []
        self.text: list[str] = []
        self.addFilter(ServeContextFilter())
        self.addFilter(ServeComponentFilter("Ingress", "r1", ServeComponentType.REPLICA))
        self.addFilter(ServeLogAttributeRemovalFilter())

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line in both ways."""
        self.text.append(ServeFormatter("Ingress", "r1").format(record))
        self.json.append(json.loads(JSONFormatter().format(record)))

    def about(self, event: str) -> list[dict[str, Any]]:
        """The lines that begin with this word."""
        return [line for line in self.json if line["message"].split()[0] == event]


@contextmanager
def logging_lines() -> Iterator[Lines]:
    """What is logged inside the block."""
    lines, level = Lines(), logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(lines)
        logger.setLevel(level)
