"""Every metric, declared once, and the two places it goes to.

Each deployment records through Ray, whose agent on each node exports the metrics; the Ingress also
keeps a registry of its own, which `/metrics` prints.
Names are `florence_<deployment>_<what>_<unit>`, or `florence_<part>_…` for a part that several
deployments use, such as the store; Ray puts `ray_` before them.

Ray forgets a gauge that is not set again. It exports a histogram as counts alone, so its sum is a
guess: what has to be added up is a counter.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client import Metric as Family

from deployments.ray_compat import SERVE_LABEL

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Metric:
    """One row: kind, help text, labels, and a histogram's bounds.

    Every replica records the same value of one that is the cluster's: take the maximum of them.
    """

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    is_clusters: bool = False


METRICS: dict[str, Metric] = {
    "florence_ingress_requests_total": Metric(
        "counter", "Requests answered, by endpoint and HTTP status.", ("endpoint", "status")
    ),
    "florence_ingress_running": Metric("gauge", "Synchronous runs that are in the pipeline now."),
    "florence_ingress_places": Metric("gauge", "Runs that one replica admits at a time now."),
    "florence_ingress_retries_total": Metric(
        "counter",
        "Attempts at runs that are repeated as a replica died, by cause.",
        ("cause",),
    ),
    "florence_ingress_run_seconds": Metric(
        "histogram", "A run from end to end.", ("endpoint",), SECONDS
    ),
    "florence_ingress_key_requests_total": Metric(
        "counter", "Runs and submits that began, by the id of their key.", ("key",)
    ),
    "florence_ingress_key_model_seconds_total": Metric(
        "counter", "The model's time for runs, by the id of their key.", ("key",)
    ),
    "florence_ingress_key_refused_total": Metric(
        "counter",
        "Requests answered with 429, by the limit of their key: rate, concurrency, share.",
        ("key", "limit"),
    ),
    "florence_preprocess_fetch_seconds": Metric(
        "histogram", "Fetching or unpacking the file of one image.", (), SECONDS
    ),
    "florence_preprocess_decode_seconds": Metric(
        "histogram", "Decoding and resizing one image.", (), SECONDS
    ),
    "florence_preprocess_shared_total": Metric(
        "counter", "Requests whose image another request was fetching and decoding."
    ),
    "florence_inference_queue_wait_seconds": Metric(
        "histogram", "Wait of one request for the model.", (), SECONDS
    ),
    "florence_inference_model_seconds": Metric(
        "histogram", "From a request's start in the model to its last token.", (), SECONDS
    ),
    "florence_inference_batch_size": Metric(
        "histogram", "Requests that shared the model with a request, itself included.", (), SIZES
    ),
    "florence_inference_batches_total": Metric(
        "counter", "Requests by their share of the model: a half for one that ran with another."
    ),
    "florence_inference_slots": Metric("gauge", "Sequences that one replica can run at a time."),
    "florence_inference_slots_taken": Metric("gauge", "Sequences that run in one replica now."),
    "florence_inference_waiting": Metric("gauge", "Requests that wait in one replica now."),
    "florence_inference_steps_total": Metric("counter", "Steps of the model."),
    "florence_inference_rows_total": Metric(
        "counter",
        "Sequences in these steps, added up: over steps and slots it is the batch's fill.",
    ),
    "florence_inference_busy_seconds_total": Metric(
        "counter", "Time in which the model worked; its rate is the share of time."
    ),
    "florence_inference_begun_total": Metric(
        "counter",
        "Batches that started, by reason: full, joined others, waited long enough, alone.",
        ("reason",),
    ),
    "florence_inference_written_tokens_total": Metric(
        "counter", "Tokens of all answers, added up."
    ),
    "florence_inference_image_hits_total": Metric(
        "counter", "Requests whose image another request had encoded (inference.image_cache_mb)."
    ),
    "florence_inference_image_cache_bytes": Metric(
        "gauge", "Memory of the image cache in one replica."
    ),
    "florence_inference_tokens": Metric("histogram", "Tokens of one answer.", (), TOKENS),
    "florence_inference_answers_total": Metric(
        "counter", "Answers, by their adapter; `base` is the model without any.", ("adapter",)
    ),
    "florence_inference_truncated_total": Metric(
        "counter", "Answers that were cut at their limit of tokens.", ("endpoint",)
    ),
    "florence_postprocess_seconds": Metric(
        "histogram",
        "Parsing one answer, and drawing its picture where that comes first.",
        (),
        SECONDS,
    ),
    "florence_postprocess_picture_seconds": Metric(
        "histogram", "Drawing and storing one picture.", (), SECONDS
    ),
    "florence_postprocess_pictures_lost_total": Metric(
        "counter", "Pictures that could not be drawn or stored."
    ),
    "florence_postprocess_shapes_dropped_total": Metric(
        "counter",
        "Boxes and quads without width or height, and polygons without three whole points, "
        "that the model wrote.",
        ("endpoint",),
    ),
    "florence_dispatcher_running": Metric("gauge", "Jobs that run now."),
    "florence_dispatcher_requests_total": Metric(
        "counter", "Attempts at jobs, by outcome.", ("outcome",)
    ),
    "florence_dispatcher_wait_seconds": Metric(
        "histogram", "Wait of a job in the queue, until an attempt started.", (), SECONDS
    ),
    "florence_dispatcher_retries_total": Metric(
        "counter", "Attempts at jobs that failed and are repeated, by cause.", ("cause",)
    ),
    "florence_dispatcher_key_model_seconds_total": Metric(
        "counter", "The model's time for jobs, by the id of their key.", ("key",)
    ),
    "florence_dispatcher_rescued_total": Metric(
        "counter", "Jobs of dead workers, or not started in time, by outcome.", ("outcome",)
    ),
    "florence_dispatcher_webhooks_total": Metric(
        "counter",
        "Attempts at webhooks, by outcome: delivered, retried, dead.",
        ("outcome",),
    ),
    "florence_dispatcher_webhook_seconds": Metric(
        "histogram", "One webhook delivery, until its receiver answered.", (), SECONDS
    ),
    "florence_queue_requests": Metric(
        "gauge",
        "Jobs in the store: queued, running (up to 10,000), claimable (up to 1,000).",
        ("state",),
        is_clusters=True,
    ),
    "florence_queue_oldest_seconds": Metric(
        "gauge", "How long the oldest claimable job has waited.", is_clusters=True
    ),
    "florence_queue_key_running": Metric(
        "gauge",
        "Requests that run, for the 20 keys with most: jobs, and runs where a limit counts them.",
        ("key",),
        is_clusters=True,
    ),
    "florence_webhooks": Metric(
        "gauge",
        "Webhooks in the store by state: pending, delivered, dead; counted up to 10,000.",
        ("state",),
        is_clusters=True,
    ),
    "florence_webhooks_overdue_seconds": Metric(
        "gauge", "How long the first webhook that is due has been due.", is_clusters=True
    ),
    "florence_store_up": Metric("gauge", "Whether the store answers: 1 or 0.", is_clusters=True),
    "florence_store_bytes": Metric(
        "gauge", "Size of the queue's file, or of its tables in PostgreSQL.", is_clusters=True
    ),
    "florence_store_free_bytes": Metric(
        "gauge", "Free space on the disk of the queue's file; SQLite only.", is_clusters=True
    ),
    "florence_store_call_seconds": Metric(
        "histogram", "One call of the store, by operation.", ("operation",), SECONDS
    ),
    "florence_store_errors_total": Metric(
        "counter", "Calls that the store did not answer, by operation.", ("operation",)
    ),
    "florence_process_cpu_seconds_total": Metric(
        "counter", "Processor time of all threads of a replica.", ("deployment",)
    ),
}
STAGES = ("florence_preprocess_", "florence_inference_", "florence_postprocess_")


class Recorder(Protocol):
    """Takes a measurement: adds to a counter, sets a gauge, or observes into a histogram."""

    def record(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Record `value` under the metric `name`, which must be declared with these labels."""

    def refresh(self) -> None:
        """Set all gauges once more, where they are forgotten."""


class PrometheusRecorder:
    """Keeps every metric in a registry of this process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._metrics = {name: self._declare(name, metric) for name, metric in METRICS.items()}
        self._recorded: set[str] = set()

    def record(self, name: str, value: float = 1.0, **labels: str) -> None:
        self._recorded.add(name)
        metric = self._metrics[name]
        child = metric.labels(**labels) if labels else metric
        match METRICS[name].kind:
            case "counter":
                child.inc(value)
            case "gauge":
                child.set(value)
            case "histogram":
                child.observe(value)

    def refresh(self) -> None:
        """See Recorder."""

    def exposition(self) -> bytes:
        return generate_latest(self)

    def collect(self) -> Iterator[Family]:
        """Every metric with its samples; a gauge that was never set has none, rather than zero."""
        for family in self._registry.collect():
            if family.type == "gauge" and family.name not in self._recorded:
                family.samples = []
            yield family

    def _declare(self, name: str, metric: Metric) -> Any:
        common: Mapping[str, Any] = {"labelnames": metric.labels, "registry": self._registry}
        match metric.kind:
            case "counter":
                return Counter(name, metric.help, **common)
            case "gauge":
                return Gauge(name, metric.help, **common)
            case "histogram":
                return Histogram(name, metric.help, buckets=metric.bounds, **common)


class RayRecorder:
    """Hands every metric to Ray, which exports it with Serve's own.

    Args:
        in_replica: whether Serve adds the labels `deployment` and `replica`; else Serve is not
            even loaded.
    """

    def __init__(self, *, in_replica: bool = True) -> None:
        self._in_replica = in_replica
        self._ray = import_module("ray.serve.metrics" if in_replica else "ray.util.metrics")
        self._metrics: dict[str, Any] = {}
        self._gauges: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def record(self, name: str, value: float = 1.0, **labels: str) -> None:
        if self._in_replica:
            labels.pop(SERVE_LABEL, None)
        if name not in self._metrics:
            self._metrics[name] = self._declare(name, METRICS[name])
        metric = self._metrics[name]
        match METRICS[name].kind:
            case "counter" if value > 0:  # Ray refuses to add nothing
                metric.inc(value, tags=labels)
            case "gauge":
                metric.set(value, tags=labels)
                self._gauges[name, tuple(labels.items())] = value
            case "histogram":
                metric.observe(value, tags=labels)

    def refresh(self) -> None:
        """See Recorder; a gauge of the cluster is forgotten when the store is not read any more."""
        for (name, labels), value in list(self._gauges.items()):
            if not METRICS[name].is_clusters:
                self._metrics[name].set(value, tags=dict(labels))

    def _declare(self, name: str, metric: Metric) -> Any:
        given = (SERVE_LABEL,) if self._in_replica else ()
        tags: Any = tuple(each for each in metric.labels if each not in given)
        match metric.kind:
            case "counter":
                plain = name.removesuffix("_total")  # Ray adds the suffix by itself
                return self._ray.Counter(plain, metric.help, tag_keys=tags)
            case "gauge":
                return self._ray.Gauge(name, metric.help, tag_keys=tags)
            case "histogram":
                bounds = list(metric.bounds)
                return self._ray.Histogram(name, metric.help, bounds, tag_keys=tags)


class SharedRecorder(PrometheusRecorder):
    """Keeps every metric here, and hands those to `other` that this deployment measures itself.

    Stages are recorded by their own deployments too, and the cluster's gauges are read for
    `/metrics` alone.
    """

    def __init__(self, other: Recorder) -> None:
        super().__init__()
        self._other = other

    def record(self, name: str, value: float = 1.0, **labels: str) -> None:
        super().record(name, value, **labels)
        if not name.startswith(STAGES) and not METRICS[name].is_clusters:
            self._other.record(name, value, **labels)

    def refresh(self) -> None:
        self._other.refresh()
