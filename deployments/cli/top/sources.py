"""Where metrics are, and fetching them.

`florence serve` leaves the address of Ray's exporter in its state folder, in the format that
Prometheus reads files of targets in; on a cluster Ray leaves such a file on its head.
"""

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from deployments.cli.top.exposition import NoExposition, Scrape, scrape
from deployments.errors import SetupError
from deployments.local.client import ssl_context
from deployments.local.state import StateFolder

RAYS = Path("/tmp/ray/prom_metrics_service_discovery.json")
TIMEOUT_S = 5.0
REMEDY = "start `florence serve`, or give --url http://HOST:PORT/metrics"


def sources(urls: Sequence[str], state: Path) -> list[str]:
    """The addresses to ask: those given, else those of the service on this machine.

    Raises:
        SetupError: one is no address, or there is no such service.
    """
    if urls:
        return [address(url) for url in dict.fromkeys(urls)]
    for file in (StateFolder(state).targets, RAYS):
        if file.is_file():
            return [f"http://{target}/metrics" for target in targets_in(file)]
    raise SetupError(f"no service is known on this machine: {REMEDY}")


def address(url: str) -> str:
    """`url`, with the usual path where it has none.

    Raises:
        SetupError: it is no address of HTTP.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SetupError(f"--url {url}: write http://HOST:PORT/metrics")
    return parts._replace(path="/metrics").geturl() if parts.path in ("", "/") else url


def targets_in(file: Path) -> list[str]:
    """Every `HOST:PORT` in a file of targets.

    Raises:
        SetupError: it is broken, or empty.
    """
    try:
        found = [target for group in json.loads(file.read_text()) for target in group["targets"]]
    except (OSError, ValueError, KeyError, TypeError):
        found = []
    if not found:
        raise SetupError(f"{file} names no exporter: {REMEDY}")
    return [str(target) for target in found]


class Exporters:
    """Fetches what all sources say now, side by side."""

    def __init__(self, urls: Sequence[str], authority: Path | None = None) -> None:
        self._urls = urls
        self._http = httpx2.Client(
            verify=ssl_context(authority), trust_env=False, timeout=TIMEOUT_S
        )
        self._threads = ThreadPoolExecutor(min(16, len(urls)), "exporter")

    def fetch(self) -> Scrape:
        """What they say.

        Raises:
            SetupError: one does not answer, or says something else; one line with the remedy.
        """
        texts = dict(zip(self._urls, self._threads.map(self._ask, self._urls), strict=True))
        try:
            found = scrape(time.monotonic(), texts)
        except NoExposition as error:
            raise SetupError(f"{error} is no page of metrics: {REMEDY}") from None
        if not any(found.sources.values()):
            raise SetupError(f"{', '.join(self._urls)} has no metric of Florence Serve: {REMEDY}")
        return found

    def close(self) -> None:
        """Let go of connections and threads."""
        self._threads.shutdown(cancel_futures=True)
        self._http.close()

    def _ask(self, url: str) -> str:
        try:
            response = self._http.get(url)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise SetupError(f"no answer from {url} ({reason}): {REMEDY}") from None
        if not response.is_success:
            raise SetupError(f"{url} answers {response.status_code}: {REMEDY}")
        return response.text
