"""`florence top`: what a running service does now, read from the metrics that it exports."""

import json
import math
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx2
import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.live import Live

from deployments.cli.options import StateOption, state_folder
from deployments.cli.top_screen import draw
from deployments.errors import SetupError
from deployments.local.client import ssl_context
from deployments.local.state import StateFolder

RAYS_TARGETS = Path("/tmp/ray/prom_metrics_service_discovery.json")  # on the head of a cluster
ONCE_S, TIMEOUT_S = 10.0, 5.0  # Ray's nodes on a cluster export something new every ten seconds
REMEDY = "start `florence serve`, or give --url http://HOST:PORT/metrics"
DEPLOYMENTS = ("Ingress", "Preprocess", "Inference", "Postprocess", "Dispatcher")
NUM_KEYS, NUM_CALLS = 5, 4
STAGES = {
    "queue": "florence_dispatcher_wait_seconds",
    "fetch": "florence_preprocess_fetch_seconds",
    "decode": "florence_preprocess_decode_seconds",
    "wait": "florence_inference_queue_wait_seconds",
    "model": "florence_inference_model_seconds",
    "answer": "florence_postprocess_seconds",
    "picture": "florence_postprocess_picture_seconds",
}
AUTOSCALING = (
    "backlog", "oldest_seconds", "demand", "wanted_replicas", "reading_age_seconds", "stale",
)  # fmt: skip
WHERE = "Where metrics are, http://HOST:PORT/metrics; may be repeated."

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]  # by name and labels
Scrape = tuple[float, dict[str, Samples]]  # the monotonic time; samples by URL

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def top(
    urls: Annotated[
        list[str] | None,
        typer.Option("--url", help=WHERE, show_default="the service on this machine"),
    ] = None,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two frames.")] = 2.0,
    window: Annotated[float, typer.Option(min=1.0, help="Seconds that rates are over.")] = 30.0,
    once: Annotated[bool, typer.Option("--once", help="One frame, as without a terminal.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The numbers of one frame.")] = False,
    state: StateOption = None,
) -> None:
    """Show what a running service does now.

    Traffic, queue, model, stages, CPU, store, webhooks and keys.
    """
    folder = state_folder(state)
    targets = metrics_urls(list(dict.fromkeys(urls or [])), folder)
    title = urlsplit(targets[0]).netloc + (f" +{len(targets) - 1}" if targets[1:] else "")
    verify = ssl_context(folder.tls / "ca.pem")
    with httpx2.Client(verify=verify, trust_env=False, timeout=TIMEOUT_S) as http:
        is_live = sys.stdout.isatty() and not (once or as_json)
        wait_s = every if is_live else min(window, ONCE_S)
        found = frames(partial(scrape, http, targets), wait_s, window)
        if is_live:
            with suppress(KeyboardInterrupt), Live(screen=True, auto_refresh=False) as live:
                for shown, trouble in found:
                    live.update(draw(shown, title, trouble), refresh=True)
            return
        shown, trouble = next(found)
    if trouble:
        raise SetupError(trouble)
    typer.echo(json.dumps(shown, indent=2)) if as_json else Console().print(draw(shown, title))


def metrics_urls(urls: Sequence[str], state: StateFolder) -> list[str]:
    """The URLs given, with a path; else those that `florence serve` or Ray left for Prometheus.

    Raises:
        SetupError: there is no service on this machine.
    """
    if urls:
        return [u if urlsplit(u).path.strip("/") else u.rstrip("/") + "/metrics" for u in urls]
    for file in (state.targets, RAYS_TARGETS):
        with suppress(OSError, ValueError, KeyError, TypeError):
            groups = json.loads(file.read_text())
            if hosts := [host for group in groups for host in group["targets"]]:
                return [f"http://{host}/metrics" for host in hosts]
    raise SetupError(f"no service is known on this machine: {REMEDY}")


def frames(
    scrape: Callable[[], Scrape], every_s: float, window_s: float
) -> Iterator[tuple[dict[str, Any], str]]:
    """Overviews of the last `window_s`, and why a scrape failed; SetupError if the first did."""
    scrapes = deque([scrape()])
    while True:
        time.sleep(every_s)
        trouble = ""
        try:
            scrapes.append(scrape())
        except SetupError as error:
            trouble = str(error)
        while len(scrapes) > 2 and scrapes[-1][0] - scrapes[1][0] >= window_s:
            scrapes.popleft()
        yield overview(Rates(scrapes[0], scrapes[-1])), trouble


def scrape(http: httpx2.Client, urls: Sequence[str]) -> Scrape:
    """All exporters now, without the Ingresses' own pages where there are Ray's.

    Raises:
        SetupError: one does not answer, or answers something else.
    """
    with ThreadPoolExecutor(min(16, len(urls))) as threads:
        texts = dict(zip(urls, threads.map(partial(fetch, http), urls), strict=True))
    by_ray = {url: text for url, text in texts.items() if "\nray_florence_" in text}
    samples = {url: samples_in(text, url) for url, text in (by_ray or texts).items()}
    if not any(samples.values()):
        raise SetupError(f"{', '.join(urls)} has no metric of Florence Serve: {REMEDY}")
    return time.monotonic(), samples


def fetch(http: httpx2.Client, url: str) -> str:
    try:
        response = http.get(url)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise SetupError(f"no answer from {url} ({error}): {REMEDY}") from None
    if not response.is_success:
        raise SetupError(f"{url} answers {response.status_code}: {REMEDY}")
    return response.text


def samples_in(text: str, url: str) -> Samples:
    """Our samples, without Ray's prefix. Thousands of Ray's own are not parsed."""
    lines = [line.replace("ray_florence_", "florence_", 1) for line in text.splitlines()]
    ours = [line for line in lines if "florence_" in line[:16]]
    try:
        families = list(text_string_to_metric_families("\n".join([*ours, ""])))
    except ValueError:
        text = ""
    if "# TYPE " not in text:
        raise SetupError(f"{url} is no page of metrics: {REMEDY}")
    samples = [sample for family in families for sample in family.samples]
    return {(each.name, frozenset(each.labels.items())): each.value for each in samples}


class Rates:
    """Rates and quantiles of the time between two scrapes, and levels at the later one.

    A counter that has fallen was restarted: all of it is new. An exporter that was not in the
    first scrape has levels only. None means that nothing was exported.
    """

    def __init__(self, before: Scrape, after: Scrape) -> None:
        self.seconds = after[0] - before[0]
        self._levels: dict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
        self._rates: dict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
        for url, samples in after[1].items():
            for (name, labels), value in samples.items():
                self._levels[name].append((dict(labels), value))
                if url in before[1]:
                    old = before[1][url].get((name, labels), 0.0)
                    increase = value - old if value >= old else value
                    self._rates[name].append((dict(labels), increase / self.seconds))

    def rates(self, name: str, label: str, **where: str) -> dict[str, float]:
        """The increase of a counter per second by one label, over the series with `where`."""
        found: dict[str, float] = defaultdict(float)
        for labels, rate in self._rates[name]:
            if where.items() <= labels.items():
                found[labels.get(label, "")] += rate
        return dict(found)

    def rate(self, name: str, **where: str) -> float | None:
        """The same over all labels."""
        return sum(self.rates(name, "", **where).values()) if self._rates[name] else None

    def level(self, name: str, of: Callable[[Iterable[float]], float] = sum) -> float | None:
        """A gauge over all series: the sum, or what `of` makes of them."""
        return of(value for _, value in self._levels[name]) if self._levels[name] else None

    def levels(self, name: str, label: str) -> dict[str, float]:
        """A gauge by the values of one label: the maximum of each."""
        ordered = sorted(self._levels[name], key=lambda each: each[1])
        return {labels.get(label, ""): value for labels, value in ordered}

    def timing(self, name: str, **where: str) -> dict[str, float | None]:
        """The observations of a histogram per second, and their quantiles."""
        rates = self.rates(f"{name}_bucket", "le", **where)
        buckets = sorted((float(bound), rate) for bound, rate in rates.items())
        per_s = self.rate(f"{name}_count", **where)
        return {"per_s": per_s, "p50_s": quantile(0.5, buckets), "p95_s": quantile(0.95, buckets)}


def quantile(share: float, buckets: Sequence[tuple[float, float]]) -> float | None:
    """Interpolated from cumulative counts by upper bound; the last bound for what is beyond."""
    rank, lower, below = share * (buckets[-1][1] if buckets else 0.0), 0.0, 0.0
    for upper, count in buckets:
        if count >= rank and count > below and not math.isinf(upper):
            return lower + (upper - lower) * (rank - below) / (count - below)
        lower, below = lower if math.isinf(upper) else upper, count
    return lower if below else None


def overview(rates: Rates) -> dict[str, Any]:
    """All numbers under the names of --json; `busy`, `fill` and `model` are shares from 0 to 1."""
    images_per_s = rates.rate("florence_inference_tokens_count")
    retries = Counter(rates.rates("florence_ingress_retries_total", "cause"))
    retries.update(rates.rates("florence_dispatcher_retries_total", "cause"))
    cores = rates.rates("florence_process_cpu_seconds_total", "deployment")
    autoscaling: dict[str, dict[str, float]] = defaultdict(dict)
    for what in AUTOSCALING:
        for name, value in rates.levels(f"florence_autoscaling_{what}", "deployment").items():
            autoscaling[name][what] = value
    return {
        "seconds": rates.seconds,
        "traffic": {
            "by_status_per_s": rates.rates("florence_ingress_requests_total", "status"),
            "running": rates.level("florence_ingress_running"),
            "runs": rates.timing("florence_ingress_run_seconds"),
        },
        "queue": {
            "requests": rates.levels("florence_queue_requests", "state"),
            "oldest_s": rates.level("florence_queue_oldest_seconds", max),
            "running": rates.level("florence_dispatcher_running"),
            "outcomes_per_s": rates.rates("florence_dispatcher_requests_total", "outcome"),
        },
        "engine": engine(rates, images_per_s),
        "stages": {stage: rates.timing(name) for stage, name in STAGES.items()},
        "cpu": {
            name.lower(): {
                "cores": cores[name],
                "per_image_s": images_per_s and cores[name] / images_per_s,
            }
            for name in sorted(cores, key=[*DEPLOYMENTS, *cores].index)
        },
        "retries_per_s": dict(retries),
        "webhooks": {
            "webhooks": rates.levels("florence_webhooks", "state"),
            "overdue_s": rates.level("florence_webhooks_overdue_seconds", max),
            "outcomes_per_s": rates.rates("florence_dispatcher_webhooks_total", "outcome"),
            "deliveries": rates.timing("florence_dispatcher_webhook_seconds"),
        },
        "store": store(rates),
        "keys": keys(rates),
        "autoscaling": autoscaling,
    }


def engine(rates: Rates, images_per_s: float | None) -> dict[str, Any]:
    slots = rates.level("florence_inference_slots")
    replicas = rates.level("florence_inference_slots", lambda all_: sum(n > 0 for n in all_)) or 0
    steps = rates.rate("florence_inference_steps_total")
    rows = rates.rate("florence_inference_rows_total") or 0.0
    busy = rates.rate("florence_inference_busy_seconds_total")
    return {
        "replicas": replicas,
        "slots": slots,
        "slots_taken": rates.level("florence_inference_slots_taken"),
        "waiting": rates.level("florence_inference_waiting"),
        "busy": min(1.0, busy / replicas) if busy is not None and replicas else None,
        "fill": rows / steps / (slots / replicas) if steps and slots else None,
        "images_per_s": images_per_s,
        "tokens_per_s": rates.rate("florence_inference_written_tokens_total"),
        "begun_per_s": rates.rates("florence_inference_begun_total", "reason"),
    }


def store(rates: Rates) -> dict[str, Any]:
    """The store, with the operations that are called most."""
    name, up = "florence_store_call_seconds", rates.level("florence_store_up", min)
    calls = rates.rates(f"{name}_count", "operation")
    most = sorted(filter(calls.get, calls), key=lambda each: -calls[each])[:NUM_CALLS]
    return {
        "is_up": None if up is None else bool(up),
        "calls": {each: rates.timing(name, operation=each) for each in most},
        "errors_per_s": rates.rate("florence_store_errors_total"),
        "size_bytes": rates.level("florence_store_bytes", max),
        "free_bytes": rates.level("florence_store_free_bytes", max),
    }


def keys(rates: Rates) -> dict[str, dict[str, float]]:
    """The keys with most requests; `model` is the share of the model's time that one uses."""
    model = Counter(rates.rates("florence_ingress_key_model_seconds_total", "key"))
    model.update(rates.rates("florence_dispatcher_key_model_seconds_total", "key"))
    columns: dict[str, dict[str, float]] = {
        "requests_per_s": rates.rates("florence_ingress_key_requests_total", "key"),
        "refused_per_s": rates.rates("florence_ingress_key_refused_total", "key"),
        "model": dict(model),
        "running": rates.levels("florence_queue_key_running", "key"),
    }
    names = {key for column in columns.values() for key in column}
    rows = {key: {name: each.get(key, 0.0) for name, each in columns.items()} for key in names}
    most = sorted(rows, key=lambda key: (-rows[key]["requests_per_s"], -rows[key]["model"], key))
    return {key: rows[key] for key in most[:NUM_KEYS]}
