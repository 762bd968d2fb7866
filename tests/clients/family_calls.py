"""Every endpoint by fal's Python client in its published ways; some endpoints at a time."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fal_client

from tests.clients import loopback  # noqa: F401 (imported for what it does)
from tests.clients.output import output

AT_A_TIME = 2


def ask(endpoint: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The answers of one endpoint."""
    answers = {
        "run": fal_client.run(endpoint, arguments=arguments),
        "subscribe": fal_client.subscribe(endpoint, arguments=arguments, with_logs=True),
        "submit": fal_client.submit(endpoint, arguments=arguments).get(),
        "stream": [*fal_client.stream(endpoint, arguments=arguments)][-1],
    }
    return {"endpoint": endpoint, "answers": answers}


if __name__ == "__main__":
    with ThreadPoolExecutor(AT_A_TIME) as threads:
        for answer in threads.map(
            ask, *zip(*json.loads(os.environ["INPUTS"]).items(), strict=True)
        ):
            output(answer)
