"""What Grafana's dashboard shows, row by row.

The expressions name metrics alone: `dashboard` adds the installation to each of them.
"""

from dataclasses import dataclass
from typing import Literal

RATE = "[$__rate_interval]"
QUANTILES = (0.5, 0.95)


@dataclass(frozen=True)
class Query:
    """An expression, and what its lines are called."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One picture, or one number."""

    title: str
    unit: str
    description: str
    queries: tuple[Query, ...]
    kind: Literal["timeseries", "stat"] = "timeseries"
    stacked: bool = False


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


def rate(metric: str, *labels: str) -> str:
    """How often a counter counts in a second, over all replicas, by some labels."""
    by = f" by ({', '.join(labels)}) " if labels else ""
    return f"sum{by}(rate({metric}{RATE}))"


def quantile(metric: str, q: float, *labels: str) -> str:
    return f"histogram_quantile({q}, {rate(f'{metric}_bucket', 'le', *labels)})"


def quantiles(metric: str) -> tuple[Query, ...]:
    return tuple(Query(quantile(metric, q), f"p{q * 100:.0f}") for q in QUANTILES)


def stages(q: float) -> tuple[Query, ...]:
    return tuple(Query(quantile(metric, q), name) for name, metric in STAGES.items())


STAGES = {
    "queue": "ray_florence_dispatcher_wait_seconds",
    "fetch": "ray_florence_preprocess_fetch_seconds",
    "decode": "ray_florence_preprocess_decode_seconds",
    "wait": "ray_florence_inference_queue_wait_seconds",
    "model": "ray_florence_inference_model_seconds",
    "answer": "ray_florence_postprocess_seconds",
    "picture": "ray_florence_postprocess_picture_seconds",
}
REQUESTS = "ray_florence_ingress_requests_total"
FAILED = 'ray_florence_ingress_requests_total{status=~"5.."}'
RUNS = "ray_florence_ingress_run_seconds"
SLOTS = "ray_florence_inference_slots"
BUSY = "ray_florence_inference_busy_seconds_total"
IMAGES = "ray_florence_inference_tokens_count"
CPU = "ray_florence_process_cpu_seconds_total"
OLDEST = "max(ray_florence_queue_oldest_seconds)"
TARGET = 'max(ray_serve_autoscaling_target_replicas{deployment="Inference"})'
MEAN_BATCH = (
    f"{rate('ray_florence_inference_rows_total')} / {rate('ray_florence_inference_steps_total')}"
)
# Counters of replicas that are gone stay; the gauge goes with its replica.
BUSY_SHARE = f"{rate(BUSY)} / count({SLOTS})"
KEY_MODEL_S = (
    f"sum by (key) (rate(ray_florence_ingress_key_model_seconds_total{RATE})"
    f" or rate(ray_florence_dispatcher_key_model_seconds_total{RATE}))"
)
# Serve's controller sets this gauge every ten seconds only, and it is missing in between at times.
WELL = "sum by (deployment) (last_over_time(ray_serve_deployment_replica_healthy[1m]))"
AWAY = 'count(ray_florence_store_up{deployment="Dispatcher"} == 0)'
COST = f"1000 * $price / 3600 * count({SLOTS}) / sum(rate({IMAGES}[1h]))"

ROWS = (
    Row(
        "Now",
        (
            Panel(
                "Requests",
                "reqps",
                "Requests answered over HTTP, of any kind and status.",
                (Query(rate(REQUESTS), ""),),
                "stat",
            ),
            Panel(
                "Errors",
                "percentunit",
                "Share of requests that were answered with 5xx; empty when none ever was.",
                (Query(f"{rate(FAILED)} / {rate(REQUESTS)}", ""),),
                "stat",
            ),
            Panel(
                "Runs, p95",
                "s",
                "Synchronous runs from end to end: 95 of 100 were faster.",
                (Query(quantile(RUNS, 0.95), ""),),
                "stat",
            ),
            Panel(
                "Waiting",
                "short",
                "Requests in the queue, also those that wait out a delay or a limit of their key.",
                (Query('max(ray_florence_queue_requests{state="queued"})', ""),),
                "stat",
            ),
            Panel(
                "Oldest",
                "s",
                "How long the oldest request that could run has waited.",
                (Query(OLDEST, ""),),
                "stat",
            ),
            Panel(
                "GPUs",
                "short",
                "Replicas of the model that run.",
                (Query(f"count({SLOTS})", ""),),
                "stat",
            ),
            Panel(
                "GPU busy",
                "percentunit",
                "Share of time in which the models work.",
                (Query(BUSY_SHARE, ""),),
                "stat",
            ),
            Panel(
                "1,000 images",
                "currencyUSD",
                "What GPUs cost for 1,000 images, over the last hour, at the price set above.",
                (Query(COST, ""),),
                "stat",
            ),
        ),
    ),
    Row(
        "Traffic",
        (
            Panel(
                "Requests by status",
                "reqps",
                "Requests over HTTP by status; 429 is a limit or overload.",
                (Query(rate(REQUESTS, "status"), "{{status}}"),),
                stacked=True,
            ),
            Panel(
                "Requests by endpoint",
                "reqps",
                "Requests over HTTP by what was asked for.",
                (Query(rate(REQUESTS, "endpoint"), "{{endpoint}}"),),
                stacked=True,
            ),
            Panel(
                "Runs in the pipeline",
                "short",
                "Runs that are under way, and those that the Ingresses would let in at a time.",
                (
                    Query("sum(ray_florence_ingress_running)", "running"),
                    Query("sum(ray_florence_ingress_places)", "places"),
                ),
            ),
            Panel(
                "Begun again",
                "reqps",
                "Runs and attempts that were begun again, by cause, such as a replica that died.",
                (
                    Query(rate("ray_florence_ingress_retries_total", "cause"), "run: {{cause}}"),
                    Query(
                        rate("ray_florence_dispatcher_retries_total", "cause"), "queue: {{cause}}"
                    ),
                ),
            ),
        ),
    ),
    Row(
        "Latency",
        (
            Panel(
                "Runs",
                "s",
                "Synchronous runs from end to end.",
                (*quantiles(RUNS), Query(quantile(RUNS, 0.99), "p99")),
            ),
            Panel(
                "Runs by endpoint, p95",
                "s",
                "Synchronous runs from end to end, by what was asked for.",
                (Query(quantile(RUNS, 0.95, "endpoint"), "{{endpoint}}"),),
            ),
            Panel(
                "Stages, median",
                "s",
                "Where a request spends its time: half of them spend less.",
                stages(0.5),
            ),
            Panel(
                "Stages, p95",
                "s",
                "Where a request spends its time: 95 of 100 spend less.",
                stages(0.95),
            ),
        ),
    ),
    Row(
        "Queue",
        (
            Panel(
                "Depth",
                "short",
                "Requests in the store, counted up to 10,000; claimable ones up to 1,000.",
                (Query("max by (state) (ray_florence_queue_requests)", "{{state}}"),),
            ),
            Panel(
                "Age of the oldest",
                "s",
                "How long the oldest request that could run has waited.",
                (Query(OLDEST, "oldest"),),
            ),
            Panel(
                "Wait",
                "s",
                "A request's wait in the queue until an attempt at it began.",
                quantiles(STAGES["queue"]),
            ),
            Panel(
                "Attempts by outcome",
                "reqps",
                "Attempts at jobs, by outcome.",
                (Query(rate("ray_florence_dispatcher_requests_total", "outcome"), "{{outcome}}"),),
                stacked=True,
            ),
        ),
    ),
    Row(
        "Batches",
        (
            Panel(
                "Fill",
                "percentunit",
                "Share of the slots that are taken in a step of the model.",
                (Query(f"{MEAN_BATCH} / avg({SLOTS})", "fill"),),
            ),
            Panel(
                "Slots",
                "short",
                "Requests that the models can run, that run, and that wait in their replicas.",
                (
                    Query(f"sum({SLOTS})", "slots"),
                    Query("sum(ray_florence_inference_slots_taken)", "taken"),
                    Query("sum(ray_florence_inference_waiting)", "waiting"),
                ),
            ),
            Panel(
                "Why batches began",
                "ops",
                "Batches by the reason for which they did not wait for more.",
                (Query(rate("ray_florence_inference_begun_total", "reason"), "{{reason}}"),),
                stacked=True,
            ),
            Panel(
                "Images",
                "ops",
                "Images that the models have answered, in a second.",
                (Query(rate(IMAGES), "images"),),
            ),
        ),
    ),
    Row(
        "Answers",
        (
            Panel(
                "Cut answers",
                "ops",
                "Answers that their limit of tokens cut, by what was asked for.",
                (
                    Query(
                        rate("ray_florence_inference_truncated_total", "endpoint"), "{{endpoint}}"
                    ),
                ),
                stacked=True,
            ),
            Panel(
                "Dropped shapes",
                "ops",
                "Boxes and polygons without an area that the model wrote, by what was asked for.",
                (
                    Query(
                        rate("ray_florence_postprocess_shapes_dropped_total", "endpoint"),
                        "{{endpoint}}",
                    ),
                ),
                stacked=True,
            ),
        ),
    ),
    Row(
        "GPUs and replicas",
        (
            Panel(
                "GPU busy",
                "percentunit",
                "Share of time in which the models work, of all and of each replica.",
                (
                    Query(BUSY_SHARE, "all"),
                    Query(f"{rate(BUSY, 'replica')} and on (replica) {SLOTS}", "{{replica}}"),
                ),
            ),
            Panel(
                "Replicas of the model",
                "short",
                "What the policy asks for, what Serve made of it within its bounds, and what runs.",
                (
                    Query("max(ray_florence_autoscaling_wanted_replicas)", "wanted"),
                    Query(TARGET, "decided"),
                    Query(f"count({SLOTS})", "running"),
                ),
            ),
            Panel(
                "Replicas by deployment",
                "short",
                "Replicas that are well.",
                (
                    Query(
                        WELL,
                        "{{deployment}}",
                    ),
                ),
            ),
            Panel(
                "Age of the policy's reading",
                "s",
                "How long ago the policy read the queue; after 10 s it removes no GPU.",
                (Query("max(ray_florence_autoscaling_reading_age_seconds)", "age"),),
            ),
        ),
    ),
    Row(
        "Cost",
        (
            Panel(
                "Processor time for a request, by deployment",
                "s",
                "Seconds of a core that a deployment spends for each image.",
                (Query(f"{rate(CPU, 'deployment')} / scalar({rate(IMAGES)})", "{{deployment}}"),),
                stacked=True,
            ),
            Panel(
                "Cores by deployment",
                "short",
                "Cores that are at work.",
                (Query(rate(CPU, "deployment"), "{{deployment}}"),),
                stacked=True,
            ),
            Panel(
                "Cost of 1,000 images",
                "currencyUSD",
                "What GPUs cost for 1,000 images, idle ones included, over the hour before.",
                (Query(COST, "1,000 images"),),
            ),
            Panel(
                "Tokens",
                "ops",
                "Tokens that the models have written, in a second.",
                (Query(rate("ray_florence_inference_written_tokens_total"), "tokens"),),
            ),
        ),
    ),
    Row(
        "Webhooks",
        (
            Panel(
                "Webhooks by state",
                "short",
                "Webhooks in the store, counted up to 10,000; settled ones are kept for a week.",
                (Query("max by (state) (ray_florence_webhooks)", "{{state}}"),),
            ),
            Panel(
                "Deliveries by outcome",
                "ops",
                "Deliveries that were tried, and what came of them.",
                (Query(rate("ray_florence_dispatcher_webhooks_total", "outcome"), "{{outcome}}"),),
                stacked=True,
            ),
            Panel(
                "Time of a delivery",
                "s",
                "Until the receiver answered.",
                quantiles("ray_florence_dispatcher_webhook_seconds"),
            ),
            Panel(
                "Overdue",
                "s",
                "How long the first webhook that is due has been due.",
                (Query("max(ray_florence_webhooks_overdue_seconds)", "overdue"),),
            ),
        ),
    ),
    Row(
        "Store",
        (
            Panel(
                "Calls, p95",
                "s",
                "Calls of the store by operation: 95 of 100 were faster.",
                (
                    Query(
                        quantile("ray_florence_store_call_seconds", 0.95, "operation"),
                        "{{operation}}",
                    ),
                ),
            ),
            Panel(
                "Calls",
                "ops",
                "Calls of the store by operation.",
                (
                    Query(
                        rate("ray_florence_store_call_seconds_count", "operation"),
                        "{{operation}}",
                    ),
                ),
                stacked=True,
            ),
            Panel(
                "Away",
                "short",
                "Dispatchers that do not reach the store; calls in a second that found it away.",
                (
                    Query(AWAY, "Dispatchers"),
                    Query(rate("ray_florence_store_errors_total"), "calls"),
                ),
            ),
            Panel(
                "Size",
                "bytes",
                "The queue's file or tables; with SQLite also what is free on its disk.",
                (
                    Query("max(ray_florence_store_bytes)", "used"),
                    Query("min(ray_florence_store_free_bytes)", "free"),
                ),
            ),
        ),
    ),
    Row(
        "Keys",
        (
            Panel(
                "Requests by key",
                "reqps",
                "Runs and submits that began, for the ten keys with most, by their id.",
                (
                    Query(
                        f"topk(10, {rate('ray_florence_ingress_key_requests_total', 'key')})",
                        "{{key}}",
                    ),
                ),
                stacked=True,
            ),
            Panel(
                "The model's time by key",
                "percentunit",
                "Share of one model's time, for the ten keys with most; runs and queued requests.",
                (Query(f"topk(10, {KEY_MODEL_S})", "{{key}}"),),
                stacked=True,
            ),
            Panel(
                "Refused by key",
                "reqps",
                "Requests refused with 429, by key and limit: rate, concurrency, share.",
                (
                    Query(
                        rate("ray_florence_ingress_key_refused_total", "key", "limit"),
                        "{{key}}: {{limit}}",
                    ),
                ),
            ),
            Panel(
                "Running by key",
                "short",
                "Requests that run, for the 20 keys with most.",
                (Query("max by (key) (ray_florence_queue_key_running)", "{{key}}"),),
                stacked=True,
            ),
        ),
    ),
)
