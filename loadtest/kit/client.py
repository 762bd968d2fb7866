"""Asks the service over kept connections, as many at a time as are needed.

A connection is opened when none is idle, so no request waits here for another's answer.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from geventhttpclient import HTTPClient

MANY = 20_000  # connections; more than a process may have open files


@dataclass(frozen=True)
class Answer:
    """A response; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: it is none.
        """
        return json.loads(self.body)


class Client:
    """Calls the service at `url` with `key`."""

    def __init__(self, url: str, key: str, timeout_s: float) -> None:
        self._prefix = urlsplit(url).path.rstrip("/")
        self._headers = {"Authorization": f"Key {key}", "Content-Type": "application/json"}
        self._http = HTTPClient.from_url(
            url, concurrency=MANY, connection_timeout=timeout_s, network_timeout=timeout_s
        )

    def ask(self, method: str, path: str, body: bytes = b"") -> Answer:
        """The answer, read to its end.

        Raises:
            OSError: no connection, or it was lost.
            HTTPParseError: the answer is no HTTP.
        """
        response = self._http.request(method, self._prefix + path, body, self._headers)
        try:
            content = bytes(response.read())
            headers = {str(name).lower(): str(value) for name, value in response.items()}
            return Answer(int(response.status_code), headers, content)
        finally:
            response.release()

    def close(self) -> None:
        """Hang up."""
        self._http.close()
