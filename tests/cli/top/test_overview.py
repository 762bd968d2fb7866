"""The numbers on the screen are those of the metrics."""

import pytest

from deployments.cli.top.overview import overview
from deployments.cli.top.window import Window
from tests.cli.top.exporting import Service, said, text_of


@pytest.fixture(params=[False, True], ids=["ingress", "ray"])
def service(request: pytest.FixtureRequest) -> Service:
    """What the Ingress says, and what Ray's exporter says."""
    return Service(by_ray=request.param)


def test_the_model(service: Service) -> None:
    """Its time, the fill of its batch, what it writes."""
    record = service.record.record
    record("florence_inference_slots", 8)
    record("florence_inference_slots_taken", 5)
    record("florence_inference_busy_seconds_total", 7.5)
    record("florence_inference_steps_total", 100)
    record("florence_inference_rows_total", 400)
    record("florence_inference_written_tokens_total", 900)
    record("florence_inference_begun_total", 20, reason="full")
    for _ in range(30):
        record("florence_inference_tokens", 30)
    engine = overview(service.seen()).engine
    assert (engine.replicas, engine.slots, engine.slots_taken) == (1, 8, 5)
    assert engine.busy == pytest.approx(0.75)
    assert engine.fill == pytest.approx(0.5)
    assert engine.images_per_s == pytest.approx(3.0)
    assert engine.tokens_per_s == pytest.approx(90.0)
    assert engine.begun_per_s == {"full": 2.0}


def test_processor_time_for_each_image(service: Service) -> None:
    """By deployment, in the order of a request's path."""
    record = service.record.record
    for name, cpu_s in (("Dispatcher", 1.0), ("Ingress", 2.0), ("store", 0.5)):
        record("florence_process_cpu_seconds_total", cpu_s, deployment=name)
    for _ in range(100):
        record("florence_inference_tokens", 30)
    cpu = overview(service.seen()).cpu
    assert list(cpu) == ["ingress", "dispatcher", "store"]
    assert cpu["ingress"].cores == pytest.approx(0.2)
    assert cpu["ingress"].per_image_s == pytest.approx(0.02)


def test_keys(service: Service) -> None:
    """Those that ask most, with what they were refused and what they use of the model."""
    record = service.record.record
    for number in range(8):
        record("florence_ingress_key_requests_total", 10 * number, key=f"key{number}")
    record("florence_ingress_key_refused_total", 5, key="key7", limit="rate")
    record("florence_ingress_key_refused_total", 5, key="key7", limit="concurrency")
    record("florence_ingress_key_model_seconds_total", 1.0, key="key7")
    record("florence_dispatcher_key_model_seconds_total", 2.0, key="key7")
    record("florence_queue_key_running", 3, key="key7")
    keys = overview(service.seen()).keys
    assert list(keys) == ["key7", "key6", "key5", "key4", "key3"]
    busiest = keys["key7"]
    assert (busiest.requests_per_s, busiest.refused_per_s, busiest.running) == (7.0, 1.0, 3.0)
    assert busiest.model == pytest.approx(0.3)


def test_the_store(service: Service) -> None:
    """Whether all reach it, and the calls that are made most."""
    record = service.record.record
    record("florence_store_up", 1)
    record("florence_store_bytes", 4096)
    for _ in range(20):
        record("florence_store_call_seconds", 0.002, operation="claim")
    record("florence_store_call_seconds", 0.002, operation="submit")
    record("florence_store_errors_total", operation="submit")
    store = overview(service.seen()).store
    assert store.is_up
    assert list(store.calls) == ["claim", "submit"]
    assert store.calls["claim"].per_s == 2.0
    assert (store.errors_per_s, store.size_bytes, store.free_bytes) == (0.1, 4096, None)


def test_one_process_that_misses_the_store_is_told() -> None:
    """The others do not hide it."""
    there, away = Service(), Service()
    there.record.record("florence_store_up", 1)
    away.record.record("florence_store_up", 0)
    texts = [text_of(each._recorder) for each in (there, away)]
    seen = Window(said(0.0, *texts), said(1.0, *texts))
    assert overview(seen).store.is_up is False


def test_queue_webhooks_and_retries(service: Service) -> None:
    """By state, by outcome, by cause."""
    record = service.record.record
    record("florence_queue_requests", 12, state="queued")
    record("florence_queue_oldest_seconds", 3.5)
    record("florence_dispatcher_requests_total", 40, outcome="done")
    record("florence_webhooks", 2, state="dead")
    record("florence_webhooks_overdue_seconds", 9)
    record("florence_ingress_retries_total", cause="replica_died")
    record("florence_dispatcher_retries_total", 2, cause="overloaded")
    seen = overview(service.seen())
    assert (seen.queue.requests, seen.queue.oldest_s) == ({"queued": 12}, 3.5)
    assert seen.queue.outcomes_per_s == {"done": 4.0}
    assert (seen.webhooks.webhooks, seen.webhooks.overdue_s) == ({"dead": 2}, 9)
    assert seen.retries_per_s == {"replica_died": 0.1, "overloaded": 0.2}


def test_the_same_cause_in_two_boxes_is_one() -> None:
    """Synchronous and queued runs are added up."""
    service = Service()
    service.record.record("florence_ingress_retries_total", cause="overloaded")
    service.record.record("florence_dispatcher_retries_total", cause="overloaded")
    assert overview(service.seen()).retries_per_s == {"overloaded": 0.2}


def test_autoscaling() -> None:
    """What Serve's controller says of each deployment, where a policy runs."""
    text = "".join(
        f'# TYPE ray_{name} gauge\nray_{name}{{deployment="Inference"}} {value}\n'
        for name, value in (
            ("florence_autoscaling_wanted_replicas", 3.0),
            ("florence_autoscaling_demand", 20.0),
        )
    )
    seen = overview(Window(said(0.0, text), said(1.0, text)))
    assert seen.autoscaling == {"Inference": {"demand": 20.0, "wanted_replicas": 3.0}}


def test_a_service_that_tells_nothing_is_no_error(service: Service) -> None:
    """What is not known stays unknown."""
    seen = overview(service.seen())
    assert (seen.engine.fill, seen.queue.oldest_s, seen.store.is_up) == (None, None, None)
