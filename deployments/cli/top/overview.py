"""The numbers that an operator looks at, out of what exporters said."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from deployments.cli.top.window import Window

DEPLOYMENTS = ("ingress", "preprocess", "inference", "postprocess", "dispatcher")
NUM_KEYS = 5
NUM_CALLS = 5
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


@dataclass(frozen=True)
class Timing:
    """How often something happens, per second, and how long it takes, in seconds."""

    per_s: float | None
    p50_s: float | None
    p95_s: float | None


@dataclass(frozen=True)
class Traffic:
    """Requests over HTTP per second by their status, the runs among them, and their errors."""

    by_status_per_s: Mapping[str, float]
    running: float | None
    runs: Timing


@dataclass(frozen=True)
class Queue:
    """Requests in the store by state, the oldest one's age, and how attempts at them end."""

    requests: Mapping[str, float]
    oldest_s: float | None
    running: float | None
    outcomes_per_s: Mapping[str, float]


@dataclass(frozen=True)
class Engine:
    """The model over all replicas: `busy` and `fill` are shares from 0 to 1."""

    replicas: int
    slots: float | None
    slots_taken: float | None
    waiting: float | None
    busy: float | None
    fill: float | None
    images_per_s: float | None
    tokens_per_s: float | None
    begun_per_s: Mapping[str, float]


@dataclass(frozen=True)
class Cpu:
    """Processor time of a deployment: cores in use, and seconds for each image answered."""

    cores: float
    per_image_s: float | None


@dataclass(frozen=True)
class Webhooks:
    """Webhooks in the store by state, how late the first is, and what came of deliveries."""

    webhooks: Mapping[str, float]
    overdue_s: float | None
    outcomes_per_s: Mapping[str, float]
    deliveries: Timing


@dataclass(frozen=True)
class StoreState:
    """Whether every process reaches the store, what calls take, its size and room in bytes."""

    is_up: bool | None
    calls: Mapping[str, Timing]
    errors_per_s: float | None
    size_bytes: float | None
    free_bytes: float | None


@dataclass(frozen=True)
class Key:
    """What one key does: `model` is the share of a model's time that it uses."""

    requests_per_s: float
    refused_per_s: float
    model: float
    running: float


@dataclass(frozen=True)
class Overview:
    """Everything, over the last `seconds`."""

    seconds: float
    traffic: Traffic
    queue: Queue
    engine: Engine
    stages: Mapping[str, Timing]
    cpu: Mapping[str, Cpu]
    retries_per_s: Mapping[str, float]
    webhooks: Webhooks
    store: StoreState
    keys: Mapping[str, Key]
    autoscaling: Mapping[str, Mapping[str, float]]


def overview(seen: Window) -> Overview:
    """What `seen` tells."""
    images_per_s = seen.rate("florence_inference_tokens_count")
    return Overview(
        seconds=seen.seconds,
        traffic=traffic(seen),
        queue=queue(seen),
        engine=engine(seen, images_per_s),
        stages={stage: timing(seen, name) for stage, name in STAGES.items()},
        cpu=cpu(seen, images_per_s),
        retries_per_s=retries(seen),
        webhooks=webhooks(seen),
        store=store(seen),
        keys=keys(seen),
        autoscaling=autoscaling(seen),
    )


def timing(seen: Window, name: str, **where: str) -> Timing:
    """A histogram's rate and quantiles."""
    return Timing(
        seen.rate(f"{name}_count", **where),
        seen.quantile(0.5, name, **where),
        seen.quantile(0.95, name, **where),
    )


def traffic(seen: Window) -> Traffic:
    """What comes in over HTTP."""
    by_status = seen.rates("florence_ingress_requests_total", "status")
    running = seen.level("florence_ingress_running")
    return Traffic(by_status, running, timing(seen, "florence_ingress_run_seconds"))


def queue(seen: Window) -> Queue:
    """What waits."""
    return Queue(
        requests=seen.levels("florence_queue_requests", "state"),
        oldest_s=seen.level("florence_queue_oldest_seconds", max),
        running=seen.level("florence_dispatcher_running"),
        outcomes_per_s=seen.rates("florence_dispatcher_requests_total", "outcome"),
    )


def engine(seen: Window, images_per_s: float | None) -> Engine:
    """What the model does."""
    slots = seen.level("florence_inference_slots")
    replicas = seen.count("florence_inference_slots")
    steps = seen.rate("florence_inference_steps_total")
    rows = seen.rate("florence_inference_rows_total")
    each = slots / replicas if slots and replicas else None
    busy = seen.rate("florence_inference_busy_seconds_total")
    return Engine(
        replicas=replicas,
        slots=slots,
        slots_taken=seen.level("florence_inference_slots_taken"),
        waiting=seen.level("florence_inference_waiting"),
        busy=min(1.0, busy / replicas) if busy is not None and replicas else None,
        fill=rows / steps / each if rows is not None and steps and each else None,
        images_per_s=images_per_s,
        tokens_per_s=seen.rate("florence_inference_written_tokens_total"),
        begun_per_s=seen.rates("florence_inference_begun_total", "reason"),
    )


def cpu(seen: Window, images_per_s: float | None) -> dict[str, Cpu]:
    """Who takes processor time, in the order of a request's path."""
    rates = seen.rates("florence_process_cpu_seconds_total", "deployment")
    found = {deployment.lower(): cores for deployment, cores in rates.items()}
    return {
        deployment: Cpu(
            found[deployment], found[deployment] / images_per_s if images_per_s else None
        )
        for deployment in sorted(found, key=place)
    }


def place(deployment: str) -> int:
    """Where a deployment stands on the path."""
    return DEPLOYMENTS.index(deployment) if deployment in DEPLOYMENTS else len(DEPLOYMENTS)


def retries(seen: Window) -> dict[str, float]:
    """What is begun again, by cause: synchronous runs and queued ones."""
    found = Counter(seen.rates("florence_ingress_retries_total", "cause"))
    found.update(seen.rates("florence_dispatcher_retries_total", "cause"))
    return dict(found)


def webhooks(seen: Window) -> Webhooks:
    """What is told to others."""
    return Webhooks(
        webhooks=seen.levels("florence_webhooks", "state"),
        overdue_s=seen.level("florence_webhooks_overdue_seconds", max),
        outcomes_per_s=seen.rates("florence_dispatcher_webhooks_total", "outcome"),
        deliveries=timing(seen, "florence_dispatcher_webhook_seconds"),
    )


def store(seen: Window) -> StoreState:
    """How the store is, with the operations that are called most."""
    is_up = seen.level("florence_store_up", min)
    name = "florence_store_call_seconds"
    calls = seen.rates(f"{name}_count", "operation")
    most = sorted((each for each in calls if calls[each]), key=lambda each: -calls[each])
    return StoreState(
        is_up=None if is_up is None else bool(is_up),
        calls={each: timing(seen, name, operation=each) for each in most[:NUM_CALLS]},
        errors_per_s=seen.rate("florence_store_errors_total"),
        size_bytes=seen.level("florence_store_bytes", max),
        free_bytes=seen.level("florence_store_free_bytes", max),
    )


def keys(seen: Window) -> dict[str, Key]:
    """Those keys that ask most."""
    asked = seen.rates("florence_ingress_key_requests_total", "key")
    refused = seen.rates("florence_ingress_key_refused_total", "key")
    running = seen.levels("florence_queue_key_running", "key")
    synchronous = seen.rates("florence_ingress_key_model_seconds_total", "key")
    queued = seen.rates("florence_dispatcher_key_model_seconds_total", "key")
    found = {
        key: Key(
            requests_per_s=asked.get(key, 0.0),
            refused_per_s=refused.get(key, 0.0),
            model=synchronous.get(key, 0.0) + queued.get(key, 0.0),
            running=running.get(key, 0.0),
        )
        for key in {*asked, *refused, *running, *synchronous, *queued}
    }
    most = sorted(found, key=lambda key: (-found[key].requests_per_s, -found[key].model, key))
    return {key: found[key] for key in most[:NUM_KEYS]}


def autoscaling(seen: Window) -> dict[str, dict[str, float]]:
    """What the policies read and decided, by deployment."""
    found: dict[str, dict[str, float]] = {}
    for what in AUTOSCALING:
        for deployment, value in seen.levels(f"florence_autoscaling_{what}", "deployment").items():
            found.setdefault(deployment, {})[what] = value
    return found
